//! The agent's own socket: the same views as through the control plane, for when that is away.

use std::{convert::Infallible, fs, io, os::unix::fs::PermissionsExt, path::Path};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::UnixListener;

use crate::view::Views;

/// Binds the socket, readable by its owner alone; one left by an agent that died is replaced.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _absent_now => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves `GET /<view>?<params>`, for ever.
pub(crate) async fn serve(listener: UnixListener, views: Views) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the agent's socket");
                continue;
            }
        };
        let views = views.clone();
        let service = service_fn(move |request| {
            let views = views.clone();
            async move { Ok::<_, Infallible>(answer(&views, &request).await) }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(views: &Views, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let view = request.uri().path().trim_start_matches('/').to_owned();
    let parameters = parameters(request.uri().query());
    let (code, body) = match views.of(view, parameters).await {
        Ok(body) => (StatusCode::OK, body),
        Err(message) => (
            StatusCode::BAD_REQUEST,
            json!({"reason": "BadRequest", "message": message}),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = code;
    response
}

fn parameters(query: Option<&str>) -> Value {
    let pairs = query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty());
    let parameters: Map<String, Value> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), Value::from(value))
        })
        .collect();
    Value::Object(parameters)
}
