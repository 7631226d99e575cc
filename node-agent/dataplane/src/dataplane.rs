mod viewer;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairlead_api::{BackendId, Generation, NodeName};
use fairlead_dataplane_common::maps;
use ipnetwork::IpNetwork;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use self::viewer::Viewer;
use crate::Error;
use crate::announce::Announcer;
use crate::apply::PodEntries;
use crate::changes::Changes;
use crate::desired::Desired;
use crate::inquiry::{self, LocalBackends, ServerCheck};
use crate::jiffies::Jiffies;
use crate::limits::FlowLimits;
use crate::loader::{Loaded, Place};
use crate::local::Local;
use crate::neighbours;
use crate::netlink::Netlink;
use crate::packet_socket::PacketSocket;
use crate::pod_network::{self, PodNetwork, encapsulation_bytes};
use crate::probing;
use crate::state::State;
use crate::sweep::{self, Swept};
use crate::sys;
use crate::uplinks;

/// How often the maps are read anew and compared with what they should hold.
const RESYNC_PERIOD: Duration = Duration::from_secs(600);

/// How often ended flows are cleared away, and what waits for them goes on.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// Where a node's dataplane lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node_name: NodeName,
    /// Its own address, on an uplink: where other nodes encapsulate for.
    pub address: IpAddr,
    /// Its address of the other family, if it has one.
    pub other_address: Option<IpAddr>,
    /// Interfaces that lead to other nodes and to clients, the one with `address` first.
    pub uplinks: Vec<String>,
    /// The node's own directory on a bpffs; one is mounted if there is none.
    pub bpffs: PathBuf,
    /// The cgroup v2 directory whose sockets' connects are translated: the node's processes and
    /// its pods.
    pub cgroup: PathBuf,
    /// Where the record of pods' addresses is kept.
    pub state_dir: PathBuf,
    /// What the node gives for noting flows.
    pub flow_limits: FlowLimits,
}

impl Config {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(self.address), self.other_address]
            .into_iter()
            .flatten()
    }

    /// Where the programs and maps of this version of the layouts are.
    fn place(&self) -> Place {
        Place {
            bpffs: self.bpffs.clone(),
            uplinks: self.uplinks.clone(),
            cgroup: self.cgroup.clone(),
            version: maps::SCHEMA_VERSION,
        }
    }
}

/// What an apply did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What the maps hold now.
    pub generation: Generation,
    /// How many changes of maps that took; 0 if they held it already.
    pub actions: usize,
}

/// The packet path of a node. Dropping it leaves everything in the kernel as it is: programs go on
/// forwarding by what the maps hold, and the next [`Dataplane::open`] adopts them.
pub struct Dataplane {
    config: Config,
    state: Arc<Mutex<State>>,
    pods: PodNetwork,
    /// One pod is connected or disconnected at a time.
    pod_changes: tokio::sync::Mutex<()>,
    nodes: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    neighbours: JoinHandle<()>,
    probing: JoinHandle<()>,
    /// Tells that there may be another node to probe.
    to_probe: Arc<Notify>,
    uplinks: JoinHandle<()>,
    announcer: Arc<Announcer>,
    in_force: watch::Sender<Generation>,
    resync: JoinHandle<()>,
    sweep: JoinHandle<()>,
    jiffies: Arc<Jiffies>,
    viewer: Viewer,
}

impl fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataplane")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.neighbours.abort();
        self.probing.abort();
        self.uplinks.abort();
        self.resync.abort();
        self.sweep.abort();
    }
}

impl Dataplane {
    /// Loads the programs or adopts what is pinned, attaches them to the uplinks and the cgroup,
    /// and makes pods' links, address record and maps agree. Services, nodes and routes in the
    /// maps stay as they are until a state is applied.
    ///
    /// Where programs of another version of the maps' layouts are attached, these stay there and
    /// serve until a whole state has been applied.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let place = config.place();
        Self::open_at(config, place).await
    }

    async fn open_at(config: Config, place: Place) -> Result<Self, Error> {
        std::fs::create_dir_all(&config.state_dir).map_err(|source| Error::Directory {
            path: config.state_dir.clone(),
            source,
        })?;
        let netlink = Netlink::open().map_err(Error::Socket)?;
        let (uplink, mtu) = inspect_uplinks(&netlink, &config.uplinks).await?;
        let pod_mtu = mtu.saturating_sub(encapsulation_bytes(config.address));
        let addresses = config.addresses().collect();
        let pods = PodNetwork::open(netlink.clone(), addresses, pod_mtu, &config.state_dir)?;

        let loaded = Loaded::open(&place)?;
        let addresses = (config.address, config.other_address);
        let local = Local {
            flow_limits: config.flow_limits,
            has_one_uplink: config.uplinks.len() == 1,
            ..Local::new(addresses, pods.ranges(), uplink, mtu)
        };
        let mut state = State::read(loaded, local)?;
        state.refresh_local()?;
        let known_uplinks = uplinks::read(&netlink, &config.uplinks).await?;
        state.set_uplinks(&known_uplinks)?;
        recover_pods(&pods, &mut state).await?;

        let known = state
            .observed
            .nodes
            .values()
            .map(|node| node.address.into())
            .collect();
        let (nodes, wanted) = watch::channel(Arc::new(known));
        let state = Arc::new(Mutex::new(state));
        let socket = PacketSocket::open().map_err(Error::Socket)?;
        let announcer = Arc::new(Announcer::start(socket, Arc::clone(&state)));
        announcer.set_uplinks(known_uplinks);
        let names = config.uplinks.clone();
        let (announcing, written) = (Arc::clone(&announcer), Arc::clone(&state));
        let uplinks = tokio::spawn(follow_uplinks(netlink.clone(), names, written, announcing));
        let to_probe = Arc::new(Notify::new());
        let found = follow_neighbours(netlink, wanted, Arc::clone(&state), Arc::clone(&to_probe));
        let neighbours = tokio::spawn(found);
        let socket = PacketSocket::open().map_err(Error::Socket)?;
        let probing = probing::keep_proving(Arc::clone(&state), socket, Arc::clone(&to_probe));
        let probing = tokio::spawn(probing);
        let resync = tokio::spawn(keep_in_sync(Arc::clone(&state)));
        let jiffies = Arc::new(Jiffies::open().map_err(Error::Clock)?);
        let sweep = tokio::spawn(keep_swept(Arc::clone(&state), Arc::clone(&jiffies)));
        let viewer = Viewer::open(place.pins(), &state)?;
        let pod_changes = tokio::sync::Mutex::new(());
        Ok(Self {
            config,
            state,
            pods,
            pod_changes,
            nodes,
            neighbours,
            probing,
            to_probe,
            uplinks,
            announcer,
            in_force: watch::Sender::new(Generation::default()),
            resync,
            sweep,
            jiffies,
            viewer,
        })
    }

    /// Brings the maps to what the control plane wants at `generation`, which differs by `changes`
    /// from what was applied last, or is whole. A state that is invalid, too large or older than
    /// the one in force is refused whole; the one in force may be applied again.
    pub async fn apply(
        &self,
        changes: Arc<Changes>,
        generation: Generation,
    ) -> Result<Applied, Error> {
        let concerns_nodes =
            changes.is_whole || !changes.nodes.is_empty() || !changes.services.is_empty();
        let own = self.config.node_name.clone();
        // Populating tables is work for the processor, and a first state has thousands.
        let actions = self
            .with_state(move |state| state.apply(&changes, &own, generation))
            .await?;
        if concerns_nodes {
            self.follow_nodes();
        }
        self.announcer.set_vips(self.state().announced());
        self.settle_soon();
        self.in_force.send_replace(generation);
        if actions > 0 {
            tracing::debug!(%generation, actions, "dataplane state applied");
        }
        Ok(Applied {
            generation,
            actions,
        })
    }

    /// Tells when another state has come into force.
    pub fn in_force(&self) -> watch::Receiver<Generation> {
        self.in_force.subscribe()
    }

    /// The backends outside the cluster that are to be checked, by the state in force.
    pub fn server_checks(&self) -> Vec<ServerCheck> {
        inquiry::server_checks(&self.desired())
    }

    /// The health-check ports, and what is to be said there, by the state in force.
    pub fn local_backends(&self) -> BTreeMap<u16, LocalBackends> {
        inquiry::local_backends(&self.desired())
    }

    /// Says whether the control plane is in touch, so that what it said last about who announces a
    /// VIP holds. While it is not, a VIP that somebody else announces is left to them.
    pub fn set_in_session(&self, is_in_session: bool) {
        self.announcer.set_in_session(is_in_session);
    }

    /// Waits until nothing is left in the maps of the states before the one in force. That happens
    /// by itself soon after each [`Self::apply`].
    pub async fn settle(&self) -> Result<(), Error> {
        self.with_state(|state| {
            state.settle()?;
            state.rest()?;
            state.settle()
        })
        .await
    }

    /// Reads the maps anew, and puts right what is not as it should be: how many changes that
    /// took. Done by itself from time to time.
    pub async fn resync(&self) -> Result<usize, Error> {
        self.with_state(State::resync).await
    }

    /// Clears away flows that have ended, and goes on with what has waited for that. Done by itself
    /// every few seconds.
    pub async fn sweep(&self) -> Result<Swept, Error> {
        sweep_once(Arc::clone(&self.state), Arc::clone(&self.jiffies)).await
    }

    /// How many connections backends have on this node, of services whose scheduler counts them; as
    /// the last sweep has seen. Who is not named has none.
    pub fn loads(&self) -> HashMap<BackendId, u32> {
        self.state().connections().clone()
    }

    /// Tells the schedulers that count connections how many backends have on other nodes. Who is
    /// not named has as many as before.
    pub async fn set_loads_elsewhere(&self, loads: Vec<(BackendId, u32)>) -> Result<(), Error> {
        self.with_state(move |state| state.set_loads_elsewhere(loads))
            .await
    }

    /// Takes backends outside the cluster out of their services' tables as long as they are among
    /// these, with the connections they have.
    pub async fn set_unhealthy(&self, backends: BTreeSet<BackendId>) -> Result<(), Error> {
        self.with_state(move |state| state.set_unhealthy(backends))
            .await?;
        self.settle_soon();
        Ok(())
    }

    /// What the maps hold, also across restarts. 0 if nothing was ever applied.
    pub fn generation(&self) -> Generation {
        self.state().observed.generation
    }

    /// Gives new pods an address from each of `cidrs`, which are one a family. Pods that are
    /// connected keep theirs.
    pub async fn set_pod_cidrs(&self, cidrs: Vec<IpNetwork>) -> Result<(), Error> {
        if self.pods.ranges() == cidrs {
            return Ok(());
        }
        self.pods.set_ranges(&cidrs)?;
        self.state().set_pod_ranges(cidrs)
    }

    /// Connects a pod: makes its network namespace at `netns` if there is none, gives it
    /// addresses and a guarded link. The addresses, one a family. Doing it again repairs what is
    /// missing.
    pub async fn attach_pod(&self, pod_uid: &str, netns: &Path) -> Result<Vec<IpAddr>, Error> {
        let _turn = self.pod_changes.lock().await;
        let pod = self.pods.prepare(pod_uid, netns).await?;
        {
            // The guard is in place before the link is up: the pod's first packet meets it.
            let mut state = self.state();
            state.loaded.attach_pod_veth(pod.host.index)?;
            state.loaded.tables.set_pod(&PodEntries::from(&pod))?;
        }
        self.pods.raise(&pod).await?;
        tracing::info!(pod = pod_uid, addresses = ?pod.addresses, link = pod.host.name, "pod connected");
        Ok(pod.addresses)
    }

    /// Disconnects a pod, and removes its network namespace and every trace of it. Doing it again,
    /// or for a pod that never was, is no error.
    pub async fn detach_pod(&self, pod_uid: &str, netns: &Path) -> Result<(), Error> {
        let _turn = self.pod_changes.lock().await;
        if let Some(addresses) = self.pods.addresses(pod_uid) {
            let link = self.pods.find(pod_uid).await?;
            let mut state = self.state();
            let interface = link.map(|pod| pod.host.index);
            state.loaded.tables.remove_pod(&addresses, interface)?;
            if let Some(interface) = interface {
                state.loaded.detach_pod_veth(interface)?;
            }
            tracing::info!(pod = pod_uid, ?addresses, "pod disconnected");
        }
        Ok(self.pods.remove(pod_uid, netns).await?)
    }

    /// Detaches every program and removes every pin, link, route and record of the node: what
    /// uninstalling does. Pods' processes have to be gone.
    pub async fn destroy(config: &Config) -> Result<(), Error> {
        Loaded::remove(&config.place())?;
        let netlink = Netlink::open().map_err(Error::Socket)?;
        Ok(pod_network::remove_all(&netlink, &config.state_dir).await?)
    }

    /// The state in force; what it holds is shared, so nobody waits while it is looked at.
    fn desired(&self) -> Desired {
        self.state().desired.clone().unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) async fn with_state<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        with_state(Arc::clone(&self.state), work).await
    }

    /// Has the ways to the nodes and real servers of the state in force looked for.
    fn follow_nodes(&self) {
        let desired = self.desired();
        let servers = desired.servers.keys().copied();
        let nodes = desired.other_nodes().map(|node| node.address);
        let addresses: BTreeSet<IpAddr> = nodes.chain(servers).collect();
        self.state().retain_ways(&addresses);
        self.nodes.send_if_modified(|known| {
            let changed = **known != addresses;
            *known = Arc::new(addresses);
            changed
        });
        self.to_probe.notify_one();
    }

    /// Clears away the state before once no program reads it, while others may use the lock.
    fn settle_soon(&self) {
        let Some(left) = self.state().unsettled() else {
            return;
        };
        let state = Arc::clone(&self.state);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = clear_away(&state, left) {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the state before could not be cleared away");
            }
        });
    }
}

pub(crate) async fn with_state<T: Send + 'static>(
    state: Arc<Mutex<State>>,
    work: impl FnOnce(&mut State) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let working = tokio::task::spawn_blocking(move || work(&mut lock(&state)));
    working.await.map_err(|_| Error::Panicked)?
}

/// Puts the maps right from time to time, in case somebody else has written to them.
async fn keep_in_sync(state: Arc<Mutex<State>>) {
    let mut turn = tokio::time::interval(RESYNC_PERIOD);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turn.reset();
    loop {
        turn.tick().await;
        match with_state(Arc::clone(&state), State::resync).await {
            Ok(0) => {}
            Ok(actions) => {
                tracing::warn!(actions, "the maps did not hold what was written to them");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    "the maps could not be compared with the state in force"
                );
            }
        }
    }
}

/// Clears away the state before, which is named `left`, and what was kept of it in vain, while others may
/// use the lock.
fn clear_away(state: &Mutex<State>, left: u64) -> Result<(), Error> {
    let mut left = Some(left);
    while let Some(named) = left {
        sys::wait_for_programs();
        let mut state = lock(state);
        state.clear_away(named)?;
        if state.unsettled().is_none() {
            state.rest()?;
        }
        left = state.unsettled();
    }
    Ok(())
}

async fn sweep_once(state: Arc<Mutex<State>>, jiffies: Arc<Jiffies>) -> Result<Swept, Error> {
    let sweeping = tokio::task::spawn_blocking(move || {
        let (maps, rules) = {
            let state = lock(&state);
            (state.loaded.tables.swept.clone(), state.rules())
        };
        let Some(rules) = rules else {
            return Ok(Swept::default());
        };
        let swept = sweep::sweep(&maps, &rules, &jiffies).map_err(Error::Sweep)?;
        let left = {
            let mut state = lock(&state);
            state.take_sweep(swept.clone())?;
            state.unsettled()
        };
        if let Some(left) = left {
            clear_away(&state, left)?;
        }
        Ok(swept)
    });
    sweeping.await.map_err(|_| Error::Panicked)?
}

async fn keep_swept(state: Arc<Mutex<State>>, jiffies: Arc<Jiffies>) {
    let mut turn = tokio::time::interval(SWEEP_PERIOD);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        match sweep_once(Arc::clone(&state), Arc::clone(&jiffies)).await {
            Ok(swept) if swept.removed > 0 => {
                let Swept { removed, flows, .. } = swept;
                tracing::debug!(removed, flows, "flows that have ended were cleared away");
            }
            Ok(_) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "flows that have ended could not be cleared away");
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Every change of a map is recorded right after it: a panic in between leaves at most one call's
    // unrecorded, and the maps are read anew at the next start.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first uplink's index, and the smallest MTU of all.
async fn inspect_uplinks(netlink: &Netlink, names: &[String]) -> Result<(u32, u32), Error> {
    let mut links = Vec::with_capacity(names.len());
    for name in names {
        let link = netlink.link(name).await?;
        links.push(link.ok_or_else(|| Error::NoUplink { name: name.clone() })?);
    }
    let mtu = links.iter().map(|link| link.mtu).min();
    match (links.first(), mtu) {
        (Some(first), Some(mtu)) => Ok((first.index, mtu)),
        _ => Err(Error::NoUplinks),
    }
}

/// Brings the maps to the pods that are really there.
async fn recover_pods(pods: &PodNetwork, state: &mut State) -> Result<(), Error> {
    let found = pods.recover().await?;
    let entries: Vec<PodEntries> = found.iter().map(PodEntries::from).collect();
    state.loaded.tables.retain_pods(&entries)?;
    for (pod, entry) in found.iter().zip(&entries) {
        state.loaded.attach_pod_veth(pod.host.index)?;
        state.loaded.tables.set_pod(entry)?;
        pods.raise(pod).await?;
    }
    Ok(())
}

async fn follow_uplinks(
    netlink: Netlink,
    names: Vec<String>,
    state: Arc<Mutex<State>>,
    announcer: Arc<Announcer>,
) {
    let followed = uplinks::follow(netlink, names, |uplinks| {
        if let Err(error) = lock(&state).set_uplinks(&uplinks) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "what the uplinks are like could not be written");
        }
        announcer.set_uplinks(uplinks);
    });
    if let Err(error) = followed.await {
        tracing::error!(%error, "changes of the uplinks are not followed any more");
    }
}

async fn follow_neighbours(
    netlink: Netlink,
    wanted: neighbours::Wanted,
    state: Arc<Mutex<State>>,
    to_probe: Arc<Notify>,
) {
    let followed = neighbours::follow(netlink, wanted, |node, way| {
        let written = lock(&state).set_way(node, way);
        match written {
            Ok(true) => to_probe.notify_one(),
            Ok(false) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(%node, error, "the way to a node could not be written");
            }
        }
    });
    if let Err(error) = followed.await {
        // Packets still flow: XDP keeps the ways it has, and hands up the others.
        tracing::error!(%error, "ways to other nodes are not followed any more");
    }
}

#[cfg(test)]
mod tests;
