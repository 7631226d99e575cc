//! Request bodies: their size, their format, and the objects in them.

use bytes::Bytes;
use fairlead_api::{
    decode::{self, Decoded, FieldValidation},
    resource::Resource,
    status::Status,
};
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use crate::request::Request;

/// The largest body taken: upstream's limit, above what any object may weigh.
const SIZE_BYTES_MAX: usize = 3 * 1024 * 1024;

/// What a body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Yaml,
    Protobuf,
}

/// Reads a body whole.
pub(crate) async fn read(body: Incoming) -> Result<Bytes, Status> {
    match Limited::new(body, SIZE_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Status::too_large(SIZE_BYTES_MAX)),
        Err(error) => Err(Status::bad_request(format!(
            "the request's body ended early: {error}"
        ))),
    }
}

/// The media type of a body, without parameters. JSON when the client does not say.
pub(crate) fn media_type(request: &Request) -> &str {
    let header = request.header(CONTENT_TYPE).unwrap_or_default();
    match header.split(';').next().map(str::trim) {
        None | Some("") => "application/json",
        Some(media) => media,
    }
}

fn format(request: &Request) -> Result<Format, Status> {
    match media_type(request) {
        "application/json" => Ok(Format::Json),
        "application/yaml" => Ok(Format::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Format::Protobuf),
        _ => Err(Status::unsupported_media_type(&[
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
        ])),
    }
}

/// The body as an object of `resource`.
pub(crate) fn object(request: &Request, resource: &'static Resource) -> Result<Decoded, Status> {
    let validation = field_validation(request)?;
    match format(request)? {
        Format::Json => decode::json(resource, &request.body, validation),
        Format::Yaml => decode::yaml(resource, &request.body, validation),
        Format::Protobuf => decode::value(resource, decode::protobuf(&request.body)?, validation),
    }
}

/// The body as a small object that is no resource of its own (DeleteOptions, Scale, Eviction,
/// Binding, a review); `None` when there is no body.
pub(crate) fn options(request: &Request, kind: &str) -> Result<Option<Value>, Status> {
    if request.body.is_empty() {
        return Ok(None);
    }
    let value: Value = match format(request)? {
        Format::Json => serde_json::from_slice(&request.body)
            .map_err(|error| Status::bad_request(format!("the body is not valid JSON: {error}")))?,
        Format::Yaml => decode::yaml_value(&request.body)?,
        Format::Protobuf => decode::protobuf(&request.body)?,
    };
    match value.get("kind").and_then(Value::as_str) {
        Some(found) if !found.is_empty() && found != kind => Err(Status::bad_request(format!(
            "the body is a {found}, expected {kind}"
        ))),
        _ => Ok(Some(value)),
    }
}

/// The same, where a body is needed.
pub(crate) fn required(request: &Request, kind: &str) -> Result<Value, Status> {
    options(request, kind)?
        .ok_or_else(|| Status::bad_request(format!("the request needs a body: a {kind}")))
}

/// `fieldValidation`; upstream's default is to warn.
pub(crate) fn field_validation(request: &Request) -> Result<FieldValidation, Status> {
    FieldValidation::parse(request.query.get("fieldValidation"))
}
