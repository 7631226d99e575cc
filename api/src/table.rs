//! `Table`: what `kubectl get` prints, rendered by the server.

mod duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub use duration::{age, human_duration};

use crate::resource::Resource;
use crate::status::Status;

/// What each row carries besides its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata, as `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the `includeObject` parameter.
    pub fn parse(parameter: Option<&str>) -> Result<Self, Status> {
        match parameter.unwrap_or_default() {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(Status::bad_request(format!(
                "unrecognized includeObject value: \"{other}\""
            ))),
        }
    }
}

/// A table of `items`. `list_metadata` is the list's `metadata` (resourceVersion, continue,
/// remainingItemCount), or that of the one object shown.
pub fn render(
    resource: &Resource,
    items: &[Value],
    now: Timestamp,
    include_object: IncludeObject,
    list_metadata: Value,
) -> Value {
    let rows: Vec<Value> = items
        .iter()
        .map(|item| row(resource, item, now, include_object))
        .collect();
    table(list_metadata, column_definitions(resource), rows)
}

/// The table of one row that a watch event carries. Only the first event of a watch names the
/// columns (`with_columns`); the client keeps them.
pub fn render_event(
    resource: &Resource,
    item: &Value,
    now: Timestamp,
    include_object: IncludeObject,
    with_columns: bool,
) -> Value {
    let columns = if with_columns {
        column_definitions(resource)
    } else {
        Value::Null
    };
    let revision = item.pointer("/metadata/resourceVersion");
    let metadata = json!({ "resourceVersion": revision.unwrap_or(&Value::from("")) });
    table(
        metadata,
        columns,
        vec![row(resource, item, now, include_object)],
    )
}

/// One row.
pub fn row(
    resource: &Resource,
    item: &Value,
    now: Timestamp,
    include_object: IncludeObject,
) -> Value {
    let cells: Vec<Value> = columns(resource)
        .iter()
        .map(|column| (column.cell)(item, now))
        .collect();
    let mut row = Map::from_iter([("cells".to_owned(), Value::Array(cells))]);
    let object = match include_object {
        IncludeObject::None => return Value::Object(row),
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": item.get("metadata").unwrap_or(&json!({})),
        }),
        IncludeObject::Object => item.clone(),
    };
    row.insert("object".to_owned(), object);
    Value::Object(row)
}

fn table(metadata: Value, columns: Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn column_definitions(resource: &Resource) -> Value {
    let columns = columns(resource).iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": if column.name == "Name" { "name" } else { "" },
            "description": column.description,
            "priority": column.priority,
        })
    });
    Value::Array(columns.collect())
}

/// A resource without columns of its own shows name and age.
fn columns(resource: &Resource) -> &'static [crate::resource::Column] {
    if resource.columns.is_empty() {
        crate::kinds::columns::NAME_AND_AGE
    } else {
        resource.columns
    }
}

#[cfg(test)]
mod tests;
