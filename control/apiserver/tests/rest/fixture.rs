//! A server of its own for every test, and a client that speaks to it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fairlead_api::{NodeName, status::Status};
use fairlead_apiserver::{Config, FRONT_PROXY_USER, FrontProxy, Nodes, serve};
use fairlead_pki::{Authority, CONTROL_SERVER_NAME, Clients, Leaf, Subject, Usage};
use fairlead_store::{Limits, MemberId, Store, Timing};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::TcpListenerStream;

/// Nothing in these tests takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The nodes of the test: they say what they are told to, and remember what they were asked.
#[derive(Default)]
pub(crate) struct ScriptedNodes {
    /// Taken by the next question in place of `pieces`: what is sent into it while the answer is
    /// being read.
    pub(crate) live: Mutex<Option<mpsc::Receiver<Result<Bytes, String>>>>,
    pub(crate) pieces: Mutex<Vec<Result<Bytes, String>>>,
    pub(crate) asked: Mutex<Vec<(String, String, Value)>>,
}

#[async_trait]
impl Nodes for ScriptedNodes {
    async fn open(
        &self,
        node: &NodeName,
        kind: &str,
        request: Value,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, Status> {
        let asked = (node.as_str().to_owned(), kind.to_owned(), request);
        self.asked.lock().unwrap().push(asked);
        if let Some(live) = self.live.lock().unwrap().take() {
            return Ok(live);
        }
        let pieces = std::mem::take(&mut *self.pieces.lock().unwrap());
        let (sender, receiver) = mpsc::channel(pieces.len().max(1));
        for piece in pieces {
            sender.try_send(piece).unwrap();
        }
        Ok(receiver)
    }

    async fn status(&self) -> Value {
        serde_json::json!([{ "node": "node-1", "connected": true }])
    }
}

/// What the members of one cluster share: who signs their certificates.
pub(crate) struct Realm {
    authority: Authority,
}

impl Default for Realm {
    fn default() -> Self {
        let authority = Authority::generate("test").unwrap();
        Self { authority }
    }
}

/// Where the servers of this process serve the API, by their peer endpoints: tests take any port.
static API_ADDRESSES: Mutex<BTreeMap<String, SocketAddr>> = Mutex::new(BTreeMap::new());

/// What differs from test to test.
pub(crate) struct Setting {
    pub(crate) realm: Arc<Realm>,
    pub(crate) member: MemberId,
    pub(crate) service_cidr: &'static str,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            realm: Arc::default(),
            member: MemberId(1),
            service_cidr: "10.96.0.0/16",
            timing: Timing {
                heartbeat: Duration::from_millis(20),
                election: Duration::from_millis(100),
                ..Timing::default()
            },
            limits: Limits::default(),
        }
    }
}

/// A running server; it is stopped when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    pub(crate) realm: Arc<Realm>,
    pub(crate) nodes: Arc<ScriptedNodes>,
    store: Store,
    /// How other members reach its store.
    pub(crate) endpoint: String,
    peers: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    _data: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Setting::default()).await
    }

    pub(crate) async fn with(setting: Setting) -> Self {
        let server = Self::without_leader(setting).await;
        server.store.initialize().await.unwrap();
        server.create_namespaces().await;
        server
    }

    /// A server whose store is in no cluster yet.
    pub(crate) async fn without_leader(setting: Setting) -> Self {
        fairlead_pki::install_crypto_provider();
        let data = tempfile::tempdir().unwrap();
        let peers = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", peers.local_addr().unwrap());
        let store = Store::open(fairlead_store::Config {
            data_dir: data.path().to_owned(),
            member: setting.member,
            cluster_id: "test".to_owned(),
            endpoint: endpoint.clone(),
            tls: None,
            timing: setting.timing,
            limits: setting.limits,
        })
        .await
        .unwrap();

        let raft = tonic::transport::Server::builder().add_service(store.raft_service());
        let peers = tokio::spawn(async move {
            raft.serve_with_incoming(TcpListenerStream::new(peers))
                .await
                .unwrap();
        });

        let realm = setting.realm;
        let authority = &realm.authority;
        let subject = Subject {
            common_name: "control",
            organization: None,
            names: &["127.0.0.1".to_owned(), CONTROL_SERVER_NAME.to_owned()],
        };
        let leaf = authority.issue(&subject, Usage::Server).unwrap();
        let clients = Arc::new(Clients::of_authority(authority.certificate_pem()).unwrap());
        let tls = fairlead_pki::server_config(&leaf, Arc::clone(&clients)).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut addresses = API_ADDRESSES.lock().unwrap();
        addresses.insert(endpoint.clone(), address);
        drop(addresses);
        let subject = Subject {
            common_name: FRONT_PROXY_USER,
            ..Subject::default()
        };
        let leaf = authority.issue(&subject, Usage::Client).unwrap();
        let front_proxy = FrontProxy {
            tls: fairlead_pki::client_config(Some(&leaf), authority.certificate_pem())
                .unwrap()
                .into(),
            api_address: |member| {
                let addresses = API_ADDRESSES.lock().unwrap();
                addresses.get(&member.endpoint).copied()
            },
        };
        let nodes = Arc::new(ScriptedNodes::default());
        let config = Config {
            listeners: vec![listener],
            tls: Arc::new(tls),
            clients,
            service_cidr: setting.service_cidr.parse().unwrap(),
            version: "1.37.0+fairlead-test".to_owned(),
            front_proxy: Some(front_proxy),
        };
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn({
            let nodes: Arc<dyn Nodes> = nodes.clone();
            let store = store.clone();
            async move {
                let shutdown = async {
                    let _ = stopped.await;
                };
                serve(config, store, nodes, shutdown).await.unwrap();
            }
        });
        Self {
            address,
            realm,
            nodes,
            store,
            endpoint,
            peers,
            stop: Some(stop),
            serving: Some(serving),
            _data: data,
        }
    }

    /// Makes it a member of another's cluster.
    pub(crate) async fn join(&self, other: &Self) {
        self.store.join(&other.endpoint).await.unwrap();
    }

    /// What the controllers do first in a cluster.
    async fn create_namespaces(&self) {
        for name in ["default", "kube-public"] {
            let namespace = serde_json::json!({ "metadata": { "name": name } });
            self.admin()
                .post("/api/v1/namespaces", &namespace)
                .await
                .expect(201);
        }
    }

    /// A client with all rights.
    pub(crate) fn admin(&self) -> Client {
        self.client("admin", Some("system:masters"))
    }

    /// A client with a certificate.
    pub(crate) fn client(&self, user: &str, group: Option<&str>) -> Client {
        let subject = Subject {
            common_name: user,
            organization: group,
            names: &[],
        };
        let leaf = self.realm.authority.issue(&subject, Usage::Client).unwrap();
        self.connecting(Some(&leaf))
    }

    /// A client with a certificate of somebody else's authority of the same name.
    pub(crate) fn foreigner(&self, user: &str, group: Option<&str>) -> Client {
        let subject = Subject {
            common_name: user,
            organization: group,
            names: &[],
        };
        let foreign = Authority::generate("test").unwrap();
        self.connecting(Some(&foreign.issue(&subject, Usage::Client).unwrap()))
    }

    /// A client without one.
    pub(crate) fn stranger(&self) -> Client {
        self.connecting(None)
    }

    fn connecting(&self, leaf: Option<&Leaf>) -> Client {
        let mut tls =
            fairlead_pki::client_config(leaf, self.realm.authority.certificate_pem()).unwrap();
        tls.alpn_protocols.clear();
        Client {
            address: self.address,
            tls: TlsConnector::from(Arc::new(tls)),
        }
    }

    /// Stops the server, but not its store, and waits until it is down.
    pub(crate) async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(serving) = self.serving.take() {
            timeout(PATIENCE, serving)
                .await
                .expect("the server stops")
                .unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.peers.abort();
    }
}

/// A client that makes a connection for every request.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    tls: TlsConnector,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// `Null` when the answer is not JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// The answer's body, which must have this code.
    #[track_caller]
    pub(crate) fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.body
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

impl Client {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], &body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[], &body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], "").await
    }

    /// `kind` is `merge`, `strategic-merge` or `json`.
    pub(crate) async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let content_type = match kind {
            "json" => "application/json-patch+json".to_owned(),
            kind => format!("application/{kind}-patch+json"),
        };
        let headers = [("content-type", content_type.as_str())];
        self.send("PATCH", path, &headers, &body.to_string()).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let answered = async {
            let response = self.request(method, path, headers, body).await;
            let (parts, incoming) = response.into_parts();
            let bytes = incoming.collect().await.unwrap().to_bytes();
            Answer {
                code: parts.status.as_u16(),
                headers: parts.headers,
                body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
                text: String::from_utf8_lossy(&bytes).into_owned(),
            }
        };
        timeout(PATIENCE, answered)
            .await
            .expect("the server answers")
    }

    /// Opens a watch; `path` has its parameters.
    pub(crate) async fn watch(&self, path: &str) -> Watching {
        self.watch_as(path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Watching {
        let headers = [("accept", accept)];
        let response = timeout(PATIENCE, self.request("GET", path, &headers, ""))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        Watching {
            body: response.into_body(),
            unread: Vec::new(),
        }
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> http::Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = self.address.ip().into();
        let stream = self.tls.connect(name, stream).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.to_owned()));
        sender
            .send_request(request.body(body).unwrap())
            .await
            .unwrap()
    }
}

/// A watch under way.
pub(crate) struct Watching {
    body: Incoming,
    unread: Vec<u8>,
}

impl Watching {
    /// The next event; `None` when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let event = async {
            loop {
                if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = self.unread.drain(..=end).collect();
                    return Some(serde_json::from_slice(&line).unwrap());
                }
                let frame = self.body.frame().await?.unwrap();
                self.unread.extend_from_slice(frame.data_ref().unwrap());
            }
        };
        timeout(PATIENCE, event).await.expect("an event comes")
    }

    /// The next event's type and object name.
    pub(crate) async fn next_named(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch goes on");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&event["type"]),
            text(&event["object"]["metadata"]["name"]),
        )
    }
}
