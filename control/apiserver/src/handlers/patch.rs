use fairlead_api::{
    decode,
    patch::{json_patch, merge, strategic_merge},
    resource::Resource,
    status::Status,
};
use http::StatusCode;
use serde_json::Value;

use crate::{
    api::Api,
    body, metadata,
    request::Request,
    response::{Presentation, Response},
    subject::Subject,
    write::{self, Part, Proposal},
};

/// The kinds of patch that are understood.
pub(crate) const MEDIA_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// A patch that was read but not yet applied.
pub(crate) enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own, which merges lists by keys.
    Strategic(Value),
}

impl Patch {
    pub(crate) fn of(request: &Request) -> Result<Self, Status> {
        let kind = match body::media_type(request) {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" => Self::Strategic,
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                let mut status = Status::unsupported_media_type(MEDIA_TYPES);
                status.message =
                    "server-side apply is not served: use kubectl apply --server-side=false"
                        .to_owned();
                return Err(status);
            }
            _ => return Err(Status::unsupported_media_type(MEDIA_TYPES)),
        };
        serde_json::from_slice(&request.body)
            .map(kind)
            .map_err(|error| Status::bad_request(format!("the patch is not valid JSON: {error}")))
    }

    /// The patched document.
    pub(crate) fn apply(
        &self,
        resource: Option<&'static Resource>,
        base: &Value,
    ) -> Result<Value, Status> {
        match self {
            Self::Json(patch) => json_patch(base, patch),
            Self::Merge(patch) => merge(base, patch),
            Self::Strategic(patch) => match resource {
                Some(resource) => strategic_merge(resource, base, patch),
                None => merge(base, patch),
            },
        }
    }

    /// The `resourceVersion` the patch itself names: a precondition. A JSON patch has `test` for
    /// that, and its result may name one too.
    fn seen(&self, patched: &Value) -> Option<String> {
        match self {
            Self::Merge(patch) | Self::Strategic(patch) => {
                metadata::text(patch, "resourceVersion").map(str::to_owned)
            }
            Self::Json(patch) => {
                let names_revision = patch.as_array().into_iter().flatten().any(|operation| {
                    operation.get("path").and_then(Value::as_str)
                        == Some("/metadata/resourceVersion")
                });
                names_revision
                    .then(|| metadata::text(patched, "resourceVersion").map(str::to_owned))
                    .flatten()
            }
        }
    }
}

/// Changes an object, or its part, by a patch.
pub(crate) async fn patch(
    api: &Api,
    request: &Request,
    subject: Subject<'_>,
    part: Part,
) -> Result<Response, Status> {
    let presentation = Presentation::of(request)?;
    let dry_run = write::is_dry_run(request)?;
    let validation = body::field_validation(request)?;
    let patch = Patch::of(request)?;
    let resource = subject.resource;
    let written = write::modify(api, &subject, part, dry_run, |current| {
        let patched = patch.apply(Some(resource), current)?;
        let seen = patch.seen(&patched);
        if metadata::name(&patched) != subject.name {
            return Err(Status::bad_request(
                "the name of the object must not be changed by a patch",
            ));
        }
        let decoded = decode::value(resource, patched, validation)?;
        Ok(Proposal {
            value: decoded.value,
            seen,
            warnings: decoded.warnings,
        })
    })
    .await?;
    written.respond(presentation, StatusCode::OK, resource)
}
