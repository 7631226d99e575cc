//! What types the API's objects are made of: one compact table of facts (`types.txt`, written by
//! `cargo xtask api-types` from the API's own Go sources) that serves decoding protobuf, finding unknown
//! fields and wrong types, strategic merge patches and OpenAPI documents.

mod canonical;
mod check;
mod parse;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use canonical::canonicalize;
pub use check::{Findings, TypeError, check};

static TYPES: LazyLock<HashMap<&'static str, Type>> =
    LazyLock::new(|| parse::types(include_str!("schema/types.txt")));

/// A struct of the API.
#[derive(Debug)]
pub struct Type {
    /// `core.v1.Container`.
    pub name: &'static str,
    /// Its fields in declaration order, inlined structs as one field each.
    pub fields: Vec<Field>,
}

/// A field of a struct.
#[derive(Debug)]
pub struct Field {
    /// The protobuf tag; 0 when the field is not in protobuf.
    pub tag: u32,
    /// The JSON name; `None` when the struct behind it is inlined in JSON.
    pub name: Option<&'static str>,
    /// What it holds.
    pub shape: Shape,
    /// Whether absent and zero differ.
    pub pointer: bool,
    /// Whether it is serialised even when zero.
    pub always: bool,
    /// Whether an object must give it.
    pub required: bool,
    /// Whether strategic merge patches merge it rather than replace it.
    pub merge: bool,
    /// Whether `$retainKeys` applies (`retainKeys` strategy).
    pub retain_keys: bool,
    /// For a list of structs that is merged: the field that identifies an item.
    pub merge_key: Option<&'static str>,
    /// For a list: `set`, `atomic`, or `map` with its keys.
    pub list: Option<ListType>,
    /// Whether a map or a struct is replaced as a whole.
    pub atomic: bool,
}

/// How the items of a list relate, for server-side apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// No item twice.
    Set,
    /// One value.
    Atomic,
    /// Items identified by these fields.
    Map(Vec<&'static str>),
}

/// The shape of a field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A leaf.
    Scalar(Scalar),
    /// A struct, by name.
    Struct(&'static str),
    /// A list.
    List(Box<Shape>),
    /// A map with string keys.
    Map(Box<Shape>),
}

/// The leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// A boolean.
    Bool,
    /// 32 bits, signed.
    Int32,
    /// 64 bits, signed.
    Int64,
    /// A double.
    Float64,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339, to the second.
    Time,
    /// RFC 3339, to the microsecond.
    MicroTime,
    /// See [`crate::quantity`].
    Quantity,
    /// A number or text.
    IntOrString,
    /// Any JSON.
    Raw,
}

/// The type of that name.
pub fn type_named(name: &str) -> Option<&'static Type> {
    TYPES.get(name)
}

impl Type {
    /// The field of that JSON name, its own or an inlined struct's.
    pub fn field(&self, json_name: &str) -> Option<&'static Field> {
        let fields: &'static [Field] = &TYPES.get(self.name)?.fields;
        fields
            .iter()
            .find_map(|field| match (field.name, &field.shape) {
                (Some(name), _) => (name == json_name).then_some(field),
                (None, Shape::Struct(inlined)) => type_named(inlined)?.field(json_name),
                (None, Shape::Scalar(_) | Shape::List(_) | Shape::Map(_)) => None,
            })
    }

    /// All fields with a JSON name, those of inlined structs in their place.
    pub fn json_fields(&self) -> Vec<&Field> {
        self.fields
            .iter()
            .flat_map(|field| match (field.name, &field.shape) {
                (None, Shape::Struct(inlined)) => {
                    type_named(inlined).map_or_else(Vec::new, Type::json_fields)
                }
                _ => vec![field],
            })
            .collect()
    }

    /// `Container`: the name without its package.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

impl Shape {
    /// The struct at the end of lists and maps, if there is one.
    pub fn innermost_struct(&self) -> Option<&'static Type> {
        match self {
            Shape::Scalar(_) => None,
            Shape::Struct(name) => type_named(name),
            Shape::List(inner) | Shape::Map(inner) => inner.innermost_struct(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::RESOURCES;

    #[test]
    fn every_resource_has_a_type_and_every_type_it_names_exists() {
        for resource in RESOURCES {
            assert!(type_named(resource.type_name).is_some(), "{resource:?}");
        }
        for kind in TYPES.values() {
            for field in &kind.fields {
                let mut shape = &field.shape;
                while let Shape::List(inner) | Shape::Map(inner) = shape {
                    shape = inner;
                }
                if let Shape::Struct(name) = shape {
                    assert!(type_named(name).is_some(), "{} names {name}", kind.name);
                }
            }
        }
    }

    #[test]
    fn fields_of_inlined_structs_are_found_in_the_outer_one() {
        let volume = type_named("core.v1.Volume").expect("in the table");
        assert_eq!(volume.field("configMap").expect("inlined").tag, 19);
        let pod = type_named("core.v1.Pod").expect("in the table");
        assert!(pod.field("apiVersion").is_some());
        assert!(pod.field("nonsense").is_none());
    }
}
