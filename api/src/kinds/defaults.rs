//! The pieces defaults are made of.

use serde_json::{Map, Value};

/// The object at `key`, created if absent.
pub(super) fn object<'a>(parent: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let members = parent.as_object_mut()?;
    let child = members
        .entry(key)
        .or_insert_with(|| Value::Object(Map::new()));
    Some(child)
}

/// Sets a member that is absent or empty text.
pub(super) fn set(parent: &mut Value, key: &str, value: impl Into<Value>) {
    let Some(members) = parent.as_object_mut() else {
        return;
    };
    let missing = members
        .get(key)
        .is_none_or(|old| old.is_null() || old.as_str() == Some(""));
    if missing {
        members.insert(key.to_owned(), value.into());
    }
}

/// Sets a number that is absent or, as Go's non-pointer fields mean it, 0.
pub(super) fn set_number(parent: &mut Value, key: &str, value: i64) {
    if parent[key].as_i64().is_none_or(|old| old == 0)
        && let Some(members) = parent.as_object_mut()
    {
        members.insert(key.to_owned(), value.into());
    }
}

/// The items of a list, or none.
pub(super) fn items<'a>(
    parent: &'a mut Value,
    key: &str,
) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    let list = parent.get_mut(key).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}
