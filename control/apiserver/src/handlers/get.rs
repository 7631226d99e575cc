use fairlead_api::status::Status;
use http::StatusCode;

use crate::{
    api::Api,
    request::Request,
    response::{Presentation, Response},
    revision::{self, Freshness},
    subject::Subject,
};

/// One object.
pub(crate) async fn get(
    api: &Api,
    request: &Request,
    subject: Subject<'_>,
) -> Result<Response, Status> {
    let presentation = Presentation::of(request)?;
    let freshness = Freshness::of_get(&request.query)?;
    let snapshot = revision::read(api, freshness).await?;
    let entry = snapshot
        .get(&subject.key())
        .ok_or_else(|| subject.not_found())?;
    presentation.stored(StatusCode::OK, subject.resource, &entry.value)
}
