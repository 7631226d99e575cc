use fairlead_api::status::Status;
use http::StatusCode;
use serde_json::json;

use super::delete::{self, DeleteOptions};
use crate::{
    api::Api,
    body, metadata,
    request::Request,
    response::{self, Response},
    subject::Subject,
};

/// `pods/eviction`: a deletion that asks first. Nothing limits disruptions, so it is a graceful
/// deletion.
pub(crate) async fn evict(
    api: &Api,
    request: &Request,
    subject: Subject<'_>,
) -> Result<Response, Status> {
    let eviction = body::required(request, "Eviction")?;
    let name = metadata::name(&eviction);
    if !name.is_empty() && name != subject.name {
        return Err(Status::bad_request(format!(
            "name in URL does not match name in Eviction object: {} != {name}",
            subject.name
        )));
    }
    let mut options = eviction
        .get("deleteOptions")
        .cloned()
        .unwrap_or_else(|| json!({}));
    if crate::write::is_dry_run(request)? {
        options["dryRun"] = json!(["All"]);
    }
    delete::remove(api, &subject, &DeleteOptions::read(&options)?).await?;
    Ok(response::success(StatusCode::CREATED, json!({})))
}
