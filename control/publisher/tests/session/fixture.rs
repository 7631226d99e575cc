//! A control plane with a real store and server, and the agent's half of the conversation.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fairlead_api::k8s_openapi::api::core::v1::{Namespace, Pod};
use fairlead_objects::{Object, Writer};
use fairlead_proto::node::{
    Acknowledgement, AgentMessage, ControlMessage, Delta, Hello, JoinRequest, JoinResponse,
    RenewRequest, RenewResponse, Snapshot, agent_message::Message as ToControl,
    control_message::Message as ToAgent, node_client::NodeClient,
};
use fairlead_publisher::{Config, Enrollment, Publisher};
use fairlead_store::{MemberId, Store};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Status, Streaming,
    transport::{
        Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
    },
};

/// How long anything may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Lets nobody in, and tells a node that renews its certificate who it was taken for.
struct NoEnrollment;

#[async_trait]
impl Enrollment for NoEnrollment {
    async fn join(&self, _: JoinRequest) -> Result<JoinResponse, Status> {
        Err(Status::permission_denied("nobody joins in this test"))
    }

    async fn renew(&self, node: &str, _: RenewRequest) -> Result<RenewResponse, Status> {
        Ok(RenewResponse {
            certificate_pem: node.to_owned(),
        })
    }
}

/// A certificate authority and what it signs.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn identity(&self, common_name: &str) -> Identity {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity::from_pem(certificate.pem(), key.serialize_pem())
    }
}

pub(crate) struct Control {
    pub(crate) publisher: Publisher,
    pub(crate) writer: Writer,
    pub(crate) authority: Authority,
    pub(crate) port: u16,
    pub(crate) tasks: tokio::task::JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl Control {
    pub(crate) async fn start() -> Self {
        Self::start_with(true).await
    }

    pub(crate) async fn start_with(is_initialized: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(fairlead_store::Config {
            data_dir: directory.path().to_owned(),
            member: MemberId(1),
            cluster_id: "test".to_owned(),
            endpoint: "https://198.18.0.11:6445".to_owned(),
            tls: None,
            timing: fairlead_store::Timing::default(),
            limits: fairlead_store::Limits::default(),
        })
        .await
        .unwrap();
        if is_initialized {
            store.initialize().await.unwrap();
        }
        let config = Config {
            lease_renewal: Duration::ZERO,
            steady_min: Duration::from_secs(1),
            departure_max: DEADLINE,
            ..Config::new(fairlead_proto::node::Parameters {
                vxlan_port: 4789,
                ..Default::default()
            })
        };
        let publisher = Publisher::new(store.clone(), config, Arc::new(NoEnrollment));
        let authority = Authority::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = ServerTlsConfig::new()
            .identity(authority.identity("control"))
            .client_ca_root(Certificate::from_pem(&authority.pem))
            .client_auth_optional(true);
        let mut tasks = tokio::task::JoinSet::new();
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(publisher.node_service());
        tasks.spawn(async move {
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        let running = publisher.clone();
        tasks.spawn(async move { running.run(std::future::pending()).await });
        let writer = Writer::new(store);
        let control = Self {
            publisher,
            writer,
            authority,
            port,
            tasks,
            _directory: directory,
        };
        if is_initialized {
            for name in ["default", "kube-node-lease", "kube-system"] {
                control
                    .create::<Namespace>(json!({"metadata": {"name": name}}))
                    .await;
            }
        }
        control
    }

    pub(crate) async fn create<K: Object>(&self, value: Value) -> K {
        self.writer
            .create(serde_json::from_value::<K>(value).unwrap())
            .await
            .unwrap()
            .object
    }

    pub(crate) async fn channel(&self, common_name: Option<&str>) -> Channel {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authority.pem))
            .domain_name("localhost");
        if let Some(name) = common_name {
            tls = tls.identity(self.authority.identity(name));
        }
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{}", self.port)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn agent(&self, name: &str) -> Agent {
        let channel = self.channel(Some(&format!("system:node:{name}"))).await;
        Agent::connect(channel, name).await.unwrap()
    }

    pub(crate) async fn pod(&self, name: &str, node: &str) -> Pod {
        self.create(json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        }))
        .await
    }

    /// Waits until `check` finds what it looks for in the store.
    pub(crate) async fn until<T>(&self, what: &str, check: impl Fn() -> Option<T>) -> T {
        let store = self.writer.store();
        let mut watch = store
            .watch("/registry/", store.snapshot().revision())
            .unwrap();
        let found = async {
            loop {
                if let Some(found) = check() {
                    return found;
                }
                watch.next().await.unwrap();
            }
        };
        within(what, found).await
    }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// The agent's half of a session.
pub(crate) struct Agent {
    pub(crate) client: NodeClient<Channel>,
    pub(crate) outgoing: mpsc::Sender<AgentMessage>,
    pub(crate) incoming: Streaming<ControlMessage>,
}

impl Agent {
    pub(crate) async fn connect(channel: Channel, name: &str) -> Result<Self, Status> {
        let mut client = NodeClient::new(channel);
        let (outgoing, sent) = mpsc::channel(16);
        let node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "198.18.0.101"}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        let hello = Hello {
            node_name: name.to_owned(),
            node_json: node.to_string().into(),
            generation: 0,
        };
        outgoing
            .send(AgentMessage {
                message: Some(ToControl::Hello(hello)),
            })
            .await
            .unwrap();
        let incoming = client
            .session(ReceiverStream::new(sent))
            .await?
            .into_inner();
        Ok(Self {
            client,
            outgoing,
            incoming,
        })
    }

    pub(crate) async fn say(&self, message: ToControl) {
        self.outgoing
            .send(AgentMessage {
                message: Some(message),
            })
            .await
            .unwrap();
    }

    pub(crate) async fn acknowledge(&self, generation: u64) {
        self.say(ToControl::Acknowledgement(Acknowledgement {
            generation,
            ..Default::default()
        }))
        .await;
    }

    pub(crate) async fn next(&mut self) -> ToAgent {
        let message = within("a message", self.incoming.message()).await;
        message
            .unwrap()
            .expect("the session goes on")
            .message
            .unwrap()
    }

    /// The snapshot the session begins with, acknowledged.
    pub(crate) async fn snapshot(&mut self) -> Snapshot {
        let ToAgent::Snapshot(snapshot) = self.next().await else {
            panic!("no snapshot")
        };
        self.acknowledge(snapshot.generation).await;
        snapshot
    }

    /// The next delta that `is_wanted`, each acknowledged. Each must lead on from the one before.
    pub(crate) async fn delta(
        &mut self,
        held: &mut u64,
        is_wanted: impl Fn(&Delta) -> bool,
    ) -> Delta {
        loop {
            let ToAgent::Delta(delta) = self.next().await else {
                panic!("no delta")
            };
            assert!(delta.base_generation >= *held && delta.generation > delta.base_generation);
            *held = delta.generation;
            self.acknowledge(delta.generation).await;
            if is_wanted(&delta) {
                return delta;
            }
        }
    }
}
