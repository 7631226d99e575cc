use fairlead_api::status::Status;
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    api::Api,
    body, metadata, pods,
    request::Request,
    response::{self, Response},
    subject::Subject,
    write::{self, Part, Proposal},
};

/// `pods/binding`: gives a pod to a node, once.
pub(crate) async fn bind(
    api: &Api,
    request: &Request,
    subject: Subject<'_>,
) -> Result<Response, Status> {
    let dry_run = write::is_dry_run(request)?;
    let binding = body::required(request, "Binding")?;
    let node = binding
        .pointer("/target/name")
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Status::bad_request("target.name: Required value"))?;
    let now = jiff::Timestamp::now();
    write::modify(api, &subject, Part::Binding, dry_run, |current| {
        let refuse = |why: String| Status::conflict(subject.resource, subject.name, &why);
        if metadata::is_terminating(current) {
            return Err(refuse(format!(
                "pod {} is being deleted, cannot be assigned to a host",
                subject.name
            )));
        }
        let mut value = current.clone();
        pods::bind(&mut value, node, now).map_err(refuse)?;
        Ok(Proposal {
            value,
            seen: None,
            warnings: Vec::new(),
        })
    })
    .await?;
    Ok(response::success(StatusCode::CREATED, json!({})))
}
