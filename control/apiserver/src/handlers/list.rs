use fairlead_api::{Revision, resource::Resource, status::Status, table};
use fairlead_store::{Entry, Key, RevisionError, Snapshot};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{
    accept::Form,
    api::Api,
    continuation::Continuation,
    request::Request,
    response::{self, Presentation, Response},
    revision::{self, Freshness},
    selection::Selection,
};

/// A page of a collection, or all of it.
pub(crate) async fn list(
    api: &Api,
    request: &Request,
    resource: &'static Resource,
    namespace: Option<&str>,
) -> Result<Response, Status> {
    let presentation = Presentation::of(request)?;
    let selection = Selection::parse(resource, &request.query)?;
    let limit = request.query.number("limit")?.filter(|&limit| limit > 0);
    let prefix = Key::prefix(resource.group, resource.plural, namespace);

    let (snapshot, after) = match request.query.get("continue") {
        None => {
            let freshness = Freshness::of_list(&request.query, limit.is_some())?;
            (revision::read(api, freshness).await?, None)
        }
        Some(token) => {
            if revision::parse(&request.query)?.is_some_and(|revision| revision != Revision(0)) {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Continuation::decode(token, &prefix)?;
            match continued(api, &token).await? {
                Ok(snapshot) => (snapshot, Some(token.after)),
                Err(expired) => return Ok(expired),
            }
        }
    };
    let page = Page::read(&snapshot, &prefix, after.as_deref(), &selection, limit);
    write(presentation, resource, snapshot.revision(), &page)
}

/// The snapshot that a list began with; or, when it is no longer kept, the answer that says so and
/// carries a token for the rest as it is now.
async fn continued(api: &Api, token: &Continuation) -> Result<Result<Snapshot, Response>, Status> {
    let Some(revision) = token.revision else {
        return Ok(Ok(api.latest().await?));
    };
    if api.store.snapshot().revision() < revision {
        api.latest().await?;
    }
    match api.store.snapshot_at(revision) {
        Ok(snapshot) => Ok(Ok(snapshot)),
        Err(RevisionError::Future { current }) => {
            Err(Status::too_large_resource_version(revision, current))
        }
        Err(RevisionError::Expired { .. }) => {
            let status = Status::expired(
                "The provided continue parameter is too old to display a consistent list result. \
                 You can start a new list without the continue parameter, or use the continue token \
                 in this response to retrieve the remainder of the results. Continuing with the \
                 provided token results in an inconsistent list - objects that were created, \
                 modified, or deleted between the time the first chunk was returned and now may \
                 show up in the list.",
            );
            let rest = Continuation {
                revision: None,
                after: token.after.clone(),
            };
            let mut body = status.to_json();
            body["metadata"] = json!({ "continue": rest.encode() });
            Ok(Err(response::json_value(StatusCode::GONE, &body)))
        }
    }
}

/// What one answer holds of a collection.
struct Page<'a> {
    entries: Vec<&'a Entry>,
    /// Where the next page begins, and how many objects are behind, when that is known: nobody
    /// counts what a selector would leave.
    next: Option<(Continuation, Option<usize>)>,
}

impl<'a> Page<'a> {
    fn read(
        snapshot: &'a Snapshot,
        prefix: &str,
        after: Option<&str>,
        selection: &Selection,
        limit: Option<u64>,
    ) -> Self {
        let limit = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        let mut matching = snapshot
            .range(prefix, after)
            .filter(|entry| selection.matches(&entry.index));
        let entries: Vec<&Entry> = matching.by_ref().take(limit).collect();
        let more = entries.len() == limit && matching.next().is_some();
        let next = entries.last().filter(|_| more).map(|last| {
            let after = last.key.as_str();
            let remaining = selection
                .is_all()
                .then(|| snapshot.count(prefix, Some(after)));
            let token = Continuation {
                revision: Some(snapshot.revision()),
                after: after.to_owned(),
            };
            (token, remaining)
        });
        Self { entries, next }
    }

    /// `ListMeta`.
    fn metadata(&self, revision: Revision) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
        if let Some((token, remaining)) = &self.next {
            metadata.insert("continue".to_owned(), token.encode().into());
            if let Some(remaining) = remaining {
                metadata.insert("remainingItemCount".to_owned(), (*remaining).into());
            }
        }
        Value::Object(metadata)
    }
}

fn write(
    presentation: Presentation,
    resource: &'static Resource,
    revision: Revision,
    page: &Page<'_>,
) -> Result<Response, Status> {
    let metadata = page.metadata(revision);
    let decoded = || -> Result<Vec<Value>, Status> {
        page.entries
            .iter()
            .map(|entry| response::decode(&entry.value))
            .collect()
    };
    let body = match presentation.form {
        Form::Object => {
            let size: usize = page.entries.iter().map(|entry| entry.value.len() + 1).sum();
            let mut body = Vec::with_capacity(size + 256);
            let head = format!(
                r#"{{"kind":"{}","apiVersion":"{}","metadata":{metadata},"items":["#,
                resource.list_kind(),
                resource.api_version()
            );
            body.extend_from_slice(head.as_bytes());
            for (index, entry) in page.entries.iter().enumerate() {
                if index > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(&entry.value);
            }
            body.extend_from_slice(b"]}\n");
            body
        }
        Form::Table => table::render(
            resource,
            &decoded()?,
            jiff::Timestamp::now(),
            presentation.include,
            metadata,
        )
        .to_string()
        .into_bytes(),
        Form::Metadata => {
            let items: Vec<Value> = decoded()?.into_iter().map(response::partial).collect();
            json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": items,
            })
            .to_string()
            .into_bytes()
        }
    };
    Ok(response::whole(StatusCode::OK, "application/json", body))
}
