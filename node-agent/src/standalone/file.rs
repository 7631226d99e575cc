//! What a standalone balancer's file says: its shape, with the place of everything that can be
//! wrong in a way the shape does not show.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use fairlead_api::balancing::{CheckKind, HealthCheck};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::field::{Milliseconds, Seconds};
use crate::config::{Flows, default_cgroup};

/// How long a server may take to answer a check that does not say.
const TIMEOUT_MILLISECONDS: u32 = 1_000;

/// Why a file is refused: where it is wrong, and how.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Invalid {
    /// The file.
    pub(crate) path: PathBuf,
    /// Counted from 1; 0 where no line is to blame.
    pub(crate) line: u64,
    /// The way to it, "services[0].backends[2].port"; empty where the file is no YAML.
    pub(crate) field: String,
    /// What is wrong, for people.
    pub(crate) problem: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.path.display(), self.line)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) node: Spanned<Node>,
    #[serde(default)]
    pub(crate) services: Vec<Service>,
}

/// This machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    /// The host's name unless given.
    #[serde(default = "host_name")]
    pub(crate) name: String,
    /// Its address, on the first uplink.
    pub(crate) address: IpAddr,
    /// Its address of the other family, if it has one.
    #[serde(default)]
    pub(crate) other_address: Option<IpAddr>,
    /// Interfaces that packets for VIPs arrive on, and leave by to servers.
    pub(crate) uplinks: Vec<String>,
    /// Keys the flow hash: 32 hexadecimal digits. Balancers that share VIPs need the same one.
    #[serde(default)]
    pub(crate) hash_seed: Option<super::field::Seed>,
    #[serde(default = "default_bpffs")]
    pub(crate) bpffs: PathBuf,
    #[serde(default = "default_cgroup")]
    pub(crate) cgroup: PathBuf,
    /// What is kept between two runs, and the socket for netctl.
    #[serde(default = "default_state_dir")]
    pub(crate) state_dir: PathBuf,
    #[serde(default)]
    pub(crate) flows: Flows,
}

/// Ports that are balanced over the same servers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    pub(crate) name: Spanned<String>,
    /// Addresses, or whole prefixes.
    pub(crate) vips: Spanned<Vec<Spanned<IpNetwork>>>,
    pub(crate) ports: Spanned<Vec<Spanned<u16>>>,
    #[serde(default)]
    pub(crate) protocol: Protocol,
    #[serde(default)]
    pub(crate) scheduler: Scheduler,
    #[serde(default)]
    pub(crate) forwarding: Forwarding,
    #[serde(default)]
    pub(crate) tunnel: Tunnel,
    #[serde(default)]
    pub(crate) tracking: Tracking,
    /// How long a client keeps its server; not at all unless given.
    #[serde(default)]
    pub(crate) affinity: Option<Seconds>,
    #[serde(default)]
    pub(crate) timeouts: Timeouts,
    /// How long a server of weight 0 keeps its connections; until they end unless given.
    #[serde(default)]
    pub(crate) drain: Option<Seconds>,
    /// Who may use it; everybody unless given.
    #[serde(default)]
    pub(crate) source_ranges: Vec<Spanned<IpNetwork>>,
    /// Whether this node answers for the VIPs on its segment. Off where a router has a route.
    #[serde(default)]
    pub(crate) announce: Option<Spanned<bool>>,
    /// Servers are taken to be healthy unless given.
    #[serde(default)]
    pub(crate) health: Option<Spanned<Health>>,
    pub(crate) backends: Vec<Backend>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// Named as in IPVS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scheduler {
    #[default]
    Maglev,
    Rr,
    Wrr,
    Lc,
    Wlc,
    Sh,
    Dh,
    Sed,
    Nq,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Forwarding {
    #[default]
    Auto,
    Dr,
    Tun,
    Nat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tunnel {
    #[default]
    Ipip,
    Gue,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tracking {
    #[default]
    Auto,
    Always,
}

/// How long what is known of a flow outlives its last packet; IPVS' defaults unless given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timeouts {
    #[serde(default)]
    pub(crate) established: Option<Seconds>,
    #[serde(default)]
    pub(crate) fin: Option<Seconds>,
    #[serde(default)]
    pub(crate) udp: Option<Seconds>,
}

/// How a server shows that it is healthy. The defaults are keepalived's in spirit: a failure is
/// believed after three, a recovery after two.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Health {
    pub(crate) check: Check,
    /// The server's own port unless given.
    #[serde(default)]
    pub(crate) port: Option<Spanned<u16>>,
    /// Of `http`; "/" unless given.
    #[serde(default)]
    pub(crate) path: Option<Spanned<String>>,
    #[serde(default = "default_interval")]
    pub(crate) interval: Milliseconds,
    /// A second unless given, or the interval where that is shorter.
    #[serde(default)]
    pub(crate) timeout: Option<Milliseconds>,
    #[serde(default = "default_rise")]
    pub(crate) rise: Spanned<u32>,
    #[serde(default = "default_fall")]
    pub(crate) fall: Spanned<u32>,
}

impl Health {
    /// The check it asks for, as annotations of a Service could ask for it.
    pub(crate) fn asked(&self) -> HealthCheck {
        let kind = match self.check {
            Check::Tcp => CheckKind::Tcp,
            Check::Http => CheckKind::Http,
            Check::Ping => CheckKind::Ping,
        };
        let path = match &self.path {
            Some(path) => &path.value,
            None if kind == CheckKind::Http => "/",
            None => "",
        };
        let interval_milliseconds = self.interval.0;
        HealthCheck {
            kind,
            port: self.port.as_ref().map_or(0, |port| port.value),
            path: path.to_owned(),
            interval_milliseconds,
            timeout_milliseconds: match self.timeout {
                Some(timeout) => timeout.0,
                None => TIMEOUT_MILLISECONDS.min(interval_milliseconds),
            },
            rise: self.rise.value,
            fall: self.fall.value,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Check {
    Tcp,
    Http,
    Ping,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backend {
    pub(crate) address: Spanned<IpAddr>,
    /// The service's own port unless given.
    #[serde(default)]
    pub(crate) port: Option<Spanned<u16>>,
    /// Its share of new connections; 0: none, those it has go on.
    #[serde(default = "default_weight")]
    pub(crate) weight: u16,
}

impl File {
    /// Reads the shape. What it means is for [`super::compile`] to check.
    ///
    /// # Errors
    /// The text is no YAML, or something in it is unknown, missing or of another type.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, Invalid> {
        // The budget is for files of strangers; this one is the administrator's, and may be long.
        let options = serde_saphyr::options! { budget: None };
        let mut field = String::new();
        let parsed = serde_saphyr::with_deserializer_from_str_with_options(text, options, |file| {
            serde_path_to_error::deserialize(file).map_err(|at| {
                // `Spanned` is a struct with the value in a field of this name; ours have none.
                field = at.path().to_string().replace(".value", "");
                at.into_inner()
            })
        });
        let error = match parsed {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        Err(Invalid {
            path: path.to_owned(),
            line: error.location().map_or(0, |place| place.line()),
            field: if field == "." { String::new() } else { field },
            problem: reason(&error),
        })
    }
}

/// What a parser says, without its own picture of the place.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let place = error.location().map(describe).unwrap_or_default();
    text.replace(&place, "")
}

fn describe(place: Location) -> String {
    format!(" at line {}, column {}", place.line(), place.column())
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_else(|_| "balancer".to_owned())
}

fn default_bpffs() -> PathBuf {
    PathBuf::from("/sys/fs/bpf/fairlead")
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/fairlead/standalone")
}

fn default_interval() -> Milliseconds {
    Milliseconds(2000)
}

fn default_rise() -> Spanned<u32> {
    unplaced(2)
}

fn default_fall() -> Spanned<u32> {
    unplaced(3)
}

fn default_weight() -> u16 {
    1
}

fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned {
        value,
        referenced: Location::UNKNOWN,
        defined: Location::UNKNOWN,
    }
}
