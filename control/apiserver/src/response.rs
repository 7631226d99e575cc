//! Answers: bodies, the forms of an object, warnings, and errors as `Status`.

use std::{convert::Infallible, io};

use bytes::Bytes;
use fairlead_api::{
    resource::Resource,
    status::Status,
    table::{self, IncludeObject},
};
use futures::Stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::{accept::Form, request::Request};

/// What is sent back: whole, or as it comes.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// A whole answer.
pub(crate) type Response = http::Response<Body>;

/// An answer with a body that is at hand.
pub(crate) fn whole(
    code: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let body = Full::new(body.into()).map_err(|error: Infallible| match error {});
    build(code, content_type, body.boxed_unsync())
}

/// An answer whose body comes piece by piece. An `Err` cuts the connection, so that the client
/// does not take what it has for all there is.
pub(crate) fn stream(
    content_type: &'static str,
    pieces: impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
) -> Response {
    use futures::StreamExt;
    let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data)));
    build(StatusCode::OK, content_type, body.boxed_unsync())
}

fn build(code: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = http::Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

/// A JSON document.
pub(crate) fn json_value(code: StatusCode, value: &Value) -> Response {
    whole(code, "application/json", value.to_string())
}

/// Plain text, as health checks answer.
pub(crate) fn text(code: StatusCode, text: impl Into<Bytes>) -> Response {
    whole(code, "text/plain; charset=utf-8", text)
}

/// A failed request.
pub(crate) fn failure(status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_value(code, &status.to_json());
    let retry_after = status
        .details
        .as_ref()
        .and_then(|details| details.get("retryAfterSeconds"))
        .and_then(Value::as_u64)
        .or(matches!(status.code, 429 | 503).then_some(1));
    if let Some(seconds) = retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The `Status` of a request that succeeded and has no object to show.
pub(crate) fn success(code: StatusCode, details: Value) -> Response {
    json_value(
        code,
        &json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "code": code.as_u16(),
            "details": details,
        }),
    )
}

/// How the client wants to see objects.
#[derive(Clone, Copy)]
pub(crate) struct Presentation {
    pub(crate) form: Form,
    pub(crate) include: IncludeObject,
}

impl Presentation {
    /// Reads `Accept` and `includeObject`.
    pub(crate) fn of(request: &Request) -> Result<Self, Status> {
        Ok(Self {
            form: crate::accept::form(request.header(header::ACCEPT))?,
            include: match request.query.get("includeObject") {
                None | Some("Metadata") => IncludeObject::Metadata,
                Some("Object") => IncludeObject::Object,
                Some("None") => IncludeObject::None,
                Some(other) => {
                    return Err(Status::bad_request(format!(
                        "unrecognized includeObject value: {other:?}"
                    )));
                }
            },
        })
    }

    /// One object, from its stored bytes.
    pub(crate) fn stored(
        self,
        code: StatusCode,
        resource: &'static Resource,
        bytes: &Bytes,
    ) -> Result<Response, Status> {
        match self.form {
            Form::Object => Ok(whole(code, "application/json", bytes.clone())),
            Form::Table | Form::Metadata => self.object(code, resource, decode(bytes)?),
        }
    }

    /// One object, decoded.
    pub(crate) fn object(
        self,
        code: StatusCode,
        resource: &'static Resource,
        object: Value,
    ) -> Result<Response, Status> {
        let value = match self.form {
            Form::Object => object,
            Form::Metadata => partial(object),
            Form::Table => {
                let metadata = json!({
                    "resourceVersion": object.pointer("/metadata/resourceVersion"),
                });
                table::render(
                    resource,
                    &[object],
                    jiff::Timestamp::now(),
                    self.include,
                    metadata,
                )
            }
        };
        Ok(json_value(code, &value))
    }
}

/// A stored object as JSON. Failing means the store holds what was never encoded by us.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes)
        .map_err(|error| Status::internal(format!("a stored object is not JSON: {error}")))
}

/// The metadata of an object, as PartialObjectMetadata.
pub(crate) fn partial(mut object: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get_mut("metadata").map(Value::take),
    })
}

/// Adds `Warning: 299` headers, which kubectl prints.
pub(crate) fn with_warnings(mut response: Response, warnings: &[String]) -> Response {
    append_warnings(response.headers_mut(), warnings);
    response
}

fn append_warnings(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings {
        // RFC 9110 quoted-string; control characters cannot be in a header at all.
        let quoted: String = warning
            .chars()
            .filter(|character| !character.is_control())
            .flat_map(|character| {
                let escape = matches!(character, '"' | '\\').then_some('\\');
                escape.into_iter().chain(std::iter::once(character))
            })
            .collect();
        if let Ok(value) = HeaderValue::try_from(format!("299 - \"{quoted}\"")) {
            headers.append(header::WARNING, value);
        }
    }
}
