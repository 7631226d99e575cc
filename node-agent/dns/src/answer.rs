//! From the names of the cluster and a question to an answer; nothing is asked of anybody.

use std::net::IpAddr;

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};

use crate::{
    check::{Endpoints, Port, Service, Settings},
    record,
    reverse::{self, Reversed},
    zone::{Owner, Zone, Zones},
};

/// How many names in a row may stand for another.
const ALIASES_MAX: usize = 8;
/// How many addresses of SRV targets go along with them.
const ADDITIONALS_MAX: usize = 32;

/// How many records one answer has; of more, other ones each time.
pub(crate) const ANSWERS_MAX: usize = 1_000;

/// An answer, or where to get it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// Known here.
    Here(Reply),
    /// Others have to be asked for this name; `aliases` lead to it.
    Elsewhere { name: Name, aliases: Vec<Record> },
}

/// What a response says, whoever said it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    /// Whether it comes from whose name it is.
    pub(crate) is_authoritative: bool,
    /// Whether who was asked has proven it by signatures (RFC 4035 §3.2.3).
    pub(crate) is_proven: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

impl Reply {
    pub(crate) fn error(code: ResponseCode) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    /// Begins the addresses with another one, as most clients take the first. Aliases stay before
    /// them.
    pub(crate) fn rotate(&mut self, turn: u32) {
        let is_alias = |record: &Record| record.record_type() == RecordType::CNAME;
        let first = self.answers.iter().take_while(|record| is_alias(record));
        let addresses = first.count();
        if let Some(addresses) = self.answers.get_mut(addresses..)
            && !addresses.is_empty()
        {
            addresses.rotate_left(turn as usize % addresses.len());
        }
    }
}

/// What there is at a name.
enum Node {
    /// Nothing, in this zone.
    Absent { zone: Name },
    /// Records, or names below.
    Present { zone: Name, data: Vec<RData> },
    /// Another name stands for it.
    Alias(Name),
    /// It is nobody's of the cluster.
    Outside,
}

impl Zones {
    /// Answers a question of class IN from a socket of this VPC.
    pub(crate) fn answer(&self, vpc: u32, query: &Query) -> Answer {
        let mut name = query.name().clone();
        let Some(settings) = &self.settings else {
            // Nobody knows yet which names are the cluster's: whoever asks had better come again
            // than be told by strangers that there is no such name.
            return Answer::Here(Reply::error(ResponseCode::ServFail));
        };
        let kind = query.query_type();
        let mut reply = Reply {
            is_authoritative: true,
            ..Reply::default()
        };
        let nothing = Zone::default();
        let view = View {
            settings,
            serial: self.serial,
            zone: self.zone(vpc).unwrap_or(&nothing),
        };
        for _ in 0..ALIASES_MAX {
            match view.look_up(&name, kind) {
                Node::Outside => {
                    let aliases = reply.answers;
                    return Answer::Elsewhere { name, aliases };
                }
                Node::Alias(target) => {
                    let alias = record::record(&name, record::alias(&target));
                    reply.answers.push(alias);
                    if matches!(kind, RecordType::CNAME | RecordType::ANY) {
                        return Answer::Here(reply);
                    }
                    name = target;
                }
                Node::Absent { zone } => {
                    reply.code = ResponseCode::NXDomain;
                    reply.authorities.push(view.start(&zone));
                    return Answer::Here(reply);
                }
                Node::Present { zone, data } => {
                    let asked =
                        |data: &RData| kind == RecordType::ANY || data.record_type() == kind;
                    let data = data.into_iter().filter(asked);
                    let before = reply.answers.len();
                    let records = data.map(|data| record::record(&name, data));
                    reply.answers.extend(records);
                    if reply.answers.len() == before {
                        reply.authorities.push(view.start(&zone));
                    }
                    reply.additionals = view.targets(&reply.answers);
                    return Answer::Here(reply);
                }
            }
        }
        Answer::Here(Reply::error(ResponseCode::ServFail))
    }
}

/// One zone with what it shares with the others.
struct View<'a> {
    settings: &'a Settings,
    serial: u32,
    zone: &'a Zone,
}

impl View<'_> {
    fn start(&self, zone: &Name) -> Record {
        record::record(zone, record::start(self.settings, self.serial))
    }

    fn look_up(&self, name: &Name, kind: RecordType) -> Node {
        let domain = &self.settings.domain;
        if domain.zone_of(name) {
            let count = usize::from(name.num_labels() - domain.num_labels());
            let labels: Option<Vec<String>> = name
                .iter()
                .take(count)
                .map(|label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase()))
                .collect();
            let found = labels.and_then(|labels| {
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                self.in_cluster(&labels, kind)
            });
            let zone = domain.clone();
            return match found {
                None => Node::Absent { zone },
                Some(Found::Alias(target)) => Node::Alias(target),
                Some(Found::Data(data)) => Node::Present { zone, data },
            };
        }
        Reversed::of(name).map_or(Node::Outside, |reversed| self.reversed(name, reversed))
    }

    /// What there is before the cluster's domain, if there is anything.
    fn in_cluster(&self, labels: &[&str], kind: RecordType) -> Option<Found> {
        let settings = self.settings;
        let data = match labels {
            [] => vec![
                record::start(settings, self.serial),
                record::name_server(settings),
            ],
            ["dns-version"] => vec![record::version()],
            ["dns"] | ["svc"] | ["pod"] => Vec::new(),
            ["ns", "dns"] => addresses(&settings.cluster.addresses),
            [namespace, "svc" | "pod"] => {
                self.zone.has_namespace(namespace).then_some(Vec::new())?
            }
            [address, namespace, "pod"] => {
                let address = undashed(address)?;
                let is_pods = settings
                    .pod_ranges
                    .iter()
                    .any(|range| range.contains(address));
                (is_pods && self.zone.has_namespace(namespace)).then(|| addresses(&[address]))?
            }
            [service, namespace, "svc"] => match self.zone.service(namespace, service)? {
                Service::External(target) => return Some(Found::Alias(target.clone())),
                Service::Cluster { addresses: own, .. } => {
                    let mut data = addresses(own);
                    if is_served(kind) {
                        data.extend(self.served(namespace, service, |_| true));
                    }
                    data
                }
                Service::Headless(groups) => {
                    let mut data = addresses(&endpoint_addresses(groups, |_| true));
                    if is_served(kind) {
                        data.extend(self.served(namespace, service, |_| true));
                    }
                    data
                }
            },
            [protocol, service, namespace, "svc"] if protocol.starts_with('_') => {
                let service = self.zone.service(namespace, service)?;
                let mut ports = ports(service);
                ports
                    .any(|port| !port.name.is_empty() && port.protocol == *protocol)
                    .then_some(Vec::new())?
            }
            [label, service, namespace, "svc"] => match self.zone.service(namespace, service)? {
                Service::Headless(groups) => {
                    let found = endpoint_addresses(groups, |own| own == *label);
                    (!found.is_empty()).then(|| addresses(&found))?
                }
                _ => return None,
            },
            [port, protocol, service, namespace, "svc"] => {
                let name = port.strip_prefix('_').filter(|name| !name.is_empty())?;
                let is_asked = |port: &Port| port.name == name && port.protocol == *protocol;
                let data = self.served(namespace, service, is_asked);
                (!data.is_empty()).then_some(data)?
            }
            _ => return None,
        };
        Some(Found::Data(data))
    }

    /// The SRV records of these ports of a Service.
    fn served(&self, namespace: &str, name: &str, asked: impl Fn(&Port) -> bool) -> Vec<RData> {
        let domain = &self.settings.domain;
        let mut found: Vec<(u16, Name)> = Vec::new();
        match self.zone.service(namespace, name) {
            Some(Service::Cluster { ports, .. }) => {
                let target = record::below(domain, [name, namespace, "svc"]);
                let ports = ports.iter().filter(|port| asked(port));
                found.extend(ports.filter_map(|port| Some((port.number, target.clone()?))));
            }
            Some(Service::Headless(groups)) => {
                for group in groups {
                    for endpoint in &group.endpoints {
                        let labels = [endpoint.label.as_str(), name, namespace, "svc"];
                        let target = record::below(domain, labels);
                        let ports = group.ports.iter().filter(|port| asked(port));
                        found.extend(ports.filter_map(|port| Some((port.number, target.clone()?))));
                    }
                }
            }
            Some(Service::External(_)) | None => {}
        }
        // An endpoint of both families is one target.
        found.sort();
        found.dedup();
        let count = found.len();
        let found = found.into_iter();
        found
            .map(|(port, target)| record::service(port, target, count))
            .collect()
    }

    /// The addresses of what SRV records name.
    fn targets(&self, answers: &[Record]) -> Vec<Record> {
        let mut found: Vec<Record> = Vec::new();
        for answer in answers {
            let RData::SRV(served) = &answer.data else {
                continue;
            };
            if found.iter().any(|record| record.name == served.target) {
                continue;
            }
            if let Node::Present { data, .. } = self.look_up(&served.target, RecordType::A) {
                found.extend(
                    data.into_iter()
                        .map(|data| record::record(&served.target, data)),
                );
            }
            if found.len() >= ADDITIONALS_MAX {
                break;
            }
        }
        found
    }

    fn reversed(&self, name: &Name, reversed: Reversed) -> Node {
        let settings = self.settings;
        let ranges = settings.service_ranges.iter().chain(&settings.pod_ranges);
        let zone_bits = ranges
            .filter_map(|range| reversed.zone_bits(*range))
            .max()
            .map(|bits| reverse::zone_name(name, reversed.address, bits));
        if !reversed.is_whole() {
            // A name between the zone's and an address': there may be names below.
            return zone_bits.map_or(Node::Outside, |zone| Node::Present {
                zone,
                data: Vec::new(),
            });
        }
        let pointers = self.zone.owners(reversed.address);
        let data: Vec<RData> = pointers
            .filter_map(|owner| Some(record::pointer(self.owner_name(owner)?)))
            .collect();
        match zone_bits {
            zone if !data.is_empty() => Node::Present {
                zone: zone.unwrap_or_else(|| name.base_name()),
                data,
            },
            Some(zone) => Node::Absent { zone },
            None => Node::Outside,
        }
    }

    fn owner_name(&self, owner: &Owner) -> Option<Name> {
        let labels = [owner.service.as_str(), owner.namespace.as_str(), "svc"];
        let labels = owner.endpoint.as_deref().into_iter().chain(labels);
        let labels: Vec<&str> = labels.collect();
        record::below(&self.settings.domain, labels)
    }
}

/// What there is before the cluster's domain.
enum Found {
    Data(Vec<RData>),
    Alias(Name),
}

/// Whether SRV records are of interest: they are many, and seldom asked for.
fn is_served(kind: RecordType) -> bool {
    matches!(kind, RecordType::SRV | RecordType::ANY)
}

fn addresses(addresses: &[IpAddr]) -> Vec<RData> {
    addresses.iter().copied().map(record::address).collect()
}

/// The addresses of endpoints with such a label, each once.
fn endpoint_addresses(groups: &[Endpoints], is_asked: impl Fn(&str) -> bool) -> Vec<IpAddr> {
    let endpoints = groups.iter().flat_map(|group| &group.endpoints);
    let asked = endpoints.filter(|endpoint| is_asked(&endpoint.label));
    let mut found: Vec<IpAddr> = asked.map(|endpoint| endpoint.address).collect();
    found.sort();
    found.dedup();
    found
}

fn ports(service: &Service) -> Box<dyn Iterator<Item = &Port> + '_> {
    match service {
        Service::Cluster { ports, .. } => Box::new(ports.iter()),
        Service::Headless(groups) => Box::new(groups.iter().flat_map(|group| &group.ports)),
        Service::External(_) => Box::new(std::iter::empty()),
    }
}

/// The address that a pod's label stands for: `10-244-0-7`, `2001-db8--7`.
fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
