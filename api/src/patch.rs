//! The three kinds of PATCH bodies: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and
//! Kubernetes' strategic merge patch.

mod strategic;

use serde_json::Value;

pub use strategic::strategic_merge;

use crate::status::Status;

/// Applies a JSON merge patch: objects merge, `null` removes, all else replaces.
pub fn merge(base: &Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request(
            "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}",
        ));
    }
    let mut merged = base.clone();
    json_patch::merge(&mut merged, patch);
    Ok(merged)
}

/// Applies a JSON patch; an operation that does not apply is 422.
pub fn json_patch(base: &Value, patch: &Value) -> Result<Value, Status> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let mut patched = base.clone();
    json_patch::patch(&mut patched, &patch).map_err(|error| Status {
        code: 422,
        reason: "Invalid",
        message: format!("the server rejected our request due to an error in our request: {error}"),
        details: None,
    })?;
    Ok(patched)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_merges_objects_and_removes_nulls() {
        let base = json!({ "metadata": { "labels": { "a": "1", "b": "2" } }, "spec": [1, 2] });
        let patch = json!({ "metadata": { "labels": { "a": null, "c": "3" } }, "spec": [3] });
        assert_eq!(
            merge(&base, &patch),
            Ok(json!({ "metadata": { "labels": { "b": "2", "c": "3" } }, "spec": [3] }))
        );
        assert_eq!(merge(&base, &json!([1])).expect_err("refused").code, 400);
    }

    #[test]
    fn a_json_patch_that_does_not_apply_is_unprocessable() {
        let base = json!({ "spec": { "replicas": 1 } });
        let replace = json!([{ "op": "replace", "path": "/spec/replicas", "value": 3 }]);
        assert_eq!(
            json_patch(&base, &replace),
            Ok(json!({ "spec": { "replicas": 3 } }))
        );
        let test = json!([{ "op": "test", "path": "/spec/replicas", "value": 2 }]);
        assert_eq!(json_patch(&base, &test).expect_err("failed test").code, 422);
        let absent = json!([{ "op": "remove", "path": "/spec/paused" }]);
        assert_eq!(json_patch(&base, &absent).expect_err("absent").code, 422);
        let nonsense = json!([{ "op": "shuffle" }]);
        assert_eq!(
            json_patch(&base, &nonsense).expect_err("no operation").code,
            400
        );
    }
}
