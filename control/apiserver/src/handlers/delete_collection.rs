use fairlead_api::{resource::Resource, status::Status};
use fairlead_store::Key;
use http::StatusCode;
use serde_json::{Value, json};

use super::delete::{self, DeleteOptions};
use crate::{
    api::Api,
    metadata,
    request::Request,
    response::{self, Response},
    selection::Selection,
    subject::Subject,
    write::Outcome,
};

/// Deletes every object of a collection that the selectors match, and answers with them.
pub(crate) async fn delete_collection(
    api: &Api,
    request: &Request,
    resource: &'static Resource,
    namespace: Option<&str>,
) -> Result<Response, Status> {
    let selection = Selection::parse(resource, &request.query)?;
    let options = DeleteOptions::of(request)?.without_preconditions();
    let prefix = Key::prefix(resource.group, resource.plural, namespace);
    let snapshot = api.latest().await?;
    let mut items = Vec::new();
    for entry in snapshot.range(&prefix, None) {
        if !selection.matches(&entry.index) {
            continue;
        }
        let object = response::decode(&entry.value)?;
        let subject = Subject {
            resource,
            namespace: metadata::text(&object, "namespace"),
            name: entry.key.name(),
        };
        match delete::remove(api, &subject, &options).await {
            Ok(outcome) => items.push(shown(outcome)?),
            // Somebody else was faster, which is as good.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let list = json!({
        "kind": resource.list_kind(),
        "apiVersion": resource.api_version(),
        "metadata": { "resourceVersion": api.store.snapshot().revision().to_string() },
        "items": items,
    });
    Ok(response::json_value(StatusCode::OK, &list))
}

fn shown(outcome: Outcome) -> Result<Value, Status> {
    match outcome {
        Outcome::Stored(entry) => response::decode(&entry.value),
        Outcome::Unstored(object) | Outcome::Removed(object) => Ok(object),
    }
}
