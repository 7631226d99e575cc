//! One port of a service: what it is to be, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use fairlead_api::{BackendId, NodeName, VpcId};
use fairlead_proto::node::{self as proto, BackendState, FrontendScope, Protocol};
use ipnetwork::IpNetwork;

use super::field::{Invalid, address, invalid, network, nonzero, optional_port, port, vpc};
use super::{DEFAULT_NETWORK, FrontendAt, NodePortAt};
use crate::forwarding::Forwarding;

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// "namespace/name" and the port's name if it has one, "namespace/name:port".
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// The network of its clients and backends.
    pub vpc: VpcId,
    /// Where it answers.
    pub frontends: Vec<Frontend>,
    /// Who answers.
    pub backends: BTreeMap<BackendId, Backend>,
    /// Who of them gets a new connection.
    pub scheduler: Scheduler,
    /// How its packets reach backends on other nodes.
    pub forwarding: Forwarding,
    /// How they are encapsulated for machines outside the cluster.
    pub tunnel: Tunnel,
    /// Whether every flow is noted, also where the pick alone would do.
    pub is_always_tracked: bool,
    /// How long noted flows live.
    pub timeouts: Timeouts,
    /// For how long a client keeps its backend; `None` where each connection is picked for.
    pub affinity: Option<Duration>,
    /// Whether packets from outside are for backends of the node they enter alone.
    pub external_local: bool,
    /// Whether sockets of a node are for backends of that node alone.
    pub internal_local: bool,
    /// Who may use the external frontends; empty: everybody.
    pub source_ranges: BTreeSet<IpNetwork>,
    /// The port at which it answers at each node's own address.
    pub node_port: Option<u16>,
    /// Where a node says over HTTP whether it has backends of its own.
    pub health_check_node_port: Option<u16>,
    /// How this node finds out whether backends outside the cluster answer.
    pub health_check: Option<HealthCheck>,
    /// How long a backend that drains keeps its connections; `None`: until they end.
    pub drain: Option<Duration>,
}

/// Who gets a new connection. Named as in IPVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheduler {
    /// `maglev`: by the flow's hash, in proportion to weights.
    Maglev,
    /// `rr`: one after the other.
    RoundRobin,
    /// `wrr`: one after the other, as often as its weight says.
    WeightedRoundRobin,
    /// `lc`: who has the fewest connections.
    LeastConnections,
    /// `wlc`: who has the fewest connections for its weight.
    WeightedLeastConnections,
    /// `sh`: by the client's address.
    SourceHash,
    /// `dh`: by the service's address.
    DestinationHash,
    /// `sed`: who would have the fewest connections for its weight with one more.
    ShortestExpectedDelay,
    /// `nq`: who is idle, else as `sed`.
    NeverQueue,
}

impl Scheduler {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Maglev,
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnections,
        Self::WeightedLeastConnections,
        Self::SourceHash,
        Self::DestinationHash,
        Self::ShortestExpectedDelay,
        Self::NeverQueue,
    ];

    /// As IPVS calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::LeastConnections => "lc",
            Self::WeightedLeastConnections => "wlc",
            Self::SourceHash => "sh",
            Self::DestinationHash => "dh",
            Self::ShortestExpectedDelay => "sed",
            Self::NeverQueue => "nq",
        }
    }

    /// Whether new connections take the backends in turn.
    pub const fn is_in_turn(self) -> bool {
        matches!(self, Self::RoundRobin | Self::WeightedRoundRobin)
    }

    /// Whether it compares how many connections backends have.
    pub const fn counts_connections(self) -> bool {
        matches!(
            self,
            Self::LeastConnections
                | Self::WeightedLeastConnections
                | Self::ShortestExpectedDelay
                | Self::NeverQueue
        )
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How packets for machines outside the cluster are encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tunnel {
    /// IP in IP (RFC 2003, RFC 2473).
    #[default]
    Ipip,
    /// Generic UDP encapsulation, variant 1 (draft-ietf-intarea-gue §4).
    Gue,
}

/// How long a noted flow lives after its last packet, by what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection in use.
    pub established: Duration,
    /// A connection that its client has begun to close.
    pub closing: Duration,
    /// Datagrams.
    pub datagrams: Duration,
}

impl Timeouts {
    /// A connection whose client has sent its SYN and nothing since. As IPVS' SYN_RECV; nobody has
    /// asked for another.
    pub const OPENING: Duration = Duration::from_secs(60);
}

impl Default for Timeouts {
    /// Those of IPVS.
    fn default() -> Self {
        Self {
            established: Duration::from_secs(900),
            closing: Duration::from_secs(120),
            datagrams: Duration::from_secs(300),
        }
    }
}

/// How a backend outside the cluster is asked whether it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What it is asked.
    pub kind: HealthCheckKind,
    /// At which of its ports; `None`: at the one that is balanced.
    pub port: Option<u16>,
    /// Between two checks.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So many successes in a row make it healthy.
    pub rise: u32,
    /// So many failures in a row make it unhealthy.
    pub fall: u32,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// For a connection.
    Tcp,
    /// For a document: an answer of 2xx or 3xx is a success.
    Http {
        /// Which, "/healthz".
        path: String,
    },
    /// For an echo (RFC 792, RFC 4443).
    Ping,
}

/// An address and port a service answers at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The address, or all those of a prefix.
    pub address: IpNetwork,
    /// The port.
    pub port: u16,
    /// Whether packets from outside may ask for it (a VIP), or sockets of the cluster only.
    pub external: bool,
}

/// One that answers for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Where it runs; empty if outside the cluster.
    pub node: NodeName,
    /// Its share of new connections, relative to the others of the service.
    pub weight: u32,
    /// Gets no new connections.
    pub draining: bool,
    /// What people call it.
    pub name: String,
}

impl Backend {
    /// Whether it is a machine outside the cluster.
    pub fn is_outside(&self) -> bool {
        self.node.as_str().is_empty()
    }
}

impl Service {
    /// Where it answers, but for its node port.
    pub(super) fn places(&self) -> impl Iterator<Item = FrontendAt> {
        self.frontends
            .iter()
            .map(|at| (self.vpc, at.address, self.protocol, at.port))
    }

    /// The machines outside the cluster that it forwards to. Those of a tenant's network are out of
    /// this node's reach.
    pub(super) fn servers(&self) -> BTreeSet<IpAddr> {
        let is_reachable = |backend: &&Backend| self.vpc == DEFAULT_NETWORK && backend.is_outside();
        let outside = self.backends.values().filter(is_reachable);
        outside.map(|backend| backend.address).collect()
    }

    /// Its node port, at addresses of the families that its frontends have.
    pub(super) fn node_port_places(&self) -> impl Iterator<Item = NodePortAt> {
        let has_family = |is_v4| {
            let same = |frontend: &Frontend| frontend.address.is_ipv4() == is_v4;
            self.frontends.is_empty() || self.frontends.iter().any(same)
        };
        let families = [true, false]
            .into_iter()
            .filter(move |is_v4| has_family(*is_v4));
        families.filter_map(|is_v4| Some((is_v4, self.protocol, self.node_port?)))
    }

    pub(super) fn check(at: &str, service: &proto::Service) -> Result<Self, Invalid> {
        let mut checked = Self {
            name: match service.port_name.as_str() {
                "" => format!("{}/{}", service.namespace, service.name),
                port => format!("{}/{}:{port}", service.namespace, service.name),
            },
            protocol: check_protocol(at, service.protocol)?,
            vpc: vpc(at, service.vpc)?,
            frontends: Vec::with_capacity(service.frontends.len()),
            backends: BTreeMap::new(),
            scheduler: check_scheduler(at, &service.scheduler)?,
            forwarding: check_forwarding(at, &service.forwarding)?,
            tunnel: check_tunnel(at, &service.tunnel)?,
            is_always_tracked: check_tracking(at, &service.tracking)?,
            timeouts: check_timeouts(service.timeouts.as_ref()),
            affinity: seconds(service.affinity_seconds),
            external_local: service.external_local,
            internal_local: service.internal_local,
            source_ranges: BTreeSet::new(),
            node_port: optional_port(at, "node_port", service.node_port)?,
            health_check_node_port: optional_port(
                at,
                "health_check_node_port",
                service.health_check_node_port,
            )?,
            health_check: match &service.health_check {
                Some(check) => Some(check_health_check(&format!("{at}.health_check"), check)?),
                None => None,
            },
            drain: seconds(service.drain_seconds),
        };
        for (index, text) in service.source_ranges.iter().enumerate() {
            let range = network(&format!("{at}.source_ranges[{index}]"), text)?;
            checked.source_ranges.insert(range);
        }
        for (index, frontend) in service.frontends.iter().enumerate() {
            let frontend = check_frontend(&format!("{at}.frontends[{index}]"), frontend)?;
            checked.frontends.push(frontend);
        }
        for (index, backend) in service.backends.iter().enumerate() {
            let at = format!("{at}.backends[{index}]");
            let id = BackendId(nonzero(&at, "id", backend.id)?);
            let backend = check_backend(&at, backend)?;
            if checked.backends.insert(id, backend).is_some() {
                return Err(invalid(&format!("{at}.id"), format!("{id} is given twice")));
            }
        }
        if checked.forwarding == Forwarding::Auto && checked.has_server_at_another_port() {
            checked.forwarding = Forwarding::Nat;
        }
        Ok(checked)
    }

    /// Whether a machine outside the cluster listens at a port that clients do not name: it gets packets
    /// as they are by anything but nat.
    fn has_server_at_another_port(&self) -> bool {
        let external = self.frontends.iter().filter(|at| at.external);
        let asked = external.map(|at| at.port);
        let mut pairs = asked.flat_map(|port| self.backends.values().map(move |one| (port, one)));
        pairs.any(|(port, backend)| backend.is_outside() && backend.port != port)
    }
}

fn check_protocol(at: &str, number: i32) -> Result<u8, Invalid> {
    match Protocol::try_from(number) {
        Ok(Protocol::Unspecified) | Err(_) => {
            let problem = format!("{number} is no protocol of a service");
            Err(invalid(&format!("{at}.protocol"), problem))
        }
        Ok(known) => Ok(known as u8),
    }
}

fn check_scheduler(at: &str, text: &str) -> Result<Scheduler, Invalid> {
    if text.is_empty() {
        return Ok(Scheduler::Maglev);
    }
    let named = Scheduler::ALL.into_iter().find(|one| one.name() == text);
    named.ok_or_else(|| unknown(at, "scheduler", text, &Scheduler::ALL.map(Scheduler::name)))
}

fn check_forwarding(at: &str, text: &str) -> Result<Forwarding, Invalid> {
    Ok(match text {
        "auto" | "" => Forwarding::Auto,
        "dr" => Forwarding::Dr,
        "tun" => Forwarding::Tun,
        "nat" => Forwarding::Nat,
        _ => {
            return Err(unknown(
                at,
                "forwarding",
                text,
                &["auto", "dr", "tun", "nat"],
            ));
        }
    })
}

fn check_tunnel(at: &str, text: &str) -> Result<Tunnel, Invalid> {
    match text {
        "ipip" | "" => Ok(Tunnel::Ipip),
        "gue" => Ok(Tunnel::Gue),
        _ => Err(unknown(at, "tunnel", text, &["ipip", "gue"])),
    }
}

fn check_tracking(at: &str, text: &str) -> Result<bool, Invalid> {
    match text {
        "auto" | "" => Ok(false),
        "always" => Ok(true),
        _ => Err(unknown(at, "tracking", text, &["auto", "always"])),
    }
}

fn unknown(at: &str, name: &str, text: &str, known: &[&str]) -> Invalid {
    let problem = format!("\"{text}\" is none of {}", known.join(", "));
    invalid(&format!("{at}.{name}"), problem)
}

fn check_timeouts(timeouts: Option<&proto::Timeouts>) -> Timeouts {
    let defaults = Timeouts::default();
    let timeouts = timeouts.copied().unwrap_or_default();
    Timeouts {
        established: seconds(timeouts.established_seconds).unwrap_or(defaults.established),
        closing: seconds(timeouts.fin_seconds).unwrap_or(defaults.closing),
        datagrams: seconds(timeouts.udp_seconds).unwrap_or(defaults.datagrams),
    }
}

/// A duration that need not be: 0 stands for none.
fn seconds(value: u32) -> Option<Duration> {
    (value > 0).then(|| Duration::from_secs(value.into()))
}

fn check_health_check(at: &str, check: &proto::HealthCheck) -> Result<HealthCheck, Invalid> {
    let kind = match check.kind.as_str() {
        "tcp" => HealthCheckKind::Tcp,
        "http" if check.path.starts_with('/') => HealthCheckKind::Http {
            path: check.path.clone(),
        },
        "http" => {
            let problem = format!("\"{}\" does not begin with a slash", check.path);
            return Err(invalid(&format!("{at}.path"), problem));
        }
        "ping" => HealthCheckKind::Ping,
        other => return Err(unknown(at, "kind", other, &["tcp", "http", "ping"])),
    };
    let milliseconds =
        |name, value| nonzero(at, name, value).map(|value| Duration::from_millis(value.into()));
    Ok(HealthCheck {
        kind,
        port: optional_port(at, "port", check.port)?,
        interval: milliseconds("interval_milliseconds", check.interval_milliseconds)?,
        timeout: milliseconds("timeout_milliseconds", check.timeout_milliseconds)?,
        rise: nonzero(at, "rise", check.rise)?,
        fall: nonzero(at, "fall", check.fall)?,
    })
}

fn check_frontend(at: &str, frontend: &proto::Frontend) -> Result<Frontend, Invalid> {
    let external = match FrontendScope::try_from(frontend.scope) {
        Ok(FrontendScope::External) => true,
        Ok(FrontendScope::Cluster) => false,
        Ok(FrontendScope::Unspecified) | Err(_) => {
            let problem = format!("{} is no scope", frontend.scope);
            return Err(invalid(&format!("{at}.scope"), problem));
        }
    };
    let first = address(at, &frontend.address)?;
    let address = match frontend.prefix_length {
        0 => first.into(),
        _ if !external => {
            let field = format!("{at}.prefix_length");
            return Err(invalid(&field, "is for external frontends only"));
        }
        length => prefix(at, first, length)?,
    };
    Ok(Frontend {
        address,
        port: port(at, "port", frontend.port)?,
        external,
    })
}

fn prefix(at: &str, first: IpAddr, length: u32) -> Result<IpNetwork, Invalid> {
    let field = || format!("{at}.prefix_length");
    let range = u8::try_from(length)
        .ok()
        .and_then(|length| IpNetwork::new(first, length).ok())
        .ok_or_else(|| invalid(&field(), format!("{length} is more than {first} has bits")))?;
    if range.network() != first {
        return Err(invalid(&field(), format!("{range} has host bits set")));
    }
    Ok(range)
}

fn check_backend(at: &str, backend: &proto::Backend) -> Result<Backend, Invalid> {
    let draining = match BackendState::try_from(backend.state) {
        Ok(BackendState::Active) => false,
        Ok(BackendState::Draining) => true,
        Ok(BackendState::Unspecified) | Err(_) => {
            let problem = format!("{} is no state of a backend", backend.state);
            return Err(invalid(&format!("{at}.state"), problem));
        }
    };
    Ok(Backend {
        address: address(at, &backend.address)?,
        port: port(at, "port", backend.port)?,
        node: NodeName::new(&backend.node),
        weight: backend.weight,
        draining,
        name: backend.name.clone(),
    })
}
