//! Kubernetes' protobuf bodies, read with the table of types.
//!
//! The wire format is protobuf's; the envelope (`k8s\0`, then `runtime.Unknown`) is described in
//! `k8s.io/apimachinery/pkg/runtime/serializer/protobuf`. The result is what Go's JSON encoder
//! would have written for the same object.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Value, json};

use crate::schema::{Field, Scalar, Shape, Type, type_named};
use crate::status::Status;

const MAGIC: &[u8] = b"k8s\0";

/// How deep messages may nest; API types stay below 30.
const DEPTH_MAX: u32 = 64;

/// Why a body does not decode.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    NotAnEnvelope,
    #[error("object of kind {kind:?} in {api_version:?} is not known here")]
    UnknownKind { api_version: String, kind: String },
    #[error("{0}")]
    Wire(#[from] prost::DecodeError),
    #[error("field {field} of {message} does not hold what its type says")]
    Shape {
        message: &'static str,
        field: String,
    },
    #[error("messages nest deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("embedded JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Decodes a body of `application/vnd.kubernetes.protobuf`: any kind in the table of types, also
/// `DeleteOptions`, `Eviction`, `Binding`, `Scale`.
pub fn protobuf(body: &[u8]) -> Result<Value, Status> {
    envelope(body).map_err(|error| Status::bad_request(error.to_string()))
}

/// `runtime.Unknown`: `typeMeta` (1: `apiVersion` 1, `kind` 2) and the message itself, `raw` (2).
fn envelope(body: &[u8]) -> Result<Value, Error> {
    let unknown = raw_fields(body.strip_prefix(MAGIC).ok_or(Error::NotAnEnvelope)?)?;
    let type_meta = raw_fields(unknown.bytes(1).unwrap_or_default())?;
    let told = |tag| {
        let bytes = type_meta.bytes(tag).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let (api_version, kind) = (told(1), told(2));

    let Some(name) = type_name(&api_version, &kind) else {
        return Err(Error::UnknownKind { api_version, kind });
    };
    let raw = unknown.bytes(2).unwrap_or_default();
    let members = message(type_named_or(name)?, raw, DEPTH_MAX)?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    object.extend(members);
    Ok(Value::Object(object))
}

fn type_named_or(name: &'static str) -> Result<&'static Type, Error> {
    type_named(name).ok_or_else(|| Error::UnknownKind {
        api_version: String::new(),
        kind: name.to_owned(),
    })
}

/// The type behind an `apiVersion` and a kind. Options of a request come in the group of the
/// resource they are for.
fn type_name(api_version: &str, kind: &str) -> Option<&'static str> {
    if kind == "DeleteOptions" {
        return Some("meta.v1.DeleteOptions");
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    // Go packages are named by the first part of the group: discovery.k8s.io is `discovery`.
    let package = group.split('.').next().unwrap_or_default();
    type_named(&format!("{package}.{version}.{kind}")).map(|kind| kind.name)
}

/// Decodes the fields of one message into the members of a JSON object.
fn message(kind: &'static Type, bytes: &[u8], depth: u32) -> Result<Map<String, Value>, Error> {
    let depth = depth.checked_sub(1).ok_or(Error::TooDeep)?;
    let mut members = Map::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (tag, wire) = decode_key(&mut rest)?;
        let Some(field) = kind.fields.iter().find(|field| field.tag == tag) else {
            skip_field(wire, tag, &mut rest, DecodeContext::default())?;
            continue;
        };
        let datum = Datum::read(wire, &mut rest).map_err(|error| match error {
            Error::Shape { .. } => shape_error(kind, field),
            other => other,
        })?;
        put(&mut members, kind, field, &datum, depth)?;
    }
    // Go writes what has no omitempty even when the encoder on the other side left it out.
    for field in &kind.fields {
        if let (Some(name), true, Some(zero)) = (field.name, field.always, zero(&field.shape)) {
            members.entry(name).or_insert(zero);
        }
    }
    Ok(members)
}

fn put(
    members: &mut Map<String, Value>,
    kind: &'static Type,
    field: &Field,
    datum: &Datum,
    depth: u32,
) -> Result<(), Error> {
    let wrong = || shape_error(kind, field);
    match (field.name, &field.shape) {
        (None, Shape::Struct(inlined)) => {
            members.extend(message(
                type_named_or(inlined)?,
                datum.bytes().ok_or_else(wrong)?,
                depth,
            )?);
        }
        (None, _) => return Err(wrong()),
        (Some(name), Shape::List(inner)) => {
            let list = members.entry(name).or_insert_with(|| json!([]));
            let list = list.as_array_mut().ok_or_else(wrong)?;
            match (datum, inner.as_ref()) {
                (Datum::Bytes(packed), Shape::Scalar(Scalar::Int32 | Scalar::Int64)) => {
                    let mut packed = *packed;
                    while !packed.is_empty() {
                        list.push(signed(decode_varint(&mut packed)?).into());
                    }
                }
                _ => list.push(one(inner, datum, depth)?.ok_or_else(wrong)?),
            }
        }
        (Some(name), Shape::Map(inner)) => {
            let (key, value) = entry(inner, datum.bytes().ok_or_else(wrong)?, depth)?;
            let map = members.entry(name).or_insert_with(|| json!({}));
            map.as_object_mut().ok_or_else(wrong)?.insert(key, value);
        }
        (Some(name), shape) => {
            let value = one(shape, datum, depth)?.ok_or_else(wrong)?;
            let omitted = !field.pointer && !field.always && is_zero(&value);
            if !omitted {
                members.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// One value of a shape that does not repeat; `None` when the wire type does not fit it.
fn one(shape: &Shape, datum: &Datum, depth: u32) -> Result<Option<Value>, Error> {
    let scalar = match shape {
        Shape::Struct(name) => {
            let Some(bytes) = datum.bytes() else {
                return Ok(None);
            };
            return Ok(Some(Value::Object(message(
                type_named_or(name)?,
                bytes,
                depth,
            )?)));
        }
        Shape::Scalar(scalar) => *scalar,
        // A list of lists is a message of its own on the wire; the API has none.
        Shape::List(_) | Shape::Map(_) => return Ok(None),
    };
    Ok(match (scalar, datum) {
        (Scalar::Bool, Datum::Varint(bit)) => Some(Value::Bool(*bit != 0)),
        (Scalar::Int32 | Scalar::Int64, Datum::Varint(bits)) => Some(signed(*bits).into()),
        (Scalar::Float64, Datum::Fixed64(bits)) => Some(f64::from_bits(*bits).into()),
        (Scalar::String, Datum::Bytes(bytes)) => text(bytes),
        (Scalar::Bytes, Datum::Bytes(bytes)) => Some(STANDARD.encode(bytes).into()),
        (Scalar::Time, Datum::Bytes(bytes)) => time(bytes, 0)?,
        (Scalar::MicroTime, Datum::Bytes(bytes)) => time(bytes, 6)?,
        (Scalar::Quantity, Datum::Bytes(bytes)) => {
            let wrapped = raw_fields(bytes)?;
            Some(
                wrapped
                    .bytes(1)
                    .and_then(text)
                    .unwrap_or_else(|| "0".into()),
            )
        }
        (Scalar::IntOrString, Datum::Bytes(bytes)) => {
            let wrapped = raw_fields(bytes)?;
            match wrapped.varint(1) {
                Some(1) => wrapped.bytes(3).and_then(text).or(Some("".into())),
                _ => Some(signed(wrapped.varint(2).unwrap_or(0)).into()),
            }
        }
        (Scalar::Raw, Datum::Bytes(bytes)) => {
            let wrapped = raw_fields(bytes)?;
            match wrapped.bytes(1) {
                None | Some([]) => Some(Value::Null),
                Some(json) => Some(serde_json::from_slice(json)?),
            }
        }
        _ => None,
    })
}

fn entry(inner: &Shape, bytes: &[u8], depth: u32) -> Result<(String, Value), Error> {
    let fields = raw_fields(bytes)?;
    let key = fields.bytes(1).and_then(text);
    let key = key.as_ref().and_then(Value::as_str).unwrap_or_default();
    let datum = fields.get(2).copied().unwrap_or(Datum::Bytes(&[]));
    let value = one(inner, &datum, depth)?.unwrap_or_default();
    Ok((key.to_owned(), value))
}

/// `Timestamp`: seconds and nanoseconds; all zero is Go's zero time, JSON's null.
fn time(bytes: &[u8], fraction_digits: u8) -> Result<Option<Value>, Error> {
    let fields = raw_fields(bytes)?;
    let (Some(seconds), nanos) = (fields.varint(1), fields.varint(2).unwrap_or(0)) else {
        return Ok(Some(Value::Null));
    };
    let nanos = i32::try_from(nanos).unwrap_or(0);
    let Ok(instant) = jiff::Timestamp::new(signed(seconds), nanos) else {
        return Ok(None);
    };
    Ok(Some(match fraction_digits {
        0 => instant.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into(),
        _ => instant
            .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
            .to_string()
            .into(),
    }))
}

/// One value as it is on the wire.
#[derive(Clone, Copy)]
enum Datum<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

impl<'a> Datum<'a> {
    fn read(wire: WireType, rest: &mut &'a [u8]) -> Result<Self, Error> {
        let unfit = || Error::Shape {
            message: "",
            field: String::new(),
        };
        match wire {
            WireType::Varint => Ok(Datum::Varint(decode_varint(rest)?)),
            WireType::SixtyFourBit => {
                let (head, tail) = rest.split_first_chunk::<8>().ok_or_else(unfit)?;
                *rest = tail;
                Ok(Datum::Fixed64(u64::from_le_bytes(*head)))
            }
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(rest)?).map_err(|_| unfit())?;
                let (head, tail) = rest.split_at_checked(length).ok_or_else(unfit)?;
                *rest = tail;
                Ok(Datum::Bytes(head))
            }
            WireType::ThirtyTwoBit | WireType::StartGroup | WireType::EndGroup => Err(unfit()),
        }
    }

    fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Datum::Bytes(bytes) => Some(bytes),
            Datum::Varint(_) | Datum::Fixed64(_) => None,
        }
    }
}

/// The few fields of a message that is not a struct of the API (map entries, times, quantities).
struct RawFields<'a>(Vec<(u32, Datum<'a>)>);

impl<'a> RawFields<'a> {
    fn get(&self, tag: u32) -> Option<&Datum<'a>> {
        self.0
            .iter()
            .find(|(t, _)| *t == tag)
            .map(|(_, datum)| datum)
    }

    fn bytes(&self, tag: u32) -> Option<&'a [u8]> {
        self.get(tag)?.bytes()
    }

    fn varint(&self, tag: u32) -> Option<u64> {
        match self.get(tag)? {
            Datum::Varint(bits) => Some(*bits),
            Datum::Fixed64(_) | Datum::Bytes(_) => None,
        }
    }
}

fn raw_fields(mut bytes: &[u8]) -> Result<RawFields<'_>, Error> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let (tag, wire) = decode_key(&mut bytes)?;
        fields.push((tag, Datum::read(wire, &mut bytes)?));
    }
    Ok(RawFields(fields))
}

/// Protobuf writes negative int32 and int64 alike, as 64-bit two's complement.
fn signed(bits: u64) -> i64 {
    i64::from_ne_bytes(bits.to_ne_bytes())
}

fn text(bytes: &[u8]) -> Option<Value> {
    std::str::from_utf8(bytes).ok().map(Value::from)
}

/// The JSON zero of what Go writes without omitempty. Structs are left out: a struct of zeros says
/// nothing that its absence does not.
fn zero(shape: &Shape) -> Option<Value> {
    match shape {
        Shape::Scalar(Scalar::String) => Some("".into()),
        Shape::Scalar(Scalar::Bool) => Some(false.into()),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64) => Some(0.into()),
        Shape::Scalar(_) | Shape::Struct(_) | Shape::List(_) | Shape::Map(_) => None,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

fn shape_error(kind: &'static Type, field: &Field) -> Error {
    Error::Shape {
        message: kind.name,
        field: field.name.unwrap_or("inlined").to_owned(),
    }
}

#[cfg(test)]
mod tests;
