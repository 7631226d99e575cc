//! What a file must not say although its shape allows it. The first thing that is wrong is told,
//! with its line.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use fairlead_api::VpcId;
use fairlead_api::balancing::BrokenRule;
use fairlead_dataplane::desired::{DEFAULT_NETWORK, DEPTH_MAX, depth, range_text, single};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde_saphyr::{Location, Spanned};

use super::file::{File, Forwarding, Health, Invalid, Node, Protocol, Service};

/// What no prefix may have addresses of: those that are nobody's, the machine's own ones, those that are
/// good on one segment only, groups, and IPv4 addresses that are written as IPv6 ones.
const RESERVED: [IpNetwork; 7] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([224, 0, 0, 0], 3),
    v6(0, 64),
    v6(0xfe80, 10),
    v6(0xff00, 8),
];

/// Checks what the file at `path` says.
///
/// # Errors
/// Something cannot be, or not together with something else.
pub(crate) fn check(path: &Path, file: &File) -> Result<(), Invalid> {
    Checker {
        path,
        file,
        names: HashSet::new(),
        places: HashMap::new(),
        prefixes: BTreeSet::new(),
    }
    .check()
}

struct Checker<'a> {
    path: &'a Path,
    file: &'a File,
    names: HashSet<&'a str>,
    /// Whose an address, or a prefix, and a port are, by protocol.
    places: HashMap<(IpNetwork, Protocol, u16), &'a str>,
    /// Those that are prefixes.
    prefixes: BTreeSet<(VpcId, IpNetwork)>,
}

impl<'a> Checker<'a> {
    fn check(mut self) -> Result<(), Invalid> {
        self.check_node(&self.file.node)?;
        for (index, service) in self.file.services.iter().enumerate() {
            let at = format!("services[{index}]");
            self.check_names(&at, service)?;
            self.check_places(&at, service)?;
            self.check_backends(&at, service)?;
            for (index, range) in service.source_ranges.iter().enumerate() {
                let field = format!("{at}.source_ranges[{index}]");
                self.check_range(field, range)?;
            }
            if let Some(health) = &service.health {
                self.check_health(&format!("{at}.health"), health)?;
            }
        }
        Ok(())
    }

    fn check_node(&self, node: &Spanned<Node>) -> Result<(), Invalid> {
        let place = node.referenced;
        let at = |field: &str| format!("node.{field}");
        let node = &node.value;
        if node.name.is_empty() {
            return Err(self.invalid(at("name"), place, "is empty"));
        }
        if !is_host(node.address) {
            return Err(self.invalid(at("address"), place, "is nobody's address"));
        }
        if let Some(other) = node.other_address
            && (!is_host(other) || other.is_ipv4() == node.address.is_ipv4())
        {
            let problem = "is nobody's address, or of the same family as the first";
            return Err(self.invalid(at("other_address"), place, problem));
        }
        if node.uplinks.is_empty() {
            return Err(self.invalid(at("uplinks"), place, "names no interface"));
        }
        Ok(())
    }

    fn check_names(&mut self, at: &str, service: &'a Service) -> Result<(), Invalid> {
        let name = &service.name;
        let field = format!("{at}.name");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.value.is_empty() || !name.value.chars().all(is_plain) {
            let problem = format!(
                "\"{}\" is not made of letters, digits, '-', '_' and '.'",
                name.value
            );
            return Err(self.invalid(field, name.referenced, &problem));
        }
        if !self.names.insert(&name.value) {
            let problem = format!("another service is called \"{}\" too", name.value);
            return Err(self.invalid(field, name.referenced, &problem));
        }
        Ok(())
    }

    fn check_places(&mut self, at: &str, service: &'a Service) -> Result<(), Invalid> {
        for (field, list) in [
            ("vips", service.vips.value.len()),
            ("ports", service.ports.value.len()),
        ] {
            if list == 0 {
                let place = service.name.referenced;
                return Err(self.invalid(format!("{at}.{field}"), place, "is empty"));
            }
        }
        for (index, port) in service.ports.value.iter().enumerate() {
            self.check_port(format!("{at}.ports[{index}]"), port)?;
        }
        for (index, vip) in service.vips.value.iter().enumerate() {
            let field = format!("{at}.vips[{index}]");
            let problem = self.problem_of_vip(service, vip.value);
            if let Some(problem) = problem.or_else(|| self.claim(service, vip.value)) {
                return Err(self.invalid(field, vip.referenced, &problem));
            }
        }
        Ok(())
    }

    /// Why a service cannot have this VIP, whatever others have.
    fn problem_of_vip(&self, service: &Service, vip: IpNetwork) -> Option<String> {
        let (name, first) = (range_text(vip), vip.ip());
        let is_announced = service.announce.as_ref().is_some_and(|one| one.value);
        if vip.prefix() == 0 {
            return Some(format!("{name} is every address there is"));
        }
        if vip.network() != first {
            return Some(format!("{name} has host bits set"));
        }
        let Some(address) = single(vip) else {
            let meets = |range: &IpNetwork| range.contains(first) || vip.contains(range.ip());
            return match RESERVED.iter().find(|range| meets(range)) {
                Some(range) => Some(format!(
                    "{name} has addresses of {range}, which are nobody's"
                )),
                None if is_announced => Some(format!(
                    "{name} is a prefix: a router leads it here, nobody announces it"
                )),
                None => None,
            };
        };
        if !is_host(address) {
            return Some(format!("{name} is nobody's address"));
        }
        (is_announced && self.is_own(address))
            .then(|| format!("{name} is the node's own: its kernel answers for it"))
    }

    /// Enters whose a VIP is; or says why it cannot be. One in another is fine: the smaller one answers
    /// at its ports, and the wider one at those that it leaves.
    fn claim(&mut self, service: &'a Service, vip: IpNetwork) -> Option<String> {
        let name = range_text(vip);
        for port in &service.ports.value {
            let place = (vip, service.protocol, port.value);
            if let Some(other) = self.places.insert(place, &service.name.value) {
                return Some(format!(
                    "{name} port {} is \"{other}\"'s already",
                    port.value
                ));
            }
        }
        if single(vip).is_none() && self.prefixes.insert((DEFAULT_NETWORK, vip)) {
            let depth = depth(&self.prefixes);
            if depth > DEPTH_MAX {
                return Some(format!(
                    "{name} makes {depth} prefixes, each in the one before; \
                     there can be {DEPTH_MAX}"
                ));
            }
        }
        None
    }

    fn check_backends(&self, at: &str, service: &Service) -> Result<(), Invalid> {
        let mut seen = HashSet::new();
        for (index, backend) in service.backends.iter().enumerate() {
            let at = format!("{at}.backends[{index}]");
            let (address, place) = (backend.address.value, backend.address.referenced);
            let wrong = |problem: &str| self.invalid(format!("{at}.address"), place, problem);
            if !is_host(address) {
                return Err(wrong(&format!("{address} is nobody's address")));
            }
            if self.is_own(address) {
                return Err(wrong("is this node itself, which cannot be its own server"));
            }
            let mut vips = service.vips.value.iter().map(|vip| vip.value);
            if let Some(vip) = vips.find(|vip| vip.contains(address)) {
                return Err(wrong(&match single(vip) {
                    Some(_) => "is a VIP of the service itself".to_owned(),
                    None => format!("is in {vip}, a VIP of the service itself"),
                }));
            }
            if !seen.insert((address, backend.port.as_ref().map(|port| port.value))) {
                return Err(wrong("is given twice"));
            }
            let is_other_family =
                |vip: &Spanned<IpNetwork>| vip.value.is_ipv4() != address.is_ipv4();
            if is_translated(service)
                && let Some(vip) = service.vips.value.iter().find(|vip| is_other_family(vip))
            {
                let vip = range_text(vip.value);
                let problem = format!("nat cannot lead from {vip} to another family");
                return Err(wrong(&problem));
            }
            let needs_source = service.forwarding == Forwarding::Tun || is_translated(service);
            if needs_source && !self.has_family(address) {
                return Err(wrong(
                    "is of a family that this node has no address of, see node.other_address",
                ));
            }
            if let Some(port) = &backend.port {
                let field = format!("{at}.port");
                self.check_port(field.clone(), port)?;
                let is_translated =
                    matches!(service.forwarding, Forwarding::Nat | Forwarding::Auto);
                let is_other = service
                    .ports
                    .value
                    .iter()
                    .any(|one| one.value != port.value);
                if is_other && !is_translated {
                    let problem = "is not the service's, and only nat translates ports";
                    return Err(self.invalid(field, port.referenced, problem));
                }
            }
        }
        Ok(())
    }

    /// Whether this node has an address of the family of `address`.
    fn has_family(&self, address: IpAddr) -> bool {
        let node = &self.file.node.value;
        node.other_address.is_some() || node.address.is_ipv4() == address.is_ipv4()
    }

    fn is_own(&self, address: IpAddr) -> bool {
        let node = &self.file.node.value;
        node.address == address || node.other_address == Some(address)
    }

    fn check_range(&self, field: String, range: &Spanned<IpNetwork>) -> Result<(), Invalid> {
        if range.value.network() == range.value.ip() {
            return Ok(());
        }
        let problem = format!("{} has host bits set", range.value);
        Err(self.invalid(field, range.referenced, &problem))
    }

    fn check_health(&self, at: &str, health: &Spanned<Health>) -> Result<(), Invalid> {
        let (health, place) = (&health.value, health.referenced);
        if let Some(port) = &health.port {
            self.check_port(format!("{at}.port"), port)?;
        }
        let Err(BrokenRule { field, rule }) = health.asked().check() else {
            return Ok(());
        };
        let told = match field {
            "port" => health.port.as_ref().map(|port| port.referenced),
            "path" => health.path.as_ref().map(|path| path.referenced),
            "rise" => Some(health.rise.referenced),
            "fall" => Some(health.fall.referenced),
            _ => None,
        };
        Err(self.invalid(format!("{at}.{field}"), told.unwrap_or(place), &rule))
    }

    fn check_port(&self, field: String, port: &Spanned<u16>) -> Result<(), Invalid> {
        if port.value == 0 {
            return Err(self.invalid(field, port.referenced, "0 is no port"));
        }
        Ok(())
    }

    fn invalid(&self, field: String, place: Location, problem: &str) -> Invalid {
        Invalid {
            path: self.path.to_owned(),
            line: place.line(),
            field,
            problem: problem.to_owned(),
        }
    }
}

/// Whether a service, or one of its ports, leads to its servers by nat: it says so, or leaves it open
/// and has a server at another port than its own.
fn is_translated(service: &Service) -> bool {
    let is_other = |port: &Spanned<u16>| {
        let mut own = service.ports.value.iter();
        own.any(|one| one.value != port.value)
    };
    match service.forwarding {
        Forwarding::Nat => true,
        Forwarding::Auto => {
            let mut ports = service.backends.iter().filter_map(|one| one.port.as_ref());
            ports.any(is_other)
        }
        Forwarding::Dr | Forwarding::Tun => false,
    }
}

const fn v4(octets: [u8; 4], length: u8) -> IpNetwork {
    let [a, b, c, d] = octets;
    let range = Ipv4Network::new_checked(Ipv4Addr::new(a, b, c, d), length);
    IpNetwork::V4(range.expect("a length of at most 32"))
}

/// The prefix that begins with `first`, and zeroes behind it.
const fn v6(first: u16, length: u8) -> IpNetwork {
    let range = Ipv6Network::new_checked(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length);
    IpNetwork::V6(range.expect("a length of at most 128"))
}

/// Whether an address can be a machine's.
fn is_host(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback())
        && address.to_canonical() == address
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "\
node:
  name: lb-1
  address: 192.0.2.11
  uplinks: [eth0]
services:
- name: web
  vips: [203.0.113.1]
  ports: [80]
";

    /// What is said about the file, without its name.
    fn told(text: &str) -> String {
        let path = Path::new("services.yaml");
        let checked = File::parse(path, text).and_then(|file| check(path, &file));
        match checked {
            Ok(()) => "fine".to_owned(),
            Err(invalid) => invalid.to_string().replace("services.yaml:", ""),
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_field() {
        let cases = [
            ("  backends: [{address: 192.0.2.21}]\n", "fine"),
            ("  backends: []\n", "fine"),
            (
                "  backend: []\n",
                "9: services[0].backend: unknown field `backend`, expected one of name, vips, \
                 ports, protocol, scheduler, forwarding, tunnel, tracking, affinity, timeouts, \
                 drain, source_ranges, announce, health, backends",
            ),
            (
                "  backends:\n  - address: 192.0.2.256\n",
                "10: services[0].backends[0].address: invalid IP address syntax",
            ),
            (
                "  backends:\n  - address: 192.0.2.21\n  - address: 192.0.2.21\n",
                "11: services[0].backends[1].address: is given twice",
            ),
            (
                "  backends:\n  - address: 192.0.2.21\n    weight: -1\n",
                "11: services[0].backends[0].weight: invalid u16",
            ),
            (
                "  backends:\n  - address: 192.0.2.11\n",
                "10: services[0].backends[0].address: is this node itself, which cannot be its \
                 own server",
            ),
            (
                "  forwarding: dr\n  backends:\n  - address: 192.0.2.21\n    port: 8080\n",
                "12: services[0].backends[0].port: is not the service's, and only nat translates \
                 ports",
            ),
            (
                "  forwarding: nat\n  backends:\n  - address: 2001:db8::1\n",
                "11: services[0].backends[0].address: nat cannot lead from 203.0.113.1 to another \
                 family",
            ),
            (
                "  backends:\n  - address: 2001:db8::1\n    port: 8080\n",
                "10: services[0].backends[0].address: nat cannot lead from 203.0.113.1 to another \
                 family",
            ),
            (
                "  forwarding: tun\n  backends:\n  - address: 2001:db8::1\n",
                "11: services[0].backends[0].address: is of a family that this node has no address \
                 of, see node.other_address",
            ),
            (
                "  source_ranges: [10.0.0.0/8, 10.0.0.1/8]\n  backends: []\n",
                "9: services[0].source_ranges[1]: 10.0.0.1/8 has host bits set",
            ),
            (
                "  health: {check: http, path: healthz}\n  backends: []\n",
                "9: services[0].health.path: \"healthz\" is not a slash and printable ASCII",
            ),
            (
                "  health:\n    check: ping\n    port: 80\n  backends: []\n",
                "11: services[0].health.port: ping has no port",
            ),
            (
                "  health:\n    check: tcp\n    fall: 0\n  backends: []\n",
                "11: services[0].health.fall: must be a whole number from 1 to 100",
            ),
            (
                "  health:\n    check: tcp\n    interval: 1s\n    timeout: 2s\n  backends: []\n",
                "10: services[0].health.timeout: must not be longer than the interval",
            ),
            (
                "  health: {check: tcp, interval: 500ms}\n  backends: []\n",
                "fine",
            ),
            (
                "  health:\n    check: tcp\n    interval: 20\n  backends: []\n",
                "11: services[0].health.interval: invalid type: integer `20`, expected a duration \
                 with its unit, such as 500ms, 30s, 15m or 1h",
            ),
            (
                "  scheduler: fastest\n  backends: []\n",
                "9: services[0].scheduler: unknown variant `fastest`, expected one of maglev, rr, \
                 wrr, lc, wlc, sh, dh, sed, nq",
            ),
            (
                "  backends: []\n- name: web\n  vips: [203.0.113.2]\n  ports: [80]\n  backends: []\n",
                "10: services[1].name: another service is called \"web\" too",
            ),
            (
                "  backends: []\n- name: other\n  vips:\n  - 203.0.113.2\n  - 203.0.113.1\n  ports: \
                 [443, 80]\n  backends: []\n",
                "13: services[1].vips[1]: 203.0.113.1 port 80 is \"web\"'s already",
            ),
            (
                "  backends: []\n- name: other\n  vips: []\n  ports: [80]\n  backends: []\n",
                "10: services[1].vips: is empty",
            ),
            (
                "  backends: []\n- name: own\n  vips: [192.0.2.11]\n  ports: [80]\n  announce: true\n  \
                 backends: []\n",
                "11: services[1].vips[0]: 192.0.2.11 is the node's own: its kernel answers for it",
            ),
            (
                "  backends: []\n- name: all\n  vips: [203.0.113.1/28]\n  ports: [81]\n  backends: []\n",
                "11: services[1].vips[0]: 203.0.113.1/28 has host bits set",
            ),
            (
                "  backends: []\n- name: all\n  vips: [203.0.113.0/33]\n  ports: [81]\n  backends: []\n",
                "11: services[1].vips[0]: invalid address: 203.0.113.0/33",
            ),
            (
                "  backends: []\n- name: all\n  vips: [0.0.0.0/0]\n  ports: [81]\n  backends: []\n",
                "11: services[1].vips[0]: 0.0.0.0/0 is every address there is",
            ),
            (
                "  backends: []\n- name: all\n  vips: [128.0.0.0/1]\n  ports: [81]\n  backends: []\n",
                "11: services[1].vips[0]: 128.0.0.0/1 has addresses of 169.254.0.0/16, which are \
                 nobody's",
            ),
            (
                "  backends: []\n- name: all\n  vips: [\"fe80::/64\"]\n  ports: [81]\n  backends: []\n",
                "11: services[1].vips[0]: fe80::/64 has addresses of fe80::/10, which are nobody's",
            ),
            // One in another is fine, at the same port too.
            (
                "  backends: []\n- name: all\n  vips: [203.0.113.0/28]\n  ports: [81, 80]\n  \
                 backends: []\n- name: some\n  vips: [203.0.113.8/29, 203.0.113.8]\n  ports: [80]\n  \
                 backends: []\n",
                "fine",
            ),
            (
                "  backends: []\n- name: all\n  vips: [203.0.113.16/28]\n  ports: [80]\n  \
                 backends: []\n- name: some\n  vips:\n  - 203.0.113.24/29\n  - 203.0.113.16/28\n  \
                 ports: [81, 80]\n  backends: []\n",
                "17: services[2].vips[1]: 203.0.113.16/28 port 80 is \"all\"'s already",
            ),
            (
                "  backends: []\n- name: all\n  vips:\n  - 203.0.112.0/24\n  - 203.0.113.0/24\n  \
                 - 203.0.113.0/28\n  - 203.0.113.0/29\n  - 203.0.113.0/27\n  - 203.0.112.0/23\n  \
                 ports: [81]\n  backends: []\n",
                "17: services[1].vips[5]: 203.0.112.0/23 makes 5 prefixes, each in the one before; \
                 there can be 4",
            ),
            (
                "  backends: []\n- name: all\n  vips: [203.0.113.16/28]\n  ports: [81]\n  \
                 backends:\n  - address: 203.0.113.20\n",
                "14: services[1].backends[0].address: is in 203.0.113.16/28, a VIP of the service \
                 itself",
            ),
            (
                "  backends: []\n- name: all\n  vips: [203.0.113.16/28]\n  ports: [81]\n  \
                 announce: true\n  backends: []\n",
                "11: services[1].vips[0]: 203.0.113.16/28 is a prefix: a router leads it here, \
                 nobody announces it",
            ),
        ];
        for (rest, expected) in cases {
            assert_eq!(told(&format!("{NODE}{rest}")), expected, "{rest}");
        }
    }

    #[test]
    fn text_that_is_no_yaml_is_refused_by_its_line() {
        let told = told("node:\n  name: \"lb\nservices: []\n");
        assert!(told.contains("quoted scalar"), "{told}");
    }
}
