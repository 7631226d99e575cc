use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use fairlead_api::{Generation, NodeName, Revision, resource};
use fairlead_objects::{Change, Changed, Informer, Object, ObjectName, Recorder, Writer};
use fairlead_proto::node::{
    AgentMessage, ControlMessage, OpenTunnel, Parameters, node_server::NodeServer,
};
use fairlead_store::Store;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::MissedTickBehavior,
};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::{
    Enrollment, NodeProgress, NodeService, OpenError,
    announcements::{self, Announcer},
    compile::{self, Input, Memory},
    departures::Departures,
    identities::Identities,
    liveness::{Contact, LOOK_PERIOD, Limits, Liveness},
    loads::Loads,
    progress::Progress,
    reports::{Reports, is_declared_dead},
    session::{self, Session},
    silence::Marker,
    state::{Compiled, ObjectKey},
    tunnel::Tunnels,
};

/// The metadata that names the leader's endpoint to an agent that dialled another member.
const LEADER: &str = "fairlead-leader";
/// How many tunnels may be asked of a node before its session has passed them on.
const TUNNELS_MAX: usize = 16;

/// What the operator decided, and a few times.
#[derive(Clone, Debug)]
pub struct Config {
    /// What every node's dataplane is told.
    pub parameters: Parameters,
    /// The port on which each member serves nodes.
    pub node_port: u16,
    /// How long a node's lease holds without renewal.
    pub lease: Duration,
    /// How often it is renewed at most, however often the agent says that it lives.
    pub lease_renewal: Duration,
    /// How long a node may be silent before another answers for its VIPs, and others get the new
    /// connections of its pods.
    pub silence_max: Duration,
    /// How long a new leader waits for nodes that it has not heard before it counts them as silent.
    pub silence_grace: Duration,
    /// How long it waits for the others once more than half of the nodes are back. By the time that
    /// there is a new leader all agents have noticed that the one before is gone, and ask the members
    /// several times a second. A node that is later all the same loses its VIPs, and no connection.
    pub return_max: Duration,
    /// How long an agent that ended its session may be away before its node counts as silent.
    pub restart_max: Duration,
    /// How long a silent node has to be heard without a break before it is as before.
    pub steady_min: Duration,
    /// How long a pod that is to go may wait for all nodes' tables to let go of it.
    pub departure_max: Duration,
    /// How long an agent may be silent before its session is ended.
    pub idle_max: Duration,
    /// How long changes are gathered before they are compiled.
    pub gather: Duration,
}

impl Config {
    /// Usual times with these parameters.
    pub fn new(parameters: Parameters) -> Self {
        Self {
            parameters,
            node_port: 6444,
            lease: Duration::from_secs(40),
            lease_renewal: Duration::from_secs(10),
            silence_max: Duration::from_millis(1_500),
            silence_grace: Duration::from_secs(10),
            return_max: Duration::from_millis(500),
            restart_max: Duration::from_secs(15),
            steady_min: Duration::from_secs(5),
            departure_max: Duration::from_secs(2),
            idle_max: Duration::from_secs(30),
            gather: Duration::from_millis(5),
        }
    }
}

/// Why waiting for a generation ended without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// Not all connected nodes held it in time.
    #[error("generation {0} is not in all nodes' maps yet")]
    Deadline(Generation),
}

/// Compiles and publishes while this member leads, and serves the nodes.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
    enrollment: Arc<dyn Enrollment>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) writer: Writer,
    pub(crate) recorder: Recorder,
    pub(crate) tunnels: Tunnels,
    store: Store,
    /// The newest state; `None` while this member does not lead or has not compiled yet.
    states: watch::Sender<Option<Arc<Compiled>>>,
    sessions: Mutex<HashMap<String, SessionHandle>>,
    progress: Arc<Progress>,
    departures: Arc<Departures>,
    liveness: Arc<Liveness>,
    loads: Arc<Loads>,
}

/// How a node's session is reached. Dropping it ends the session.
struct SessionHandle {
    serial: uuid::Uuid,
    tunnels: mpsc::Sender<OpenTunnel>,
}

impl Publisher {
    /// A publisher on `store`. It does nothing before [`run`](Self::run).
    pub fn new(store: Store, config: Config, enrollment: Arc<dyn Enrollment>) -> Self {
        let writer = Writer::new(store.clone());
        let limits = Limits {
            silence_max: config.silence_max,
            grace: config.silence_grace,
            return_max: config.return_max,
            restart_max: config.restart_max,
            steady_min: config.steady_min,
        };
        let shared = Shared {
            departures: Arc::new(Departures::new(config.departure_max)),
            liveness: Arc::new(Liveness::new(limits)),
            loads: Arc::default(),
            config,
            recorder: Recorder::new(writer.clone(), "kubelet"),
            writer,
            tunnels: Tunnels::default(),
            store,
            states: watch::Sender::new(None),
            sessions: Mutex::default(),
            progress: Arc::default(),
        };
        Self {
            shared: Arc::new(shared),
            enrollment,
        }
    }

    /// The service that agents dial; served with TLS that asks for client certificates.
    pub fn node_service(&self) -> NodeServer<NodeService> {
        NodeServer::new(NodeService::new(
            self.shared.clone(),
            self.enrollment.clone(),
        ))
    }

    /// Asks a node's agent for something that comes as a stream: `logs`, `query`.
    pub async fn open(
        &self,
        node: &NodeName,
        kind: &str,
        request: serde_json::Value,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, OpenError> {
        let node = node.as_str();
        if !self.shared.store.leadership().borrow().is_leader {
            return Err(OpenError::NotLeading);
        }
        let session = self
            .shared
            .sessions()
            .get(node)
            .map(|session| session.tunnels.clone());
        let session = session.ok_or_else(|| OpenError::NotConnected(node.to_owned()))?;
        self.shared
            .tunnels
            .open(
                node,
                &session,
                kind,
                &request,
                self.shared.liveness.silence(node),
            )
            .await
    }

    /// How far each node is.
    pub fn status(&self) -> Vec<NodeProgress> {
        self.shared.progress.list(self.generation())
    }

    /// The generation of the newest state; 0 while this member publishes none.
    pub fn generation(&self) -> Generation {
        self.shared
            .states
            .borrow()
            .as_ref()
            .map_or(Generation(0), |state| state.generation)
    }

    /// Waits until the maps of all connected nodes correspond to this generation or a newer one.
    pub async fn applied(
        &self,
        generation: Generation,
        deadline: Duration,
    ) -> Result<(), WaitError> {
        let mut states = self.shared.states.subscribe();
        let applied = async {
            // The sender lives as long as `self`.
            let _ = states
                .wait_for(|state| {
                    state
                        .as_ref()
                        .is_some_and(|state| state.generation >= generation)
                })
                .await;
            self.shared.progress.reached(generation).await;
        };
        tokio::time::timeout(deadline, applied)
            .await
            .map_err(|_| WaitError::Deadline(generation))
    }

    /// Compiles and publishes whenever this member leads, until `shutdown`.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut leadership = self.shared.store.leadership();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                led = leadership.wait_for(|now| now.is_leader) => if led.is_err() { break },
            }
            let term = leadership.borrow().term;
            let lost = async {
                // Another term of our own counts as well: somebody may have led between the two.
                // An error means the store is gone, which ends the lead as well.
                let _ = leadership
                    .wait_for(|now| !now.is_leader || now.term != term)
                    .await;
            };
            let is_over = tokio::select! {
                () = &mut shutdown => true,
                () = lost => false,
                () = self.shared.publish() => true,
            };
            self.shared.stop();
            if is_over {
                break;
            }
            warn!("no longer leading: nodes are sent to the leader");
        }
    }
}

impl Shared {
    /// One term: compiles after every change that matters, until dropped or the store closes.
    async fn publish(&self) {
        let base = loop {
            match self.store.linearizable().await {
                Ok(snapshot) => break snapshot,
                Err(cause) => {
                    warn!(
                        error = &cause as &dyn std::error::Error,
                        "the lead is not confirmed yet"
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        self.liveness.begin();
        self.departures.begin();
        let informer = Informer::new(self.store.clone());
        let changed = Notify::new();
        changed.notify_one();
        let watching = informer.run(|change| {
            if concerns_nodes(change) {
                changed.notify_one();
            }
        });
        let compiling = async {
            // An empty cache would empty every node.
            informer.reached(base.revision()).await;
            let mut identities = Identities::load(&base);
            let mut memory = Memory::default();
            loop {
                changed.notified().await;
                tokio::time::sleep(self.config.gather).await;
                if let Err(cause) = self.compile(&informer, &mut identities, &mut memory).await {
                    warn!(
                        error = &cause as &dyn std::error::Error,
                        "not published; trying again"
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    identities = Identities::load(&self.store.snapshot());
                    // Numbers may be others now.
                    memory = Memory::default();
                    changed.notify_one();
                }
            }
        };
        tokio::select! {
            () = watching => {}
            () = compiling => {}
            () = self.announce(&informer) => {}
            () = self.mark_silence(&informer, base.revision()) => {}
            () = self.let_pods_go() => {}
        }
    }

    /// Gives every VIP a node that answers for it, whenever nodes or VIPs are others than before.
    async fn announce(&self, informer: &Informer) {
        let announcer = Announcer::new(self.writer.clone(), &self.recorder);
        let mut states = self.states.subscribe();
        let mut look = tokio::time::interval(LOOK_PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = None;
        loop {
            tokio::select! {
                // The sender lives as long as `self`.
                _ = states.changed() => {}
                _ = look.tick() => {}
            }
            let Some(state) = states.borrow_and_update().clone() else {
                continue;
            };
            let standings = self.liveness.standings(state.announcers.iter());
            let now = (state.generation, standings);
            if before.as_ref() == Some(&now) {
                continue;
            }
            let cache = informer.cache();
            let (written, has_failed) = announcer.reconcile(&cache, &state.vips, &now.1).await;
            before = (!has_failed).then_some(now);
            // What was written must be seen before it is looked at again.
            if let Some(revision) = written {
                informer.reached(revision).await;
            }
        }
    }

    /// Marks nodes that fall silent, and those that are back.
    async fn mark_silence(&self, informer: &Informer, base: Revision) {
        let marker = Marker::new(self.writer.clone(), &self.recorder);
        // How many are most of them shows only once all are known.
        informer.reached(base).await;
        let mut look = tokio::time::interval(LOOK_PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let cache = informer.cache();
            let expected = cache.nodes.iter().filter(|node| !is_declared_dead(node));
            let names = expected.map(|node| node.object_name().name);
            self.liveness.expect(names.collect());
            // A mark that is written must be seen before it is looked at again.
            let written = marker.reconcile(&cache, &self.liveness).await;
            if let Some(revision) = written {
                informer.reached(revision).await;
            }
        }
    }

    /// Lets pods go that nothing new is for any more on the nodes that are heard of.
    async fn let_pods_go(&self) {
        let mut departures = self.departures.subscribe();
        let mut progress = self.progress.subscribe();
        loop {
            let is_heard = |node: &str| self.liveness.contact(node) != Contact::Lost;
            let is_held = |generation| self.progress.holds(generation, is_heard);
            let next = self.departures.let_go(is_held);
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Both senders live as long as `self`.
                _ = departures.changed() => {}
                _ = progress.changed() => {}
                () = due => {}
            }
        }
    }

    async fn compile(
        &self,
        informer: &Informer,
        identities: &mut Identities,
        memory: &mut Memory,
    ) -> Result<(), crate::identities::Error> {
        let cache = informer.cache();
        identities
            .ensure(&compile::wanted(&cache), &self.store)
            .await?;
        let snapshot = self.store.snapshot();
        let object = |(kind, namespace, name): &ObjectKey| {
            let resource = if kind == "Secret" {
                &resource::SECRET
            } else {
                &resource::CONFIG_MAP
            };
            let entry = snapshot.get(&ObjectName::new(namespace, name).key(resource))?;
            Some(entry.value.clone())
        };
        let input = Input {
            cache: &cache,
            identities,
            parameters: &self.config.parameters,
            object: &object,
        };
        let compiled = compile::compile(&input, memory);
        self.progress
            .retain(|node| compiled.workloads.contains_key(node));
        debug!(
            generation = compiled.generation.0,
            services = compiled.dataplane.services.len(),
            "compiled"
        );
        self.departures.note(&compiled);
        self.states.send_replace(Some(Arc::new(compiled)));
        Ok(())
    }

    /// Ends all sessions; agents look for the leader.
    fn stop(&self) {
        self.states.send_replace(None);
        self.sessions().clear();
    }

    /// Refuses what only the leader can do, naming it.
    pub(crate) fn require_lead(&self) -> Result<(), Status> {
        if self.store.leadership().borrow().is_leader {
            Ok(())
        } else {
            Err(self.not_leading())
        }
    }

    fn not_leading(&self) -> Status {
        let mut status =
            Status::failed_precondition("this member of the control plane does not lead");
        let leader = self.store.leadership().borrow().leader.clone();
        let endpoint =
            leader.and_then(|leader| node_endpoint(&leader.endpoint, self.config.node_port));
        if let Some(value) = endpoint.and_then(|endpoint| endpoint.parse().ok()) {
            status.metadata_mut().insert(LEADER, value);
        }
        status
    }

    /// Starts the session of a node that was registered, ending an older one of it.
    pub(crate) fn begin_session(
        self: Arc<Self>,
        node: String,
        held: Generation,
        incoming: Streaming<AgentMessage>,
        reports: Reports,
    ) -> Result<mpsc::Receiver<Result<ControlMessage, Status>>, Status> {
        let (outgoing, received) = mpsc::channel(session::QUEUE);
        let (sender, tunnels) = mpsc::channel(TUNNELS_MAX);
        let serial = uuid::Uuid::new_v4();
        self.sessions().insert(
            node.clone(),
            SessionHandle {
                serial,
                tunnels: sender,
            },
        );
        // Whoever lost the lead since the first look has cleared the sessions, or does so now.
        if let Err(status) = self.require_lead() {
            self.sessions().remove(&node);
            return Err(status);
        }
        self.progress.connected(&node, held);
        self.liveness.heard_of(&node);
        self.loads.begin(&node, serial);
        info!(node, generation = held.0, "session begins");
        let session = Session {
            node: node.clone(),
            outgoing,
            states: self.states.subscribe(),
            tunnels,
            progress: self.progress.clone(),
            departures: self.departures.clone(),
            liveness: self.liveness.clone(),
            loads: self.loads.clone(),
            idle_max: self.config.idle_max,
            lease_renewal: self.config.lease_renewal,
        };
        tokio::spawn(async move {
            let has_left = session.run(incoming, reports, || self.not_leading()).await;
            self.loads.end(&node, serial);
            let mut sessions = self.sessions();
            if sessions
                .get(&node)
                .is_none_or(|current| current.serial == serial)
            {
                sessions.remove(&node);
                self.progress.disconnected(&node);
                if has_left {
                    self.liveness.left(&node);
                }
            }
        });
        Ok(received)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, SessionHandle>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a change can make any node's state another.
fn concerns_nodes(change: &Change) -> bool {
    match &change.changed {
        Changed::Service(_)
        | Changed::EndpointSlice(_)
        | Changed::Namespace(_)
        | Changed::Node(_)
        | Changed::Pod(_) => true,
        Changed::Lease(delta) => delta
            .sides()
            .any(|lease| announcements::is_announcement(lease)),
        Changed::Other(_) => matches!(change.resource.kind, "ConfigMap" | "Secret"),
        _ => false,
    }
}

/// Where nodes reach the member whose peers reach it at `https://ADDRESS:PORT`.
fn node_endpoint(peer: &str, port: u16) -> Option<String> {
    let authority = peer.split_once("://").map_or(peer, |(_, rest)| rest);
    let host = authority.rsplit_once(':')?.0.trim_matches(['[', ']']);
    Some(match host.parse::<IpAddr>() {
        Ok(address) => std::net::SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leader_is_named_by_the_address_that_nodes_dial() {
        for (peer, expected) in [
            ("https://198.18.0.11:6445", Some("198.18.0.11:6444")),
            ("https://[2001:db8::1]:6445", Some("[2001:db8::1]:6444")),
            ("https://control-1:6445", Some("control-1:6444")),
            ("nonsense", None),
        ] {
            assert_eq!(node_endpoint(peer, 6444).as_deref(), expected, "{peer}");
        }
    }
}
