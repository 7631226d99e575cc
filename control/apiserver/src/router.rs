//! From a request to the handler that answers it: identity, authorisation, target, verb.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use fairlead_api::{
    resource::{Resource, Scope},
    status::Status,
};
use fairlead_pki::Identity;
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Method, header::AUTHORIZATION};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use crate::{
    api::Api,
    authorize, body,
    front_proxy::{Question, Sender},
    handlers::{
        bind, create, delete, delete_collection, evict, get, health, list, log, nodes, patch,
        review, scale, update, watch,
    },
    query::Query,
    request::{ObjectPath, Request, Target},
    response::{self, Response},
    subject::Subject,
    write::Part,
};

/// Names one request in logs on both sides.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Answers one request of a peer whose certificate, if it showed one, was verified.
pub(crate) async fn answer(
    api: Arc<Api>,
    peer: Option<Arc<Identity>>,
    request: http::Request<Incoming>,
) -> Response {
    let begun = Instant::now();
    let audit_id = uuid::Uuid::new_v4().to_string();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let user = peer.as_ref().map(|identity| identity.user.clone());

    let answered = AssertUnwindSafe(try_answer(&api, peer, request)).catch_unwind();
    let mut response = match answered.await {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => response::failure(&status),
        Err(_panic) => {
            tracing::error!(%method, path, audit_id, "the request's handler panicked");
            response::failure(&Status::internal("the request's handler panicked"))
        }
    };
    tracing::debug!(
        %method,
        path,
        user,
        audit_id,
        code = response.status().as_u16(),
        ms = begun.elapsed().as_millis() as u64,
        "answered"
    );
    if let Ok(value) = HeaderValue::try_from(audit_id) {
        response.headers_mut().insert(AUDIT_ID, value);
    }
    response
}

async fn try_answer(
    api: &Api,
    peer: Option<Arc<Identity>>,
    request: http::Request<Incoming>,
) -> Result<Response, Status> {
    let (parts, incoming) = request.into_parts();
    let path = percent_decode_str(parts.uri.path())
        .decode_utf8_lossy()
        .into_owned();
    let query = Query::parse(parts.uri.query());
    let Sender { user, passed_on } = match peer {
        Some(identity) => Sender::of(identity, &parts.headers),
        // A probe has no credentials; nothing else is shown to strangers. Bearer tokens are not
        // issued here, so whoever brings one is a stranger too.
        None if authorize::is_public(&parts.method, &path)
            && !parts.headers.contains_key(AUTHORIZATION) =>
        {
            Sender {
                user: anonymous(),
                passed_on: false,
            }
        }
        None => return Err(Status::unauthorized()),
    };
    let watch = query.flag("watch")?.unwrap_or(false);
    let target = Target::parse(&path);
    if !authorize::is_public(&parts.method, &path) {
        authorize::authorize(&user, &parts.method, target, watch)?;
    }
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    if let (true, Some(front_proxy), Some(leader)) = (
        reads && target.needs_nodes() && !passed_on,
        &api.front_proxy,
        api.other_leader(),
    ) {
        let question = Question {
            user: &user,
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
        };
        return front_proxy
            .ask(&leader, &question, api.stopping.clone())
            .await;
    }
    let request = Request {
        user,
        method: parts.method,
        query,
        headers: parts.headers,
        body: body::read(incoming).await?,
    };
    match target {
        Target::Object(object) => objects(api, &request, object, watch).await,
        Target::Path(path) => own_paths(api, &request, path).await,
    }
}

fn anonymous() -> Arc<Identity> {
    Arc::new(Identity {
        user: "system:anonymous".to_owned(),
        groups: vec!["system:unauthenticated".to_owned()],
    })
}

async fn own_paths(api: &Api, request: &Request, path: &str) -> Result<Response, Status> {
    let segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    match segments.as_slice() {
        ["healthz" | "livez", ..] => Ok(health::live()),
        ["readyz", ..] => Ok(health::ready(api).await),
        ["fairlead", "v1", "status"] => nodes::status(api).await,
        ["fairlead", "v1", "nodes", node, view] => nodes::view(api, request, node, view).await,
        other => api.documents.answer(request, other),
    }
}

async fn objects(
    api: &Api,
    request: &Request,
    path: ObjectPath<'_>,
    watch: bool,
) -> Result<Response, Status> {
    if review::is_review(&path) {
        return review::review(request, &path);
    }
    let resource = path.resource().ok_or_else(Status::unknown_path)?;
    if resource.scope == Scope::Cluster && path.namespace.is_some() {
        return Err(Status::unknown_path());
    }
    let Some(name) = path.name else {
        return collection(api, request, resource, path.namespace, watch).await;
    };
    if resource.scope == Scope::Namespaced && path.namespace.is_none() {
        return Err(Status::unknown_path());
    }
    let subject = Subject {
        resource,
        namespace: path.namespace,
        name,
    };
    match path.subresource {
        None => object(api, request, subject, watch).await,
        Some(subresource) => part(api, request, subject, subresource).await,
    }
}

async fn collection(
    api: &Api,
    request: &Request,
    resource: &'static Resource,
    namespace: Option<&str>,
    watch: bool,
) -> Result<Response, Status> {
    let across = resource.scope == Scope::Namespaced && namespace.is_none();
    match request.method {
        Method::GET | Method::HEAD if watch => {
            watch::watch(api, request, resource, namespace, None).await
        }
        Method::GET | Method::HEAD => list::list(api, request, resource, namespace).await,
        // In all namespaces at once nothing can be created, and nothing should be deleted.
        Method::POST | Method::DELETE if across => Err(Status::method_not_allowed()),
        Method::POST => create::create(api, request, resource, namespace).await,
        Method::DELETE => {
            delete_collection::delete_collection(api, request, resource, namespace).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}

async fn object(
    api: &Api,
    request: &Request,
    subject: Subject<'_>,
    watch: bool,
) -> Result<Response, Status> {
    match request.method {
        Method::GET | Method::HEAD if watch => {
            let (resource, namespace) = (subject.resource, subject.namespace);
            watch::watch(api, request, resource, namespace, Some(subject.name)).await
        }
        Method::GET | Method::HEAD => get::get(api, request, subject).await,
        Method::PUT => update::update(api, request, subject, Part::Whole).await,
        Method::PATCH => patch::patch(api, request, subject, Part::Whole).await,
        Method::DELETE => delete::delete(api, request, subject).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// A subresource of one object.
async fn part(
    api: &Api,
    request: &Request,
    subject: Subject<'_>,
    subresource: &str,
) -> Result<Response, Status> {
    let resource = subject.resource;
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    match (subresource, &request.method) {
        ("status", _) if resource.status && reads => get::get(api, request, subject).await,
        ("status", &Method::PUT) if resource.status => {
            update::update(api, request, subject, Part::Status).await
        }
        ("status", &Method::PATCH) if resource.status => {
            patch::patch(api, request, subject, Part::Status).await
        }
        ("scale", &Method::GET | &Method::HEAD | &Method::PUT | &Method::PATCH) => {
            let paths = resource.scale.ok_or_else(Status::unknown_path)?;
            scale::scale(api, request, subject, paths).await
        }
        ("finalize", &Method::PUT) if subject.is_core("Namespace") => {
            update::update(api, request, subject, Part::Finalize).await
        }
        ("binding", &Method::POST) if subject.is_core("Pod") => {
            bind::bind(api, request, subject).await
        }
        ("eviction", &Method::POST) if subject.is_core("Pod") => {
            evict::evict(api, request, subject).await
        }
        ("log", _) if subject.is_core("Pod") && reads => log::log(api, request, subject).await,
        ("status" | "scale", _) => Err(Status::method_not_allowed()),
        ("finalize", _) if subject.is_core("Namespace") => Err(Status::method_not_allowed()),
        ("binding" | "eviction" | "log", _) if subject.is_core("Pod") => {
            Err(Status::method_not_allowed())
        }
        _ => Err(Status::unknown_path()),
    }
}
