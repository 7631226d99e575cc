use fairlead_api::{
    resource::ScalePaths,
    status::{FieldError, Status},
};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::patch::Patch;
use crate::{
    api::Api,
    body, metadata,
    request::Request,
    response::{self, Response},
    subject::Subject,
    write::{self, Part, Proposal},
};

/// `/scale`: an object's size, as autoscaling/v1 Scale, whatever the object looks like.
pub(crate) async fn scale(
    api: &Api,
    request: &Request,
    subject: Subject<'_>,
    paths: ScalePaths,
) -> Result<Response, Status> {
    let object = match request.method {
        Method::PUT => put(api, request, &subject, paths).await?,
        Method::PATCH => patch(api, request, &subject, paths).await?,
        _ => {
            let snapshot = api.latest().await?;
            let entry = snapshot
                .get(&subject.key())
                .ok_or_else(|| subject.not_found())?;
            response::decode(&entry.value)?
        }
    };
    Ok(response::json_value(StatusCode::OK, &of(&object, paths)))
}

async fn put(
    api: &Api,
    request: &Request,
    subject: &Subject<'_>,
    paths: ScalePaths,
) -> Result<Value, Status> {
    let dry_run = write::is_dry_run(request)?;
    let scale = body::required(request, "Scale")?;
    let name = metadata::name(&scale);
    if !name.is_empty() && name != subject.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            subject.name
        )));
    }
    let seen = metadata::text(&scale, "resourceVersion").map(str::to_owned);
    let written = write::modify(api, subject, Part::Whole, dry_run, |current| {
        propose(subject, current, &scale, seen.clone(), paths)
    });
    written.await?.value()
}

async fn patch(
    api: &Api,
    request: &Request,
    subject: &Subject<'_>,
    paths: ScalePaths,
) -> Result<Value, Status> {
    let dry_run = write::is_dry_run(request)?;
    let patch = Patch::of(request)?;
    let written = write::modify(api, subject, Part::Whole, dry_run, |current| {
        let before = of(current, paths);
        let scale = patch.apply(None, &before)?;
        let seen = metadata::text(&scale, "resourceVersion")
            .filter(|seen| metadata::text(&before, "resourceVersion") != Some(seen))
            .map(str::to_owned);
        propose(subject, current, &scale, seen, paths)
    });
    written.await?.value()
}

fn propose(
    subject: &Subject<'_>,
    current: &Value,
    scale: &Value,
    seen: Option<String>,
    paths: ScalePaths,
) -> Result<Proposal, Status> {
    let replicas = scale
        .pointer("/spec/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if replicas < 0 {
        let error = FieldError::invalid(
            "spec.replicas",
            replicas,
            "must be greater than or equal to 0",
        );
        return Err(Status::invalid_kind(
            "autoscaling",
            "Scale",
            subject.name,
            vec![error],
        ));
    }
    let mut value = current.clone();
    set(&mut value, paths.spec_replicas, replicas.into());
    Ok(Proposal {
        value,
        seen,
        warnings: Vec::new(),
    })
}

/// The Scale of an object.
fn of(object: &Value, paths: ScalePaths) -> Value {
    let count = |pointer| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(text) = metadata::text(object, field) {
            metadata.insert(field.to_owned(), text.into());
        }
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": { "replicas": count(paths.spec_replicas) },
        "status": {
            "replicas": count(paths.status_replicas),
            "selector": object.pointer(paths.selector).map(written_selector).unwrap_or_default(),
        },
    })
}

/// A label selector as a query parameter has it.
fn written_selector(selector: &Value) -> String {
    let strings = |value: Option<&Value>| -> Vec<String> {
        let list = value.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let mut terms: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for expression in expressions.into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = strings(expression.get("values")).join(",");
        terms.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.sort();
    terms.join(",")
}

/// Sets the value at a JSON pointer, making the objects on the way.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut place = object;
    let mut segments = pointer.trim_start_matches('/').split('/').peekable();
    while let Some(segment) = segments.next() {
        if segments.peek().is_none() {
            place[segment] = value;
            return;
        }
        metadata::member_mut(place, segment);
        place = &mut place[segment];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: ScalePaths = ScalePaths {
        spec_replicas: "/spec/replicas",
        status_replicas: "/status/replicas",
        selector: "/spec/selector",
    };

    #[test]
    fn scale_shows_counts_and_the_selector_as_text() {
        let object = json!({
            "metadata": {"name": "web", "resourceVersion": "7"},
            "spec": {"replicas": 3, "selector": {
                "matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}],
            }},
        });
        let scale = of(&object, PATHS);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"]["replicas"], 0);
        assert_eq!(scale["status"]["selector"], "app=web,tier in (a,b)");
        assert_eq!(
            scale["metadata"],
            json!({"name": "web", "resourceVersion": "7"})
        );
    }

    #[test]
    fn size_is_set_where_there_was_none() {
        let mut object = json!({});
        set(&mut object, "/spec/replicas", 2.into());
        assert_eq!(object, json!({"spec": {"replicas": 2}}));
    }
}
