use bytes::Bytes;
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    request::Request,
    response::{self, Response},
};

/// A document that is the same for everybody until the server is replaced: rendered once, with a
/// tag by which a client knows that it has it already.
pub(crate) struct Document {
    content_type: &'static str,
    bytes: Bytes,
    tag: HeaderValue,
}

impl Document {
    pub(crate) fn json(content_type: &'static str, value: &Value) -> Self {
        Self::new(content_type, value.to_string().into())
    }

    pub(crate) fn new(content_type: &'static str, bytes: Bytes) -> Self {
        let tag = format!("\"{}\"", hexadecimal(&Sha256::digest(&bytes)));
        Self {
            content_type,
            bytes,
            tag: HeaderValue::try_from(tag).expect("hexadecimal digits are a header value"),
        }
    }

    /// What changes whenever one of these documents does.
    pub(crate) fn digest<'a>(documents: impl Iterator<Item = &'a Self>) -> String {
        let mut hash = Sha256::new();
        for document in documents {
            hash.update(document.tag.as_bytes());
        }
        hexadecimal(&hash.finalize())
    }

    /// The document, or 304 for who has it. `cache` is the `Cache-Control`.
    pub(crate) fn answer(&self, request: &Request, cache: &'static str) -> Response {
        let has_it = request
            .headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|tag| tag.trim().as_bytes() == self.tag.as_bytes());
        let mut response = if has_it {
            let mut response = response::whole(StatusCode::NOT_MODIFIED, self.content_type, "");
            response.headers_mut().remove(http::header::CONTENT_TYPE);
            response
        } else {
            response::whole(StatusCode::OK, self.content_type, self.bytes.clone())
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, self.tag.clone());
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
        response
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
