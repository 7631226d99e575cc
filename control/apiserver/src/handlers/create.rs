use fairlead_api::{resource::Resource, status::Status};
use http::StatusCode;

use crate::{
    api::Api,
    body,
    request::Request,
    response::{Presentation, Response},
    write::{self, Written},
};

/// A new object.
pub(crate) async fn create(
    api: &Api,
    request: &Request,
    resource: &'static Resource,
    namespace: Option<&str>,
) -> Result<Response, Status> {
    let presentation = Presentation::of(request)?;
    let dry_run = write::is_dry_run(request)?;
    let decoded = body::object(request, resource)?;
    let mut warnings = decoded.warnings;
    warnings.extend((resource.warnings)(&decoded.value));
    let outcome = write::create(api, resource, namespace, decoded.value, dry_run).await?;
    let written = Written { outcome, warnings };
    written.respond(presentation, StatusCode::CREATED, resource)
}
