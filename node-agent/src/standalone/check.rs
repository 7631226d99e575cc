//! What a file must not say although its shape allows it. The first thing that is wrong is told,
//! with its line.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::Path,
};

use fairlead_api::balancing::BrokenRule;
use ipnetwork::IpNetwork;
use serde_saphyr::{Location, Spanned};

use super::file::{File, Forwarding, Health, Invalid, Node, Protocol, Service};

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
    }
    .check()
}

struct Checker<'a> {
    path: &'a Path,
    file: &'a File,
    names: HashSet<&'a str>,
    /// Whose an address and a port are, by protocol.
    places: HashMap<(IpAddr, Protocol, u16), &'a str>,
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
            let address = vip.value;
            if !is_host(address) {
                let problem = format!("{address} is nobody's address");
                return Err(self.invalid(field, vip.referenced, &problem));
            }
            let is_own = self.is_own(address);
            let is_announced = service
                .announce
                .as_ref()
                .is_some_and(|announce| announce.value);
            if is_own && is_announced {
                let problem = format!("{address} is the node's own: its kernel answers for it");
                return Err(self.invalid(field, vip.referenced, &problem));
            }
            for port in &service.ports.value {
                let place = (address, service.protocol, port.value);
                if let Some(other) = self.places.insert(place, &service.name.value) {
                    let problem = format!("{address} port {} is \"{other}\"'s already", port.value);
                    return Err(self.invalid(field, vip.referenced, &problem));
                }
            }
        }
        Ok(())
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
            if service.vips.value.iter().any(|vip| vip.value == address) {
                return Err(wrong("is a VIP of the service itself"));
            }
            if !seen.insert((address, backend.port.as_ref().map(|port| port.value))) {
                return Err(wrong("is given twice"));
            }
            let is_other_family = |vip: &Spanned<IpAddr>| vip.value.is_ipv4() != address.is_ipv4();
            if is_translated(service)
                && let Some(vip) = service.vips.value.iter().find(|vip| is_other_family(vip))
            {
                let problem = format!("nat cannot lead from {} to another family", vip.value);
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
