use fairlead_api::status::Status;
use http::StatusCode;

use crate::{
    api::Api,
    body, metadata,
    request::Request,
    response::{Presentation, Response},
    subject::Subject,
    write::{self, Part, Proposal},
};

/// Replaces an object, or its part, by the request's body.
pub(crate) async fn update(
    api: &Api,
    request: &Request,
    subject: Subject<'_>,
    part: Part,
) -> Result<Response, Status> {
    let presentation = Presentation::of(request)?;
    let dry_run = write::is_dry_run(request)?;
    let decoded = body::object(request, subject.resource)?;
    let name = metadata::name(&decoded.value);
    if !name.is_empty() && name != subject.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            subject.name
        )));
    }
    write::check_namespace(&decoded.value, subject.namespace)?;
    let seen = metadata::text(&decoded.value, "resourceVersion").map(str::to_owned);
    let written = write::modify(api, &subject, part, dry_run, |_| {
        Ok(Proposal {
            value: decoded.value.clone(),
            seen: seen.clone(),
            warnings: decoded.warnings.clone(),
        })
    })
    .await?;
    written.respond(presentation, StatusCode::OK, subject.resource)
}
