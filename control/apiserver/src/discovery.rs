//! What the API says about itself: versions, groups, resources, schemas.

use std::collections::BTreeMap;

use fairlead_api::{discovery, openapi, status::Status};
use http::{
    StatusCode,
    header::{ACCEPT, HOST},
};
use serde_json::{Value, json};

use crate::{
    accept,
    document::Document,
    request::Request,
    response::{self, Response},
};

const JSON: &str = "application/json";
/// How an aggregated document says what it is; clients that do not see it fall back.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// The forms of OpenAPI v2: gnostic's protobuf under both names clients use for it.
const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const OPENAPI_V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A document may have changed since a client saw it: it asks, and is told 304.
const ASK_AGAIN: &str = "no-cache, private";
/// The URL contains the hash of the content.
const FOR_EVER: &str = "public, immutable, max-age=31536000";

/// Everything of this kind, rendered once.
pub(crate) struct Documents {
    version: Document,
    core: Document,
    groups_aggregated: Document,
    groups: Document,
    /// By `apps`.
    group: BTreeMap<&'static str, Document>,
    /// By group and version.
    resources: BTreeMap<(&'static str, &'static str), Document>,
    openapi_index: Document,
    /// By path below `/openapi/v3/`.
    openapi: BTreeMap<String, Document>,
    /// What the index puts into the URLs of those, so that a changed one has a new URL.
    openapi_hash: String,
    openapi_v2: Document,
    openapi_v2_protobuf: Document,
}

impl Documents {
    pub(crate) fn new(version: &str) -> Self {
        let json = |value: &Value| Document::json(JSON, value);
        let mut resources = BTreeMap::new();
        let mut documents = BTreeMap::new();
        for group in std::iter::once("").chain(discovery::named_groups()) {
            for version in discovery::versions(group) {
                let served = "the groups and versions of the table are served";
                let list = discovery::resources(group, version).expect(served);
                resources.insert((group, version), json(&list));
                let path = if group.is_empty() {
                    format!("api/{version}")
                } else {
                    format!("apis/{group}/{version}")
                };
                let document = openapi::document(group, version).expect(served);
                documents.insert(path, json(&document));
            }
        }
        let openapi_hash = Document::digest(documents.values());
        Self {
            version: json(&version_info(version)),
            core: Document::json(AGGREGATED, &discovery::aggregated(true)),
            groups_aggregated: Document::json(AGGREGATED, &discovery::aggregated(false)),
            groups: json(&discovery::apis()),
            group: discovery::named_groups()
                .filter_map(|name| Some((name, json(&discovery::group(name)?))))
                .collect(),
            resources,
            openapi_index: json(&openapi::index(&openapi_hash)),
            openapi: documents,
            openapi_hash,
            openapi_v2: json(&openapi_v2(version)),
            openapi_v2_protobuf: Document::new(
                OPENAPI_V2_PROTOBUF,
                openapi::document_v2_protobuf().into(),
            ),
        }
    }

    /// The document at a path, given by its segments.
    pub(crate) fn answer(&self, request: &Request, path: &[&str]) -> Result<Response, Status> {
        let accept = request.header(ACCEPT);
        let unknown = Status::unknown_path;
        let plain = |document: &Document| {
            accept::media(accept, &[JSON])?;
            Ok(document.answer(request, ASK_AGAIN))
        };
        match path {
            ["version"] => plain(&self.version),
            ["api"] if accept::aggregated_discovery(accept)? => {
                Ok(self.core.answer(request, ASK_AGAIN))
            }
            ["api"] => {
                let address = request.header(HOST).unwrap_or_default();
                let versions = discovery::core(address);
                Ok(response::json_value(StatusCode::OK, &versions))
            }
            ["apis"] if accept::aggregated_discovery(accept)? => {
                Ok(self.groups_aggregated.answer(request, ASK_AGAIN))
            }
            ["apis"] => plain(&self.groups),
            ["api", version] => plain(self.resources.get(&("", *version)).ok_or_else(unknown)?),
            ["apis", group] => plain(self.group.get(group).ok_or_else(unknown)?),
            ["apis", group, version] => plain(
                self.resources
                    .get(&(*group, *version))
                    .ok_or_else(unknown)?,
            ),
            ["openapi", "v3"] => plain(&self.openapi_index),
            ["openapi", "v3", below @ ..] => {
                let document = self.openapi.get(&below.join("/")).ok_or_else(unknown)?;
                accept::media(accept, &[JSON])?;
                let current = request.query.get("hash") == Some(self.openapi_hash.as_str());
                let cache = if current { FOR_EVER } else { ASK_AGAIN };
                Ok(document.answer(request, cache))
            }
            ["openapi", "v2"] => self.openapi_v2(request),
            _ => Err(unknown()),
        }
    }

    fn openapi_v2(&self, request: &Request) -> Result<Response, Status> {
        let forms = [JSON, OPENAPI_V2_PROTOBUF, OPENAPI_V2_PROTOBUF_OLD];
        let document = match accept::media(request.header(ACCEPT), &forms)? {
            JSON => &self.openapi_v2,
            // Under its new name whichever was asked for: `@` is no legal character there, and
            // clients built with a strict parser refuse the answer.
            _ => &self.openapi_v2_protobuf,
        };
        Ok(document.answer(request, ASK_AGAIN))
    }
}

/// `/version`, from `1.37.0+fairlead-0.1.0`.
fn version_info(version: &str) -> Value {
    let mut numbers = version.split(['.', '+', '-']);
    let (major, minor) = (numbers.next(), numbers.next());
    json!({
        "major": major.unwrap_or_default(),
        "minor": minor.unwrap_or_default(),
        "gitVersion": format!("v{version}"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    })
}

/// The processor in the words of Go, which clients expect.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An OpenAPI v2 document without schemas: clients as old as 1.20 need one to exist, and leave
/// validation to the server when it does not know a type.
fn openapi_v2(version: &str) -> Value {
    json!({
        "swagger": "2.0",
        "info": { "title": "Fairlead", "version": format!("v{version}") },
        "paths": {},
        "definitions": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_taken_apart() {
        let info = version_info("1.37.0+fairlead-0.1.0");
        assert_eq!(info["major"], "1");
        assert_eq!(info["minor"], "37");
        assert_eq!(info["gitVersion"], "v1.37.0+fairlead-0.1.0");
    }
}
