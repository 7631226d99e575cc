use std::collections::HashMap;

use super::{Field, ListType, Scalar, Shape, Type};

/// Reads the table of types. It is part of this crate, so what it says is trusted.
pub(super) fn types(text: &'static str) -> HashMap<&'static str, Type> {
    let mut types: HashMap<&'static str, Type> = HashMap::new();
    let mut current = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix(' ') {
            None => {
                current = line;
                let fields = Vec::new();
                types.insert(line, Type { name: line, fields });
            }
            Some(facts) => {
                let owner = types.get_mut(current).expect("fields follow their type");
                owner.fields.push(field(facts));
            }
        }
    }
    types
}

fn field(facts: &'static str) -> Field {
    let mut words = facts.split(' ');
    let mut next = || words.next().expect("a field has a tag, a name and a type");
    let tag = next().parse().expect("tags are numbers");
    let name = Some(next()).filter(|name| *name != "-");
    let mut field = Field {
        tag,
        name,
        shape: shape(next()),
        pointer: false,
        always: false,
        required: false,
        merge: false,
        retain_keys: false,
        merge_key: None,
        list: None,
        atomic: false,
    };
    for flag in words {
        match flag.split_once('=') {
            None => {
                field.pointer |= flag == "?";
                field.always |= flag.starts_with('!');
                field.required |= flag == "!";
            }
            Some(("p", strategies)) => {
                field.merge = strategies.split(',').any(|s| s == "merge");
                field.retain_keys = strategies.split(',').any(|s| s == "retainKeys");
            }
            Some(("k", key)) => field.merge_key = Some(key),
            Some(("l", list)) => field.list = Some(list_type(list)),
            Some(("m", _)) => field.atomic = true,
            Some((unknown, _)) => panic!("types.txt has a flag {unknown} nobody reads"),
        }
    }
    field
}

fn list_type(text: &'static str) -> ListType {
    match text.strip_prefix("map:") {
        Some(keys) => ListType::Map(keys.split(',').collect()),
        None if text == "set" => ListType::Set,
        None => ListType::Atomic,
    }
}

fn shape(text: &'static str) -> Shape {
    if let Some(inner) = text.strip_prefix("[]") {
        return Shape::List(Box::new(shape(inner)));
    }
    if let Some(inner) = text.strip_prefix("{}") {
        return Shape::Map(Box::new(shape(inner)));
    }
    Shape::Scalar(match text {
        "string" => Scalar::String,
        "bool" => Scalar::Bool,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "float64" => Scalar::Float64,
        "bytes" => Scalar::Bytes,
        "Time" => Scalar::Time,
        "MicroTime" => Scalar::MicroTime,
        "Quantity" => Scalar::Quantity,
        "IntOrString" => Scalar::IntOrString,
        "Raw" => Scalar::Raw,
        name => return Shape::Struct(name),
    })
}
