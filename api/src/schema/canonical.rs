use serde_json::{Map, Value};

use super::{Scalar, Shape, Type, type_named};
use crate::quantity::Quantity;

/// Puts every quantity of an object into its canonical form (`1000m` is `1`), as upstream does
/// when it decodes.
pub fn canonicalize(kind: &Type, members: &mut Map<String, Value>) {
    for (key, value) in members {
        if let Some(field) = kind.field(key) {
            canonicalize_value(&field.shape, value);
        }
    }
}

fn canonicalize_value(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Scalar(Scalar::Quantity), value) => {
            if let Ok(quantity) = Quantity::from_json(value) {
                *value = quantity.to_string().into();
            }
        }
        (Shape::Struct(name), Value::Object(members)) => {
            if let Some(kind) = type_named(name) {
                canonicalize(kind, members);
            }
        }
        (Shape::List(inner), Value::Array(items)) => {
            for item in items {
                canonicalize_value(inner, item);
            }
        }
        (Shape::Map(inner), Value::Object(members)) => {
            for member in members.values_mut() {
                canonicalize_value(inner, member);
            }
        }
        (Shape::Scalar(_) | Shape::Struct(_) | Shape::List(_) | Shape::Map(_), _) => {}
    }
}
