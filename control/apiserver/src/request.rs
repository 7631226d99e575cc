//! What a request's line asks for, before anything is looked up.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::resource::{self, Resource};
use fairlead_pki::Identity;
use http::{HeaderMap, Method};

use crate::query::Query;

/// One request, with its line parsed and its sender known.
pub(crate) struct Request {
    /// Who sent it.
    pub(crate) user: Arc<Identity>,
    pub(crate) method: Method,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// Read whole, within the limit of [`crate::body`].
    pub(crate) body: Bytes,
}

impl Request {
    /// A header as text.
    pub(crate) fn header(&self, name: http::header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// Something of the API's own: discovery, health, OpenAPI.
    Path(&'a str),
    /// Objects: a resource, and what of it.
    Object(ObjectPath<'a>),
}

/// A path below `/api/v1` or `/apis/<group>/<version>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectPath<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) plural: &'a str,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    pub(crate) subresource: Option<&'a str>,
}

impl<'a> Target<'a> {
    pub(crate) fn parse(path: &'a str) -> Self {
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let (group, version) = match segments.next() {
            Some("api") => ("", segments.next()),
            Some("apis") => match segments.next() {
                Some(group) => (group, segments.next()),
                None => return Self::Path(path),
            },
            _ => return Self::Path(path),
        };
        let rest: Vec<&str> = segments.collect();
        let (Some(version), false) = (version, rest.is_empty()) else {
            return Self::Path(path);
        };
        let at = |index: usize| rest.get(index).copied();
        // A namespace is itself an object, and its subresources look like resources inside it.
        let namespaced = rest[0] == "namespaces"
            && at(2).is_some_and(|plural| !matches!(plural, "status" | "finalize"));
        let (namespace, own) = if namespaced {
            (at(1), &rest[2..])
        } else {
            (None, &rest[..])
        };
        if own.len() > 3 {
            return Self::Path(path);
        }
        Self::Object(ObjectPath {
            group,
            version,
            plural: own[0],
            namespace,
            name: own.get(1).copied(),
            subresource: own.get(2).copied(),
        })
    }
}

impl Target<'_> {
    /// Whether answering takes the nodes' connections, which end at the leader.
    pub(crate) fn needs_nodes(&self) -> bool {
        match self {
            Self::Path(path) => path.trim_start_matches('/').starts_with("fairlead/v1/"),
            Self::Object(path) => {
                (path.group, path.plural, path.subresource) == ("", "pods", Some("log"))
            }
        }
    }
}

impl ObjectPath<'_> {
    /// The entry of the table this path names.
    pub(crate) fn resource(&self) -> Option<&'static Resource> {
        resource::by_plural(self.group, self.version, self.plural)
    }

    /// The verb in the words of Kubernetes' authorisation.
    pub(crate) fn verb(&self, method: &Method, watch: bool) -> &'static str {
        match (method.as_str(), self.name) {
            ("GET" | "HEAD", _) if watch => "watch",
            ("GET" | "HEAD", Some(_)) => "get",
            ("GET" | "HEAD", None) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", Some(_)) => "delete",
            ("DELETE", None) => "deletecollection",
            _ => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str) -> ObjectPath<'_> {
        match Target::parse(path) {
            Target::Object(object) => object,
            Target::Path(path) => panic!("{path} names no object"),
        }
    }

    #[test]
    fn paths_name_resources_namespaces_and_subresources() {
        let cases = [
            ("/api/v1/pods", ("", "pods", None, None, None)),
            (
                "/api/v1/namespaces/a/pods/p/log",
                ("", "pods", Some("a"), Some("p"), Some("log")),
            ),
            ("/api/v1/namespaces", ("", "namespaces", None, None, None)),
            (
                "/api/v1/namespaces/a",
                ("", "namespaces", None, Some("a"), None),
            ),
            (
                "/api/v1/namespaces/a/status",
                ("", "namespaces", None, Some("a"), Some("status")),
            ),
            (
                "/api/v1/nodes/n/status",
                ("", "nodes", None, Some("n"), Some("status")),
            ),
            (
                "/apis/apps/v1/namespaces/a/deployments/",
                ("apps", "deployments", Some("a"), None, None),
            ),
        ];
        for (path, (group, plural, namespace, name, subresource)) in cases {
            let expected = ObjectPath {
                group,
                version: "v1",
                plural,
                namespace,
                name,
                subresource,
            };
            assert_eq!(object(path), expected, "{path}");
        }
    }

    #[test]
    fn discovery_paths_name_no_object() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/version",
            "/healthz",
        ] {
            assert_eq!(Target::parse(path), Target::Path(path), "{path}");
        }
    }

    #[test]
    fn logs_and_views_need_the_nodes() {
        for (path, expected) in [
            ("/api/v1/namespaces/a/pods/p/log", true),
            ("/fairlead/v1/status", true),
            ("/fairlead/v1/nodes/n/flows", true),
            ("/api/v1/namespaces/a/pods/p/status", false),
            ("/api/v1/namespaces/a/services/p/log", false),
            ("/readyz", false),
        ] {
            assert_eq!(Target::parse(path).needs_nodes(), expected, "{path}");
        }
    }

    #[test]
    fn verbs_are_those_of_authorisation() {
        let one = object("/api/v1/namespaces/a/pods/p");
        let many = object("/api/v1/pods");
        assert_eq!(one.verb(&Method::GET, false), "get");
        assert_eq!(many.verb(&Method::GET, false), "list");
        assert_eq!(many.verb(&Method::GET, true), "watch");
        assert_eq!(one.verb(&Method::DELETE, false), "delete");
        assert_eq!(many.verb(&Method::DELETE, false), "deletecollection");
    }
}
