//! Fields that several messages have, checked one way.

use std::net::IpAddr;

use fairlead_api::VpcId;
use ipnetwork::IpNetwork;

/// A field of the message that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The way to it, "services[7].frontends[0].port": services by id, nodes by name, routes by
    /// prefix, announcements by address.
    pub field: String,
    /// What is wrong with it, for people.
    pub problem: String,
}

pub(super) fn invalid(field: &str, problem: impl Into<String>) -> Invalid {
    Invalid {
        field: field.to_owned(),
        problem: problem.into(),
    }
}

pub(super) fn nonzero(at: &str, name: &str, value: u32) -> Result<u32, Invalid> {
    if value == 0 {
        Err(invalid(&format!("{at}.{name}"), "is 0"))
    } else {
        Ok(value)
    }
}

pub(super) fn port(at: &str, name: &str, value: u32) -> Result<u16, Invalid> {
    u16::try_from(value)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| invalid(&format!("{at}.{name}"), format!("{value} is no port")))
}

/// A port that need not be: 0 stands for none.
pub(super) fn optional_port(at: &str, name: &str, value: u32) -> Result<Option<u16>, Invalid> {
    match value {
        0 => Ok(None),
        value => port(at, name, value).map(Some),
    }
}

pub(super) fn vpc(at: &str, value: u32) -> Result<VpcId, Invalid> {
    if value < 1 << 24 {
        Ok(VpcId(value))
    } else {
        Err(invalid(
            &format!("{at}.vpc"),
            format!("{value} does not fit the 24 bits of a VNI"),
        ))
    }
}

pub(super) fn address(at: &str, bytes: &[u8]) -> Result<IpAddr, Invalid> {
    let address = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok(),
        16 => <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok(),
        _ => None,
    };
    let field = || format!("{at}.address");
    let address = address
        .ok_or_else(|| {
            invalid(
                &field(),
                format!("has {} bytes instead of 4 or 16", bytes.len()),
            )
        })?
        .to_canonical();
    if address.is_unspecified() || address.is_multicast() {
        return Err(invalid(&field(), format!("{address} is nobody's address")));
    }
    Ok(address)
}

pub(super) fn network(field: &str, text: &str) -> Result<IpNetwork, Invalid> {
    let range: IpNetwork = text
        .parse()
        .map_err(|_| invalid(field, format!("\"{text}\" is no address range")))?;
    if range.network() != range.ip() {
        return Err(invalid(field, format!("\"{text}\" has host bits set")));
    }
    Ok(range)
}
