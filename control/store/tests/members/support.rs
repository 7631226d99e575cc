//! Members of one cluster in one process, over real sockets on the loopback.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fairlead_api::Index;
use fairlead_store::{
    Config, Expect, Key, Leadership, Limits, MemberId, Op, RevisionedBytes, Store, Timing,
    Transaction,
};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tonic::transport::{Server, server::TcpIncoming};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const CLUSTER: &str = "test-cluster";

/// Members that can be stopped and started again.
pub(crate) struct Cluster {
    dir: TempDir,
    limits: Limits,
    members: Vec<Member>,
}

/// One member, running or not.
pub(crate) struct Member {
    pub(crate) id: MemberId,
    address: SocketAddr,
    data_dir: PathBuf,
    running: Option<Running>,
}

struct Running {
    store: Store,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Cluster {
    /// Starts a cluster of `size` voters.
    pub(crate) async fn start(size: u64, limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut cluster = Self {
            dir,
            limits,
            members: Vec::new(),
        };
        cluster.add(MemberId(1)).await;
        cluster
            .store(0)
            .initialize()
            .await
            .expect("the first member leads");
        for id in 2..=size {
            cluster.add(MemberId(id)).await;
            let (newest, first) = (cluster.members.len() - 1, cluster.endpoint(0));
            let joined = cluster.store(newest).join(&first).await;
            joined.unwrap_or_else(|e| panic!("member {id} joins: {e}"));
        }
        cluster
    }

    /// Starts a member that belongs to no cluster yet.
    pub(crate) async fn add(&mut self, id: MemberId) {
        let listener = listen("127.0.0.1:0".parse().expect("an address")).await;
        let member = Member {
            id,
            address: listener.local_addr().expect("it is bound"),
            data_dir: self.dir.path().join(id.to_string()),
            running: None,
        };
        self.members.push(member);
        let newest = self.members.len() - 1;
        self.run(newest, listener).await;
    }

    pub(crate) fn store(&self, member: usize) -> &Store {
        let running = self.members[member].running.as_ref();
        &running.expect("the member runs").store
    }

    pub(crate) fn endpoint(&self, member: usize) -> String {
        format!("http://{}", self.members[member].address)
    }

    pub(crate) fn data_dir(&self, member: usize) -> &Path {
        &self.members[member].data_dir
    }

    /// Cuts a member off and stops it.
    pub(crate) async fn stop(&mut self, member: usize) {
        let running = self.members[member]
            .running
            .take()
            .expect("the member runs");
        let Running {
            store,
            stop,
            server,
        } = running;
        let _ = stop.send(());
        server.abort();
        let _ = server.await;
        store.shutdown().await;
    }

    /// Starts a stopped member again, from its disk, at its old address.
    pub(crate) async fn restart(&mut self, member: usize) {
        let listener = listen(self.members[member].address).await;
        self.run(member, listener).await;
    }

    async fn run(&mut self, member: usize, listener: TcpListener) {
        let (id, endpoint) = (self.members[member].id, self.endpoint(member));
        let data_dir = self.members[member].data_dir.clone();
        let config = config(data_dir, id, endpoint, self.limits.clone());
        let store = Store::open(config).await.expect("the store opens");
        let (stop, stopped) = oneshot::channel::<()>();
        let service = store.raft_service();
        let server = tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let serve = Server::builder().add_service(service);
            let stopped = async { drop(stopped.await) };
            let served = serve.serve_with_incoming_shutdown(incoming, stopped).await;
            served.expect("the listener works");
        });
        self.members[member].running = Some(Running {
            store,
            stop,
            server,
        });
    }

    /// Which member leads, once one of those that run does.
    pub(crate) async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for (i, member) in self.members.iter().enumerate() {
                let Some(running) = &member.running else {
                    continue;
                };
                if running.store.leadership().borrow().is_leader {
                    return i;
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody leads");
    }

    /// Those that run and do not lead.
    pub(crate) async fn followers(&self) -> Vec<usize> {
        let leader = self.leader().await;
        (0..self.members.len())
            .filter(|&i| i != leader && self.members[i].running.is_some())
            .collect()
    }
}

pub(crate) fn config(
    data_dir: PathBuf,
    member: MemberId,
    endpoint: String,
    limits: Limits,
) -> Config {
    Config {
        data_dir,
        member,
        cluster_id: CLUSTER.to_owned(),
        endpoint,
        tls: None,
        timing: Timing {
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(500),
            request: PATIENCE,
        },
        limits,
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let listener = timeout(PATIENCE, async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                // The connections of the member's former life linger.
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    });
    listener.await.expect("the address is free in time")
}

/// Waits until this member sees itself lead, or another.
pub(crate) async fn knows_leader(store: &Store) -> Leadership {
    let mut leadership = store.leadership();
    let known = leadership.wait_for(|now| now.leader.is_some());
    let known = timeout(PATIENCE, known)
        .await
        .expect("a leader is seen in time");
    known.expect("the store runs").clone()
}

/// Waits until a member shows a key.
pub(crate) async fn shows(store: &Store, key: &str) {
    let shown = || store.snapshot().get(&Key::raw(key)).is_some();
    eventually(&format!("{key} arrives"), shown).await;
}

/// Waits until something holds that is told to a member in the background.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn put(key: &str, expect: Expect, text: &str) -> Transaction {
    let op = Op::Put {
        key: Key::raw(key),
        expect,
        value: RevisionedBytes {
            head: text.as_bytes().to_vec().into(),
            tail: Default::default(),
        },
        index: Arc::new(Index::default()),
    };
    Transaction {
        checks: Vec::new(),
        ops: vec![op],
    }
}

pub(crate) fn delete(key: &str) -> Transaction {
    let op = Op::Delete {
        key: Key::raw(key),
        expect: Expect::Any,
    };
    Transaction {
        checks: Vec::new(),
        ops: vec![op],
    }
}

pub(crate) fn pod(name: impl std::fmt::Display) -> String {
    format!("/registry/core/pods/default/{name}")
}
