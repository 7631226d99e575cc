//! Messages of the control plane, checked: what is wrong has its field named.

use std::net::IpAddr;

use fairlead_proto::node;
use hickory_proto::rr::Name;
use ipnetwork::IpNetwork;

/// A field of the message that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The way to it, `dns_names[shop/web].ports[0].number`.
    pub field: String,
    /// What is wrong with it, for people.
    pub problem: String,
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Invalid {
    Invalid {
        field: field.into(),
        problem: problem.into(),
    }
}

/// How names of the cluster are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDns {
    /// The cluster's domain, without a dot at its end: `cluster.local`.
    pub domain: String,
    /// Where pods ask, the primary family's address first.
    pub addresses: Vec<IpAddr>,
}

/// What the answers of all zones share.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) domain: Name,
    pub(crate) cluster: ClusterDns,
    /// ClusterIPs are of these.
    pub(crate) service_ranges: Vec<IpNetwork>,
    /// Pods' addresses are of these.
    pub(crate) pod_ranges: Vec<IpNetwork>,
}

/// A Service as its name is answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Has addresses of its own.
    Cluster {
        addresses: Vec<IpAddr>,
        ports: Vec<Port>,
    },
    /// Is its endpoints.
    Headless(Vec<Endpoints>),
    /// Is another name.
    External(Name),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    /// As SRV records have it: `_tcp`.
    pub(crate) protocol: &'static str,
    pub(crate) number: u16,
}

/// Endpoints with the same ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    /// The first label of its name.
    pub(crate) label: String,
}

/// The address with its dots or colons as dashes, the label of an endpoint without a host name.
pub(crate) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

pub(crate) fn settings(parameters: &node::Parameters) -> Result<Option<Settings>, Invalid> {
    let Some(dns) = &parameters.dns else {
        return Ok(None);
    };
    let at = "parameters.dns.domain";
    let mut domain = Name::from_ascii(&dns.domain)
        .map_err(|error| invalid(at, format!("{:?} is no name: {error}", dns.domain)))?;
    if domain.is_root() || domain.num_labels() == 0 {
        return Err(invalid(at, "is empty"));
    }
    domain.set_fqdn(true);
    let domain = domain.to_lowercase();
    let addresses = dns.addresses.iter().enumerate();
    let addresses = addresses
        .map(|(index, octets)| address(&format!("parameters.dns.addresses[{index}]"), octets))
        .collect::<Result<_, _>>()?;
    Ok(Some(Settings {
        cluster: ClusterDns {
            domain: domain.to_ascii().trim_end_matches('.').to_owned(),
            addresses,
        },
        domain,
        service_ranges: ranges("parameters.dns.service_cidrs", &dns.service_cidrs)?,
        pod_ranges: ranges("parameters.cluster_cidrs", &parameters.cluster_cidrs)?,
    }))
}

fn ranges(at: &str, texts: &[String]) -> Result<Vec<IpNetwork>, Invalid> {
    let ranges = texts.iter().enumerate().map(|(index, text)| {
        let field = || format!("{at}[{index}]");
        text.parse()
            .map_err(|_| invalid(field(), format!("{text:?} is no range of addresses")))
    });
    ranges.collect()
}

pub(crate) fn namespace(namespace: &node::DnsNamespace) -> Result<(), Invalid> {
    label(
        &format!("dns_namespaces[{}].name", namespace.name),
        &namespace.name,
    )
}

pub(crate) fn service(name: &node::DnsName) -> Result<Service, Invalid> {
    let at = format!("dns_names[{}/{}]", name.namespace, name.name);
    label(&format!("{at}.namespace"), &name.namespace)?;
    label(&format!("{at}.name"), &name.name)?;
    if !name.external_name.is_empty() {
        let field = format!("{at}.external_name");
        if !name.addresses.is_empty() || !name.endpoints.is_empty() {
            return Err(invalid(field, "a name of its own has no addresses besides"));
        }
        let mut external = Name::from_ascii(&name.external_name).map_err(|error| {
            invalid(
                field,
                format!("{:?} is no name: {error}", name.external_name),
            )
        })?;
        external.set_fqdn(true);
        return Ok(Service::External(external));
    }
    if name.addresses.is_empty() {
        let groups = name.endpoints.iter().enumerate();
        return groups
            .map(|(index, group)| endpoints(&format!("{at}.endpoints[{index}]"), group))
            .collect::<Result<_, _>>()
            .map(Service::Headless);
    }
    if !name.endpoints.is_empty() {
        let field = format!("{at}.endpoints");
        return Err(invalid(field, "a name with addresses has no endpoints"));
    }
    let addresses = name.addresses.iter().enumerate();
    Ok(Service::Cluster {
        addresses: addresses
            .map(|(index, octets)| address(&format!("{at}.addresses[{index}]"), octets))
            .collect::<Result<_, _>>()?,
        ports: ports(&at, &name.ports)?,
    })
}

fn endpoints(at: &str, group: &node::DnsEndpoints) -> Result<Endpoints, Invalid> {
    let endpoints = group.endpoints.iter().enumerate().map(|(index, endpoint)| {
        let at = format!("{at}.endpoints[{index}]");
        let address = address(&format!("{at}.address"), &endpoint.address)?;
        if endpoint.hostname.is_empty() {
            let label = dashed(address);
            return Ok(Endpoint { address, label });
        }
        label(&format!("{at}.hostname"), &endpoint.hostname)?;
        let label = endpoint.hostname.clone();
        Ok(Endpoint { address, label })
    });
    Ok(Endpoints {
        endpoints: endpoints.collect::<Result<_, _>>()?,
        ports: ports(at, &group.ports)?,
    })
}

fn ports(at: &str, ports: &[node::DnsPort]) -> Result<Vec<Port>, Invalid> {
    let ports = ports.iter().enumerate().map(|(index, port)| {
        let at = format!("{at}.ports[{index}]");
        if !port.name.is_empty() {
            label(&format!("{at}.name"), &port.name)?;
        }
        let number = u16::try_from(port.number).ok().filter(|port| *port != 0);
        Ok(Port {
            name: port.name.clone(),
            protocol: match port.protocol() {
                node::Protocol::Tcp => "_tcp",
                node::Protocol::Udp => "_udp",
                node::Protocol::Sctp => "_sctp",
                node::Protocol::Unspecified => {
                    let problem = format!("{} is no protocol", port.protocol);
                    return Err(invalid(format!("{at}.protocol"), problem));
                }
            },
            number: number.ok_or_else(|| {
                let problem = format!("{} is no port", port.number);
                invalid(format!("{at}.number"), problem)
            })?,
        })
    });
    ports.collect()
}

/// One label in the letters names of Kubernetes have (RFC 1123 §2.1), in lower case.
fn label(field: &str, text: &str) -> Result<(), Invalid> {
    let is_inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let is_label = (1..=63).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label {
        Ok(())
    } else {
        Err(invalid(field, format!("{text:?} is no label of a name")))
    }
}

fn address(field: &str, octets: &[u8]) -> Result<IpAddr, Invalid> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| v6())
        .map_err(|_| invalid(field, format!("has {} bytes", octets.len())))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
