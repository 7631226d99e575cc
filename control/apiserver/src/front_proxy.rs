//! Passing a request on to the leader, and believing a member that passes one on.
//!
//! Nodes are connected to the leader alone, so another member cannot answer what rides on their
//! connections. It asks the leader's API server in its client's stead, as Kubernetes' front proxies
//! do: with a certificate of its own, naming the client in `X-Remote-User` and `X-Remote-Group`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use fairlead_api::status::Status;
use fairlead_pki::{CONTROL_SERVER_NAME, Identity};
use fairlead_store::Member;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::response::Response;

/// Whose certificate may speak for others. The cluster's authority signs it for members only, and
/// it has no rights of its own.
pub const FRONT_PROXY_USER: &str = "system:fairlead:front-proxy";

const REMOTE_USER: HeaderName = HeaderName::from_static("x-remote-user");
const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");

/// What a request carries on; all else is between two ends of one connection, or about identity.
const PASSED_ON: [HeaderName; 3] = [header::ACCEPT, header::ACCEPT_ENCODING, header::USER_AGENT];
/// What of an answer is about its connection (RFC 9110 §7.6.1), not for the next one.
const HOP_BY_HOP: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TRAILER,
    header::UPGRADE,
];

/// How long reaching the leader may take.
const DIAL_WAIT: Duration = Duration::from_secs(5);
/// How long the leader may take to begin its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// How to reach the leader's API server in a client's stead.
#[derive(Clone)]
pub struct FrontProxy {
    /// Trusts the cluster's authority and shows a certificate for [`FRONT_PROXY_USER`].
    pub tls: Arc<ClientConfig>,
    /// Where a member serves the API; `None` when its endpoint does not tell.
    pub api_address: fn(&Member) -> Option<SocketAddr>,
}

/// Why the leader did not answer.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("its endpoint {endpoint} does not tell where it serves the API")]
    Endpoint { endpoint: String },
    #[error("cannot reach it at {address}: {source}")]
    Dial {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("the connection to {address} broke before it answered: {source}")]
    Answer {
        address: SocketAddr,
        source: hyper::Error,
    },
    #[error("it did not answer at {address} within {ANSWER_WAIT:?}")]
    Silent { address: SocketAddr },
}

/// Who sent a request, and how it came here.
pub(crate) struct Sender {
    pub(crate) user: Arc<Identity>,
    /// Whether another member passed it on: it is not passed on again, so that two members who each
    /// take the other for the leader do not play ball with it.
    pub(crate) passed_on: bool,
}

impl Sender {
    /// Reads whom a peer speaks for. Only a front proxy is believed; another peer's headers mean
    /// nothing.
    pub(crate) fn of(peer: Arc<Identity>, headers: &HeaderMap) -> Self {
        let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).ok();
        let user = headers.get(REMOTE_USER).and_then(text);
        match user {
            Some(user) if peer.user == FRONT_PROXY_USER && !user.is_empty() => Self {
                user: Arc::new(Identity {
                    user,
                    groups: headers
                        .get_all(REMOTE_GROUP)
                        .iter()
                        .filter_map(text)
                        .collect(),
                }),
                passed_on: true,
            },
            _ => Self {
                user: peer,
                passed_on: false,
            },
        }
    }
}

/// A request to be passed on: a read, without a body.
pub(crate) struct Question<'a> {
    pub(crate) user: &'a Identity,
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
}

impl FrontProxy {
    /// Answers with the leader's answer as it comes, until it ends or this server stops.
    pub(crate) async fn ask(
        &self,
        leader: &Member,
        question: &Question<'_>,
        stopping: CancellationToken,
    ) -> Result<Response, Status> {
        let request = question.request()?;
        let unreachable = |error: PassError| {
            tracing::warn!(leader = %leader.id, %error, "cannot pass a request on to the leader");
            Status::unavailable(format!(
                "cannot ask the leader, member {}: {error}",
                leader.id
            ))
        };
        let answer = self.exchange(leader, request).await.map_err(unreachable)?;
        let (mut parts, body) = answer.into_parts();
        for name in HOP_BY_HOP {
            parts.headers.remove(name);
        }
        let frames = body
            .into_data_stream()
            .map(|piece| piece.map(Frame::data).map_err(io::Error::other))
            .take_until(stopping.cancelled_owned());
        Ok(Response::from_parts(
            parts,
            StreamBody::new(frames).boxed_unsync(),
        ))
    }

    async fn exchange(
        &self,
        leader: &Member,
        request: http::Request<Empty<Bytes>>,
    ) -> Result<http::Response<Incoming>, PassError> {
        let address = (self.api_address)(leader).ok_or_else(|| PassError::Endpoint {
            endpoint: leader.endpoint.clone(),
        })?;
        let stream = timeout(DIAL_WAIT, self.dial(address))
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| PassError::Dial { address, source })?;
        let answered = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // It ends with the answer, or when its reader has gone.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "the connection to the leader ended early");
                }
            });
            sender.send_request(request).await
        };
        match timeout(ANSWER_WAIT, answered).await {
            Ok(answer) => answer.map_err(|source| PassError::Answer { address, source }),
            Err(_elapsed) => Err(PassError::Silent { address }),
        }
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let mut tls = (*self.tls).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(CONTROL_SERVER_NAME).expect("the constant is a DNS name");
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(tls))
            .connect(name, stream)
            .await
    }
}

impl Question<'_> {
    fn request(&self) -> Result<http::Request<Empty<Bytes>>, Status> {
        let refused =
            || Status::bad_request("a user or group whose name is not text cannot be passed on");
        let target = self
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let mut request = http::Request::new(Empty::new());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target.parse().map_err(|_| Status::unknown_path())?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_static(CONTROL_SERVER_NAME));
        for name in PASSED_ON {
            if let Some(value) = self.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).map_err(|_| refused());
        headers.insert(REMOTE_USER, value(&self.user.user)?);
        for group in &self.user.groups {
            headers.append(REMOTE_GROUP, value(group)?);
        }
        Ok(request)
    }
}
