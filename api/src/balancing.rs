//! What annotations below `net.fairlead.io/` ask of the load balancer: read once, here, by whoever
//! admits a Service and by whoever compiles it.

mod health_check;
mod text;

use std::{collections::BTreeMap, net::IpAddr};

pub use health_check::{BrokenRule, CheckKind, HealthCheck};

use crate::status::FieldError;

/// How the backend of a new connection is picked: IPVS' names, and `maglev`.
pub const SCHEDULER: &str = "net.fairlead.io/scheduler";
/// How packets reach a backend on another machine.
pub const FORWARDING: &str = "net.fairlead.io/forwarding";
/// How packets for real servers outside the cluster are encapsulated.
pub const TUNNEL: &str = "net.fairlead.io/tunnel";
/// Whether every flow is noted.
pub const TRACKING: &str = "net.fairlead.io/tracking";
/// How long a noted flow lives after its last packet: `established=900s,fin=120s,udp=300s`.
pub const TIMEOUTS: &str = "net.fairlead.io/timeouts";
/// How long a backend that drains keeps its connections: `30s`; 0 until they end.
pub const DRAIN: &str = "net.fairlead.io/drain";
/// How it is found out whether a backend outside the cluster answers:
/// `http:8080/healthz interval=5s timeout=2s rise=2 fall=3`.
pub const HEALTH_CHECK: &str = "net.fairlead.io/health-check";
/// The weights of endpoints, on a Service or an `EndpointSlice`: `192.0.2.1=3,192.0.2.2=0`.
pub const WEIGHTS: &str = "net.fairlead.io/weights";
/// The weight of a pod, on the pod.
pub const WEIGHT: &str = "net.fairlead.io/weight";
/// Whether a node answers for the Service's external addresses (`spec.externalIPs`) as it does for
/// addresses of the pools: `true` or `false`. They are routed to nodes by others otherwise.
pub const ANNOUNCE_EXTERNAL_IPS: &str = "net.fairlead.io/announce-external-ips";

/// The load balancer class of Services that are ours to serve; so are those that name none.
pub const LOAD_BALANCER_CLASS: &str = "net.fairlead.io/xdp";

/// The largest weight; as in IPVS.
pub const WEIGHT_MAX: u32 = 65_535;

const SCHEDULERS: &[&str] = &["maglev", "rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq"];
const FORWARDINGS: &[&str] = &["auto", "dr", "tun", "nat"];
const TUNNELS: &[&str] = &["ipip", "gue"];
const TRACKINGS: &[&str] = &["auto", "always"];
const SWITCHES: &[&str] = &["false", "true"];
/// No flow is kept, and no backend drains, for longer: a week.
const SECONDS_MAX: u32 = 7 * 24 * 3600;

/// Weights of endpoints by address. One that is not named weighs 1; 0 is for one that drains.
pub type Weights = BTreeMap<IpAddr, u32>;

type Annotations = BTreeMap<String, String>;

/// What a Service asks of the load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancing {
    /// `maglev` unless another is asked for: `rr`, `wrr`, `lc`, `wlc`, `sh`, `dh`, `sed`, `nq`.
    pub scheduler: &'static str,
    /// `auto`, `dr`, `tun` or `nat`.
    pub forwarding: &'static str,
    /// `ipip` or `gue`.
    pub tunnel: &'static str,
    /// `auto` or `always`.
    pub tracking: &'static str,
    /// How long noted flows live.
    pub timeouts: Timeouts,
    /// How long a backend that drains keeps its connections; 0: until they end.
    pub drain_seconds: u32,
    /// How backends outside the cluster are checked, if at all.
    pub health_check: Option<HealthCheck>,
    /// The weights of endpoints.
    pub weights: Weights,
    /// Whether nodes answer for `spec.externalIPs`.
    pub announces_external_ips: bool,
}

/// Seconds a noted flow lives after its last packet; 0: the dataplane's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Of an established TCP connection.
    pub established_seconds: u32,
    /// Of one that is closing.
    pub fin_seconds: u32,
    /// Of UDP.
    pub udp_seconds: u32,
}

impl Balancing {
    /// Reads a Service's annotations, and says which of them are wrong. What is wrong counts as
    /// absent.
    pub fn of_service(annotations: Option<&Annotations>) -> (Self, Vec<FieldError>) {
        let mut reader = Reader {
            annotations,
            errors: Vec::new(),
        };
        let balancing = Self {
            scheduler: reader.one_of(SCHEDULER, SCHEDULERS),
            forwarding: reader.one_of(FORWARDING, FORWARDINGS),
            tunnel: reader.one_of(TUNNEL, TUNNELS),
            tracking: reader.one_of(TRACKING, TRACKINGS),
            timeouts: reader.parsed(TIMEOUTS, timeouts).unwrap_or_default(),
            drain_seconds: reader.parsed(DRAIN, drain).unwrap_or_default(),
            health_check: reader.parsed(HEALTH_CHECK, HealthCheck::parse).flatten(),
            weights: reader.parsed(WEIGHTS, weights).unwrap_or_default(),
            announces_external_ips: reader.one_of(ANNOUNCE_EXTERNAL_IPS, SWITCHES) == "true",
        };
        (balancing, reader.errors)
    }
}

/// The weights an `EndpointSlice` gives its endpoints, and what is wrong with them.
pub fn weights_of_slice(annotations: Option<&Annotations>) -> (Weights, Vec<FieldError>) {
    let mut reader = Reader {
        annotations,
        errors: Vec::new(),
    };
    let weights = reader.parsed(WEIGHTS, weights).unwrap_or_default();
    (weights, reader.errors)
}

/// The weight a pod asks for, 1 if it does not, and what is wrong with it.
pub fn weight_of_pod(annotations: Option<&Annotations>) -> (u32, Vec<FieldError>) {
    let mut reader = Reader {
        annotations,
        errors: Vec::new(),
    };
    let weight = reader.parsed(WEIGHT, weight).unwrap_or(1);
    (weight, reader.errors)
}

/// The annotation that gives these weights; `None` if all weigh 1.
pub fn weights_text(weights: &Weights) -> Option<String> {
    let told: Vec<String> = weights
        .iter()
        .filter(|(_, weight)| **weight != 1)
        .map(|(address, weight)| format!("{address}={weight}"))
        .collect();
    (!told.is_empty()).then(|| told.join(","))
}

struct Reader<'a> {
    annotations: Option<&'a Annotations>,
    errors: Vec<FieldError>,
}

impl Reader<'_> {
    fn parsed<T>(&mut self, key: &str, parse: fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.annotations?.get(key)?;
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(rule) => {
                let error = FieldError::invalid(field(key), text.as_str(), &rule);
                self.errors.push(error);
                None
            }
        }
    }

    /// The first of `supported` is the default.
    fn one_of(&mut self, key: &str, supported: &'static [&'static str]) -> &'static str {
        let Some(text) = self.annotations.and_then(|all| all.get(key)) else {
            return supported[0];
        };
        let known = supported.iter().find(|known| **known == text.trim());
        known.copied().unwrap_or_else(|| {
            let error = FieldError::not_supported(field(key), text.as_str(), supported);
            self.errors.push(error);
            supported[0]
        })
    }
}

fn field(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

fn timeouts(text: &str) -> Result<Timeouts, String> {
    let mut timeouts = Timeouts::default();
    for (name, value) in text::pairs(text)? {
        let slot = match name {
            "established" => &mut timeouts.established_seconds,
            "fin" => &mut timeouts.fin_seconds,
            "udp" => &mut timeouts.udp_seconds,
            _ => return Err(format!("{name:?} is none of established, fin, udp")),
        };
        *slot = seconds(value).map_err(|rule| format!("{name}: {rule}"))?;
        if *slot == 0 {
            return Err(format!("{name}: must be at least 1s"));
        }
    }
    Ok(timeouts)
}

fn drain(text: &str) -> Result<u32, String> {
    seconds(text)
}

fn seconds(text: &str) -> Result<u32, String> {
    let milliseconds = text::milliseconds(text)?;
    if milliseconds % 1000 != 0 {
        return Err("must be whole seconds".to_owned());
    }
    match milliseconds / 1000 {
        seconds if seconds <= SECONDS_MAX => Ok(seconds),
        _ => Err(format!("must be at most {SECONDS_MAX}s")),
    }
}

fn weights(text: &str) -> Result<Weights, String> {
    let mut weights = Weights::new();
    for (name, value) in text::pairs(text)? {
        let address: IpAddr = name
            .parse()
            .map_err(|_| format!("{name:?} is not an IP address"))?;
        let weight = weight(value).map_err(|rule| format!("{name}: {rule}"))?;
        if weights.insert(address, weight).is_some() {
            return Err(format!("{address} is named twice"));
        }
    }
    Ok(weights)
}

fn weight(text: &str) -> Result<u32, String> {
    let weight = text.parse().ok().filter(|weight| *weight <= WEIGHT_MAX);
    weight.ok_or_else(|| format!("must be a whole number from 0 to {WEIGHT_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> (Balancing, Vec<String>) {
        let annotations: Annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let (balancing, errors) = Balancing::of_service(Some(&annotations));
        (balancing, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn service_that_asks_for_nothing_gets_defaults() {
        let (balancing, errors) = Balancing::of_service(None);
        assert_eq!(errors, []);
        assert_eq!(
            (balancing.scheduler, balancing.forwarding, balancing.tunnel),
            ("maglev", "auto", "ipip")
        );
        assert_eq!(balancing.timeouts, Timeouts::default());
        assert_eq!(balancing.health_check, None);
        assert!(!balancing.announces_external_ips);
    }

    #[test]
    fn everything_that_is_asked_for_is_read() {
        let (balancing, errors) = read(&[
            (SCHEDULER, "wlc"),
            (FORWARDING, "tun"),
            (TUNNEL, "gue"),
            (TRACKING, "always"),
            (TIMEOUTS, "established=15m, udp=30"),
            (DRAIN, "90s"),
            (WEIGHTS, "192.0.2.1=3,2001:db8::1=0"),
            (ANNOUNCE_EXTERNAL_IPS, "true"),
        ]);
        assert_eq!(errors, Vec::<String>::new());
        let timeouts = Timeouts {
            established_seconds: 900,
            fin_seconds: 0,
            udp_seconds: 30,
        };
        assert_eq!(
            (balancing.timeouts, balancing.drain_seconds),
            (timeouts, 90)
        );
        assert_eq!(
            balancing.weights.values().copied().collect::<Vec<_>>(),
            [3, 0]
        );
        let text = weights_text(&balancing.weights);
        assert_eq!(text.as_deref(), Some("192.0.2.1=3,2001:db8::1=0"));
        assert!(balancing.announces_external_ips);
    }

    #[test]
    fn wrong_value_is_told_by_its_annotation_and_counts_as_absent() {
        for (key, value, told) in [
            (
                SCHEDULER,
                "fastest",
                r#"Unsupported value: "fastest": supported values: "maglev", "rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq""#,
            ),
            (
                TIMEOUTS,
                "established=fast",
                r#"Invalid value: "established=fast": established: must be a duration like 30s, 500ms, 15m or 1h"#,
            ),
            (
                TIMEOUTS,
                "syn=3s",
                r#"Invalid value: "syn=3s": "syn" is none of established, fin, udp"#,
            ),
            (
                TIMEOUTS,
                "udp=0",
                r#"Invalid value: "udp=0": udp: must be at least 1s"#,
            ),
            (
                DRAIN,
                "1500ms",
                r#"Invalid value: "1500ms": must be whole seconds"#,
            ),
            (
                WEIGHTS,
                "web-1=2",
                r#"Invalid value: "web-1=2": "web-1" is not an IP address"#,
            ),
            (
                WEIGHTS,
                "192.0.2.1=70000",
                r#"Invalid value: "192.0.2.1=70000": 192.0.2.1: must be a whole number from 0 to 65535"#,
            ),
            (
                WEIGHTS,
                "192.0.2.1",
                r#"Invalid value: "192.0.2.1": "192.0.2.1" is not of the form name=value"#,
            ),
        ] {
            let (balancing, errors) = read(&[(key, value)]);
            assert_eq!(errors, [format!("metadata.annotations[{key}]: {told}")]);
            assert_eq!(balancing, Balancing::of_service(None).0, "{key}");
        }
    }

    #[test]
    fn pod_weighs_one_unless_it_says_otherwise() {
        let of = |value: &str| {
            let annotations = Annotations::from([(WEIGHT.to_owned(), value.to_owned())]);
            let (weight, errors) = weight_of_pod(Some(&annotations));
            (weight, errors.len())
        };
        assert_eq!(weight_of_pod(None), (1, vec![]));
        assert_eq!(of("0"), (0, 0));
        assert_eq!(of("-1"), (1, 1));
    }
}
