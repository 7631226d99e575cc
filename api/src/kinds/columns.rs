//! Columns that several kinds share, and the pieces cells are made of.

use jiff::Timestamp;
use serde_json::Value;

use crate::resource::Column;
use crate::table::age;

/// What a kind without columns of its own shows.
pub(crate) const NAME_AND_AGE: &[Column] = &[NAME, AGE];

/// The object's name.
pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    priority: 0,
    description: "Name must be unique within a namespace.",
    cell: |object, _| text(object, "/metadata/name").into(),
};

/// How long ago it was created.
pub(super) const AGE: Column = column("Age", |object, now| {
    age(object.pointer("/metadata/creationTimestamp"), now).into()
});

/// Text that is always shown.
pub(super) const fn column(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        kind: "string",
        priority: 0,
        description: "",
        cell,
    }
}

/// A whole number that is always shown.
pub(super) const fn count(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        kind: "integer",
        ..column(name, cell)
    }
}

/// Text that only `-o wide` shows.
pub(super) const fn wide(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        priority: 1,
        ..column(name, cell)
    }
}

/// The text at a pointer, or nothing.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The number at a pointer, or 0.
pub(super) fn number(object: &Value, pointer: &str) -> i64 {
    object
        .pointer(pointer)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

/// The items at a pointer, or none.
pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Or `<none>`, for what is empty.
pub(super) fn or_none(text: impl Into<String>) -> Value {
    let text = text.into();
    if text.is_empty() {
        "<none>".into()
    } else {
        text.into()
    }
}

/// `a=1,b=2`, sorted; `<none>` when there are none.
pub(super) fn labels(object: &Value, pointer: &str) -> Value {
    let members = object.pointer(pointer).and_then(Value::as_object);
    let mut pairs: Vec<String> = members
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    or_none(pairs.join(","))
}

/// A label selector object in its query form.
pub(super) fn selector(object: &Value, pointer: &str) -> Value {
    let parsed = object
        .pointer(pointer)
        .and_then(|selector| serde_json::from_value(selector.clone()).ok())
        .and_then(|selector| crate::selector::LabelSelector::from_object(&selector).ok());
    or_none(
        parsed
            .map(|selector| selector.to_string())
            .unwrap_or_default(),
    )
}

/// `a,b`: one field of the containers of a pod spec.
pub(super) fn containers(object: &Value, pointer: &str, field: &str) -> Value {
    let names: Vec<&str> = list(object, pointer)
        .iter()
        .map(|container| container[field].as_str().unwrap_or_default())
        .collect();
    names.join(",").into()
}

/// The first three, and how many more there are.
pub(super) fn first_three(items: &[String]) -> String {
    match items.split_at_checked(3) {
        Some((first, rest)) if !rest.is_empty() => {
            format!("{} + {} more...", first.join(","), rest.len())
        }
        _ => items.join(","),
    }
}
