//! Strategic merge patches: lists of structs merge by a key, and directives beside the data say
//! what else to do.
//!
//! Source: `k8s.io/apimachinery/pkg/util/strategicpatch` and the patch markers of the table of
//! types.

use serde_json::{Map, Value};

use crate::resource::Resource;
use crate::schema::{Field, Shape, Type, type_named};
use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ELEMENT_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object of `resource`.
pub fn strategic_merge(resource: &Resource, base: &Value, patch: &Value) -> Result<Value, Status> {
    let kind = type_named(resource.type_name).expect("a test checks that every resource's exists");
    let (Some(base), Some(patch)) = (base.as_object(), patch.as_object()) else {
        return Err(Status::bad_request(
            "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}",
        ));
    };
    let merged = merge_struct(Some(kind), base, patch).map_err(Status::bad_request)?;
    Ok(Value::Object(merged))
}

/// Merges one level. `kind` is `None` below a map or a type that is not in the table, where plain
/// JSON merge rules hold.
fn merge_struct(
    kind: Option<&'static Type>,
    base: &Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    let mut out = match patch.get(DIRECTIVE).and_then(Value::as_str) {
        None | Some("merge") => base.clone(),
        Some("replace") => Map::new(),
        Some("delete") => return Ok(Map::new()),
        Some(other) => return Err(format!("Unknown patch type found: {other}")),
    };
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let retained = retained
            .as_array()
            .ok_or("unexpected value of $retainKeys directive: not a list")?;
        out.retain(|key, _| retained.iter().any(|kept| kept == key));
    }

    for (key, value) in patch {
        if key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(SET_ELEMENT_ORDER) {
            continue;
        }
        if let Some(list) = key.strip_prefix(DELETE_FROM_LIST) {
            let deleted = value
                .as_array()
                .ok_or("$deleteFromPrimitiveList: not a list")?;
            if let Some(Value::Array(items)) = out.get_mut(list) {
                items.retain(|item| !deleted.contains(item));
            }
            continue;
        }
        if value.is_null() {
            out.remove(key);
            continue;
        }
        let field = kind.and_then(|kind| kind.field(key));
        let order = patch.get(&format!("{SET_ELEMENT_ORDER}{key}"));
        let merged = merge_value(field, out.get(key), value, order)?;
        out.insert(key.clone(), merged);
    }

    // An order without data of its own still reorders what is there.
    for (key, order) in patch {
        let Some(list) = key.strip_prefix(SET_ELEMENT_ORDER) else {
            continue;
        };
        if !patch.contains_key(list)
            && let Some(Value::Array(items)) = out.get_mut(list)
        {
            let field = kind.and_then(|kind| kind.field(list));
            let merge_key = field.and_then(|field| field.merge_key);
            let before = items.clone();
            reorder(items, order, &before, merge_key)?;
        }
    }
    Ok(out)
}

fn merge_value(
    field: Option<&Field>,
    base: Option<&Value>,
    patch: &Value,
    order: Option<&Value>,
) -> Result<Value, String> {
    match patch {
        Value::Object(members) => {
            let nothing = Map::new();
            let base = base.and_then(Value::as_object).unwrap_or(&nothing);
            let kind = match field.map(|field| &field.shape) {
                Some(Shape::Struct(name)) => type_named(name),
                _ => None,
            };
            merge_struct(kind, base, members).map(Value::Object)
        }
        Value::Array(items) => {
            let base = base
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            merge_list(field, base, items, order).map(Value::Array)
        }
        scalar => Ok(scalar.clone()),
    }
}

fn merge_list(
    field: Option<&Field>,
    base: &[Value],
    patch: &[Value],
    order: Option<&Value>,
) -> Result<Vec<Value>, String> {
    let Some(field) = field.filter(|field| field.merge) else {
        return patch.iter().map(without_directives).collect();
    };
    let Some(merge_key) = field.merge_key else {
        let mut out = base.to_vec();
        for item in patch {
            if !out.contains(item) {
                out.push(item.clone());
            }
        }
        if let Some(order) = order {
            reorder(&mut out, order, base, None)?;
        }
        return Ok(out);
    };

    let replaces = |item: &Value| item.get(DIRECTIVE).is_some_and(|d| d == "replace");
    if patch.iter().any(replaces) {
        let kept = patch.iter().filter(|item| {
            // A bare `$patch: replace` only marks the list.
            !(replaces(item) && item.as_object().is_some_and(|members| members.len() == 1))
        });
        return kept.map(without_directives).collect();
    }

    let kind = field.shape.innermost_struct();
    let mut out = base.to_vec();
    for item in patch {
        let members = item
            .as_object()
            .ok_or_else(|| format!("expected an object in a list merged by {merge_key}"))?;
        let key = members.get(merge_key).ok_or_else(|| {
            format!("map: {item} does not contain declared merge key: {merge_key}")
        })?;
        let found = out
            .iter()
            .position(|other| other.get(merge_key) == Some(key));
        if members.get(DIRECTIVE).is_some_and(|d| d == "delete") {
            out.retain(|other| other.get(merge_key) != Some(key));
            continue;
        }
        let nothing = Map::new();
        let before = found.and_then(|at| out[at].as_object()).unwrap_or(&nothing);
        let merged = Value::Object(merge_struct(kind, before, members)?);
        match found {
            Some(at) => out[at] = merged,
            None => out.push(merged),
        }
    }
    if let Some(order) = order {
        reorder(&mut out, order, base, Some(merge_key))?;
    }
    Ok(out)
}

/// Puts the items that `order` names into its order; the server's other items keep their places
/// among themselves, each before the first ordered item that it preceded in `before`.
fn reorder(
    items: &mut Vec<Value>,
    order: &Value,
    before: &[Value],
    merge_key: Option<&str>,
) -> Result<(), String> {
    let order = order.as_array().ok_or("$setElementOrder: not a list")?;
    let identity = |item: &Value| -> Value {
        match merge_key {
            Some(key) => item.get(key).cloned().unwrap_or_default(),
            None => item.clone(),
        }
    };
    let order: Vec<Value> = order.iter().map(identity).collect();
    let rank = |item: &Value| order.iter().position(|other| *other == identity(item));
    let was_at = |item: &Value| {
        let item = identity(item);
        before.iter().position(|other| identity(other) == item)
    };

    let (mut ordered, others): (Vec<Value>, Vec<Value>) =
        items.drain(..).partition(|item| rank(item).is_some());
    ordered.sort_by_key(rank);
    let mut ordered = ordered.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    while let (Some(next), Some(other)) = (ordered.peek(), others.peek()) {
        let other_first = match (was_at(other), was_at(next)) {
            (Some(other), Some(next)) => other < next,
            _ => false,
        };
        items.extend(if other_first {
            others.next()
        } else {
            ordered.next()
        });
    }
    items.extend(ordered);
    items.extend(others);
    Ok(())
}

/// What a patch adds as new must not carry directives along.
fn without_directives(value: &Value) -> Result<Value, String> {
    match value {
        Value::Object(members) => merge_struct(None, &Map::new(), members).map(Value::Object),
        other => Ok(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::{DEPLOYMENT, POD, SERVICE};

    fn check(resource: &Resource, base: Value, patch: Value, expect: Value) {
        assert_eq!(
            strategic_merge(resource, &base, &patch),
            Ok(expect),
            "{patch}"
        );
    }

    fn pod(containers: Value) -> Value {
        json!({ "spec": { "containers": containers } })
    }

    #[test]
    fn lists_with_a_merge_key_merge_item_by_item() {
        check(
            &POD,
            pod(json!([{ "name": "a", "image": "1" }, { "name": "b", "image": "1" }])),
            pod(json!([{ "name": "b", "image": "2" }, { "name": "c", "image": "3" }])),
            pod(json!([
                { "name": "a", "image": "1" },
                { "name": "b", "image": "2" },
                { "name": "c", "image": "3" },
            ])),
        );
        check(
            &SERVICE,
            json!({ "spec": { "ports": [{ "port": 80, "name": "a" }] } }),
            json!({ "spec": { "ports": [{ "port": 80, "targetPort": 8080 }] } }),
            json!({ "spec": { "ports": [{ "port": 80, "name": "a", "targetPort": 8080 }] } }),
        );
    }

    #[test]
    fn lists_without_one_are_replaced() {
        check(
            &POD,
            pod(json!([{ "name": "a", "args": ["x", "y"] }])),
            pod(json!([{ "name": "a", "args": ["z"] }])),
            pod(json!([{ "name": "a", "args": ["z"] }])),
        );
    }

    #[test]
    fn directives_delete_and_replace() {
        check(
            &POD,
            pod(json!([{ "name": "a" }, { "name": "b" }])),
            pod(json!([{ "name": "a", "$patch": "delete" }])),
            pod(json!([{ "name": "b" }])),
        );
        check(
            &POD,
            pod(json!([{ "name": "a" }, { "name": "b" }])),
            pod(json!([{ "$patch": "replace" }, { "name": "c" }])),
            pod(json!([{ "name": "c" }])),
        );
        check(
            &POD,
            json!({ "metadata": { "labels": { "a": "1" } } }),
            json!({ "metadata": { "labels": { "$patch": "replace", "b": "2" } } }),
            json!({ "metadata": { "labels": { "b": "2" } } }),
        );
    }

    #[test]
    fn retained_keys_drop_the_others() {
        check(
            &DEPLOYMENT,
            json!({ "spec": { "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1 } } } }),
            json!({ "spec": { "strategy": { "$retainKeys": ["type"], "type": "Recreate" } } }),
            json!({ "spec": { "strategy": { "type": "Recreate" } } }),
        );
    }

    #[test]
    fn primitive_lists_merge_as_sets_and_delete_by_value() {
        check(
            &POD,
            json!({ "metadata": { "finalizers": ["a", "b"] } }),
            json!({ "metadata": { "finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"] } }),
            json!({ "metadata": { "finalizers": ["b", "c"] } }),
        );
    }

    #[test]
    fn the_order_directive_orders_and_keeps_what_the_server_added() {
        check(
            &POD,
            pod(json!([{ "name": "sidecar" }, { "name": "a" }, { "name": "b" }])),
            json!({ "spec": {
                "$setElementOrder/containers": [{ "name": "b" }, { "name": "a" }, { "name": "new" }],
                "containers": [{ "name": "new", "image": "x" }],
            } }),
            pod(json!([
                { "name": "sidecar" },
                { "name": "b" },
                { "name": "a" },
                { "name": "new", "image": "x" },
            ])),
        );
        check(
            &POD,
            pod(json!([{ "name": "a" }, { "name": "b" }])),
            json!({ "spec": { "$setElementOrder/containers": [{ "name": "b" }, { "name": "a" }] } }),
            pod(json!([{ "name": "b" }, { "name": "a" }])),
        );
    }

    #[test]
    fn null_removes_and_a_missing_merge_key_is_refused() {
        check(
            &DEPLOYMENT,
            json!({ "spec": { "paused": true, "replicas": 1 } }),
            json!({ "spec": { "paused": null } }),
            json!({ "spec": { "replicas": 1 } }),
        );
        let refused = strategic_merge(&POD, &pod(json!([])), &pod(json!([{ "image": "x" }])));
        assert_eq!(refused.expect_err("no key").code, 400);
    }
}
