//! Small clients: JSON over HTTP to the API server (by a kubeconfig) or to an agent (by its
//! socket), and the one question a newcomer asks a cluster.
//!
//! Refuses to know: what the documents mean. Whoever needs watches, retries or types uses a
//! Kubernetes client.

#![forbid(unsafe_code)]

mod join;
mod kubeconfig;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

pub use join::{JoinError, join};
pub use kubeconfig::{Kubeconfig, KubeconfigError};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const ANSWER_SIZE_MAX: usize = 256 << 20;

/// Sends requests to one server; opens a connection for each.
#[derive(Clone)]
pub struct Client {
    target: Target,
}

#[derive(Clone)]
enum Target {
    Api {
        authority: String,
        host: ServerName<'static>,
        tls: TlsConnector,
    },
    Socket(PathBuf),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig's server or certificates cannot be used.
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    /// Nobody answers there.
    #[error("cannot reach {target}")]
    Dial {
        /// An address, or a socket's path.
        target: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke, or the answer is not HTTP.
    #[error("the request {method} {path} failed")]
    Http {
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("no answer to {method} {path} in {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout {
        /// The request's method.
        method: Method,
        /// The request's path.
        path: String,
    },
    /// The server refused, with the message of its `Status`.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        code: StatusCode,
        /// `reason` of the `Status`, empty if it sent none.
        reason: String,
        /// What it said.
        message: String,
    },
}

impl Client {
    /// A client of the kubeconfig's current context.
    ///
    /// # Errors
    /// When its server is no `https://` URL or its certificates are malformed.
    pub fn new(kubeconfig: &Kubeconfig) -> Result<Self, Error> {
        fairlead_pki::install_crypto_provider();
        let unusable = |message: String| Error::Kubeconfig(message);
        let uri: http::Uri = kubeconfig
            .server
            .parse()
            .map_err(|_| unusable(format!("server {:?} is not a URL", kubeconfig.server)))?;
        if uri.scheme_str() != Some("https") {
            return Err(unusable(format!(
                "server {:?} is not https",
                kubeconfig.server
            )));
        }
        let host = uri
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let authority = match uri.port_u16() {
            Some(port) => format!("{}:{port}", uri.host().unwrap_or_default()),
            None => format!("{}:443", uri.host().unwrap_or_default()),
        };
        let host = ServerName::try_from(host)
            .map_err(|_| unusable(format!("server {:?} names no host", kubeconfig.server)))?;
        let config = fairlead_pki::client_config(Some(&kubeconfig.user), &kubeconfig.authority_pem)
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Self {
            target: Target::Api {
                authority,
                host,
                tls: Arc::new(config).into(),
            },
        })
    }

    /// A client of the agent that listens on `socket`.
    pub fn socket(socket: &Path) -> Self {
        Self {
            target: Target::Socket(socket.to_owned()),
        }
    }

    /// `GET path`, the answer as JSON.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.request(Method::GET, path, None).await
    }

    /// `POST path` with a JSON body, the answer as JSON.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.request(Method::POST, path, Some(body)).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let exchange = async {
            match &self.target {
                Target::Api {
                    authority,
                    host,
                    tls,
                } => {
                    let dial = |source| Error::Dial {
                        target: authority.clone(),
                        source,
                    };
                    let socket = TcpStream::connect(authority).await.map_err(dial)?;
                    let stream = tls.connect(host.clone(), socket).await.map_err(dial)?;
                    send(stream, authority, &method, path, body).await
                }
                Target::Socket(socket) => {
                    let stream =
                        UnixStream::connect(socket)
                            .await
                            .map_err(|source| Error::Dial {
                                target: socket.display().to_string(),
                                source,
                            })?;
                    send(stream, "agent", &method, path, body).await
                }
            }
        };
        timeout(REQUEST_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(Error::Timeout {
                    method,
                    path: path.to_owned(),
                })
            })
    }
}

async fn send<S>(
    stream: S,
    authority: &str,
    method: &Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = |source: Box<dyn std::error::Error + Send + Sync>| Error::Http {
        method: method.clone(),
        path: path.to_owned(),
        source,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http(error.into()))?;
    // The connection ends with `sender`, at the end of this function.
    tokio::spawn(connection);
    let bytes = body
        .map(|body| Bytes::from(body.to_string()))
        .unwrap_or_default();
    let request = Request::builder()
        .method(method.clone())
        .uri(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(bytes))
        .map_err(|error| http(error.into()))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| http(error.into()))?;
    let code = response.status();
    let answer = http_body_util::Limited::new(response.into_body(), ANSWER_SIZE_MAX)
        .collect()
        .await
        .map_err(http)?
        .to_bytes();
    if !code.is_success() {
        return Err(refusal(code, &answer));
    }
    serde_json::from_slice(&answer).map_err(|error| http(error.into()))
}

fn refusal(code: StatusCode, answer: &[u8]) -> Error {
    let status: Value = serde_json::from_slice(answer).unwrap_or_default();
    let text = |field: &str| status[field].as_str().map(str::to_owned);
    Error::Refused {
        code,
        reason: text("reason").unwrap_or_default(),
        message: text("message").unwrap_or_else(|| {
            format!(
                "the server answered {code}: {}",
                String::from_utf8_lossy(answer)
            )
        }),
    }
}
