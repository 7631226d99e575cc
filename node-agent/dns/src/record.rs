//! Records of the cluster's zones.

use std::net::IpAddr;

use hickory_proto::rr::{
    Name, RData, Record,
    rdata::{CNAME, NS, PTR, SOA, SRV, TXT},
};

use crate::check::Settings;

/// How long answers about the cluster may be kept, seconds; as upstream's CoreDNS has it.
pub(crate) const TTL: u32 = 5;
/// The version of the specification that names follow (its §2.2).
const SPECIFICATION: &str = "1.1.0";
const REFRESH_SECONDS: i32 = 7_200;
const RETRY_SECONDS: i32 = 1_800;
const EXPIRE_SECONDS: i32 = 86_400;

pub(crate) fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

pub(crate) fn address(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    }
}

pub(crate) fn alias(target: &Name) -> RData {
    RData::CNAME(CNAME(target.clone()))
}

pub(crate) fn pointer(target: Name) -> RData {
    RData::PTR(PTR(target))
}

pub(crate) fn version() -> RData {
    RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))
}

/// Where a port is served; `count` targets share the clients alike (RFC 2782).
pub(crate) fn service(port: u16, target: Name, count: usize) -> RData {
    let weight = u16::try_from(100 / count.max(1)).unwrap_or(1).max(1);
    RData::SRV(SRV::new(0, weight, port, target))
}

pub(crate) fn name_server(settings: &Settings) -> RData {
    RData::NS(NS(server_name(settings)))
}

/// The start of a zone; tells for how long a negative answer may be kept (RFC 2308 §5).
pub(crate) fn start(settings: &Settings, serial: u32) -> RData {
    let contact = below(&settings.domain, ["hostmaster"]);
    RData::SOA(SOA::new(
        server_name(settings),
        contact.unwrap_or_else(|| settings.domain.clone()),
        serial,
        REFRESH_SECONDS,
        RETRY_SECONDS,
        EXPIRE_SECONDS,
        TTL,
    ))
}

fn server_name(settings: &Settings) -> Name {
    below(&settings.domain, ["ns", "dns"]).unwrap_or_else(|| settings.domain.clone())
}

/// A name of these labels before `domain`; `None` if it were too long for a name.
pub(crate) fn below<'a>(
    domain: &Name,
    labels: impl IntoIterator<Item = &'a str, IntoIter: DoubleEndedIterator>,
) -> Option<Name> {
    let mut name = domain.clone();
    for label in labels.into_iter().rev() {
        name = name.prepend_label(label.as_bytes()).ok()?;
    }
    Some(name)
}
