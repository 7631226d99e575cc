//! Accepting connections: TLS, who is at the other end, HTTP/1.1 or HTTP/2, and an orderly end.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use fairlead_pki::Identity;
use fairlead_store::Store;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Config, Nodes, addresses::ServiceRanges, api::Api, discovery::Documents, router};

/// A client that does not finish its handshake by then is cut off.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// The same for the head of a request, and for an idle connection.
const HEADER_WAIT: Duration = Duration::from_secs(90);
/// How often a silent HTTP/2 connection is probed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long requests may take to end after the shutdown began.
const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// Requests one HTTP/2 connection may have open; a controller has a watch for every resource.
const STREAMS_MAX: u32 = 1_000;
/// After a failed accept (no file descriptors, most likely) the listener rests for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener cannot be used.
    #[error("cannot accept connections on {address}")]
    Listen {
        /// Where it listens, as far as that is known.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Serves the API until `shutdown` completes, then lets requests end.
///
/// # Errors
/// When a listener cannot be used; later failures concern one connection and are logged.
pub async fn serve(
    config: Config,
    store: Store,
    nodes: Arc<dyn Nodes>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let stopping = CancellationToken::new();
    let api = Arc::new(Api {
        store,
        nodes,
        service_addresses: ServiceRanges::new(config.service_cidr.iter()),
        documents: Documents::new(&config.version),
        front_proxy: config.front_proxy,
        stopping: stopping.clone(),
    });
    let mut tls = (*config.tls).clone();
    if tls.alpn_protocols.is_empty() {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    let acceptor = TlsAcceptor::from(Arc::new(tls));

    let tasks = TaskTracker::new();
    for listener in config.listeners {
        let (listener, address) = adopt(listener)?;
        tracing::info!(%address, "serving the API");
        let endpoint = Endpoint {
            api: Arc::clone(&api),
            acceptor: acceptor.clone(),
            clients: Arc::clone(&config.clients),
            tasks: tasks.clone(),
        };
        tasks.spawn(endpoint.accept(listener));
    }

    shutdown.await;
    stopping.cancel();
    tasks.close();
    if timeout(DRAIN_WAIT, tasks.wait()).await.is_err() {
        tracing::warn!("requests were cut off: they did not end in {DRAIN_WAIT:?}");
    }
    Ok(())
}

fn adopt(listener: std::net::TcpListener) -> Result<(TcpListener, SocketAddr), Error> {
    let shown = listener.local_addr().map(|address| address.to_string());
    let adopted = || -> io::Result<_> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    adopted().map_err(|source| Error::Listen {
        address: shown.unwrap_or_else(|_| "an unknown address".to_owned()),
        source,
    })
}

/// What every connection is given.
#[derive(Clone)]
struct Endpoint {
    api: Arc<Api>,
    acceptor: TlsAcceptor,
    clients: Arc<fairlead_pki::Clients>,
    tasks: TaskTracker,
}

impl Endpoint {
    async fn accept(self, listener: TcpListener) {
        let stopping = self.api.stopping.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopping.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    self.tasks.spawn(self.clone().converse(stream, peer));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn converse(self, stream: TcpStream, peer: SocketAddr) {
        let stopping = self.api.stopping.clone();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot turn off Nagle's algorithm");
        }
        let handshake = timeout(HANDSHAKE_WAIT, self.acceptor.accept(stream));
        let stream = tokio::select! {
            handshake = handshake => match handshake {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "the TLS handshake failed");
                    return;
                }
                Err(_elapsed) => {
                    tracing::debug!(%peer, "the TLS handshake took too long");
                    return;
                }
            },
            () = stopping.cancelled() => return,
        };
        let identity: Option<Arc<Identity>> = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| self.clients.identity(chain))
            .map(Arc::new);

        let api = self.api;
        let service = service_fn(move |request| {
            let answer = router::answer(Arc::clone(&api), identity.clone(), request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_WAIT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .max_concurrent_streams(STREAMS_MAX);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error, "the connection ended early");
        }
    }
}
