use std::{fmt, net::IpAddr, str::FromStr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// A range of addresses of one family, or one of each. The first is the family that Services and
/// pods have when they do not say (Kubernetes' primary family).
///
/// Written as in Kubernetes' flags: `10.244.0.0/16`, or `10.244.0.0/16,2001:db8:a::/56`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FamilyRanges {
    first: IpNetwork,
    second: Option<IpNetwork>,
}

/// Why a text is no such ranges.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRanges {
    /// A part of it is no CIDR.
    #[error("{text:?} is no CIDR: {problem}")]
    NotCidr {
        /// The part.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An address with a prefix length, where the address of a network was asked for.
    #[error("{range}: host bits are set; did you mean {}/{}?", range.network(), range.prefix())]
    HostBits {
        /// The address.
        range: IpNetwork,
    },
    /// Two of one family.
    #[error("{first} and {second} are of one family: give one range, or one of each family")]
    SameFamily {
        /// One.
        first: IpNetwork,
        /// The other.
        second: IpNetwork,
    },
    /// More than there are families.
    #[error("{count} ranges: give one range, or one of each family")]
    TooMany {
        /// How many.
        count: usize,
    },
}

impl FamilyRanges {
    /// The range of the primary family.
    pub fn first(&self) -> IpNetwork {
        self.first
    }

    /// All of them, the primary family's first.
    pub fn iter(&self) -> impl Iterator<Item = IpNetwork> + use<> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// The range of `address`' family.
    pub fn of_family(&self, address: IpAddr) -> Option<IpNetwork> {
        self.iter()
            .find(|range| range.is_ipv4() == address.is_ipv4())
    }
}

impl From<IpNetwork> for FamilyRanges {
    fn from(first: IpNetwork) -> Self {
        Self {
            first,
            second: None,
        }
    }
}

impl FromStr for FamilyRanges {
    type Err = InvalidRanges;

    fn from_str(text: &str) -> Result<Self, InvalidRanges> {
        let ranges = text.split(',').map(range);
        match *ranges.collect::<Result<Vec<_>, _>>()? {
            [first] => Ok(first.into()),
            [first, second] if first.is_ipv4() == second.is_ipv4() => {
                Err(InvalidRanges::SameFamily { first, second })
            }
            [first, second] => Ok(Self {
                first,
                second: Some(second),
            }),
            ref more => Err(InvalidRanges::TooMany { count: more.len() }),
        }
    }
}

fn range(text: &str) -> Result<IpNetwork, InvalidRanges> {
    let text = text.trim();
    let range: IpNetwork =
        text.parse()
            .map_err(|error: ipnetwork::IpNetworkError| InvalidRanges::NotCidr {
                text: text.to_owned(),
                problem: error.to_string(),
            })?;
    if range.ip() == range.network() {
        Ok(range)
    } else {
        Err(InvalidRanges::HostBits { range })
    }
}

impl TryFrom<String> for FamilyRanges {
    type Error = InvalidRanges;

    fn try_from(text: String) -> Result<Self, InvalidRanges> {
        text.parse()
    }
}

impl From<FamilyRanges> for String {
    fn from(ranges: FamilyRanges) -> Self {
        ranges.to_string()
    }
}

impl fmt::Display for FamilyRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        match self.second {
            Some(second) => write!(f, ",{second}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_or_one_of_each_family_is_read_and_written_back() {
        for text in [
            "10.244.0.0/16",
            "2001:db8:a::/56",
            "10.244.0.0/16,2001:db8:a::/56",
            "2001:db8:a::/56,10.244.0.0/16",
        ] {
            let ranges: FamilyRanges = text.parse().unwrap();
            assert_eq!(ranges.to_string(), text);
            let json = serde_json::to_string(&ranges).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<FamilyRanges>(&json).unwrap(), ranges);
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_is_wrong() {
        for (text, expected) in [
            ("", "is no CIDR"),
            ("10.244.0.0/16,", "is no CIDR"),
            ("10.244.0.1/16", "did you mean 10.244.0.0/16?"),
            ("10.244.0.0/16,10.245.0.0/16", "are of one family"),
            ("10.0.0.0/8,2001:db8::/56,2001:db8:1::/56", "3 ranges"),
        ] {
            let error = text.parse::<FamilyRanges>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn range_is_found_by_an_address_of_its_family() {
        let ranges: FamilyRanges = "10.244.0.0/16".parse().unwrap();
        let (v4, v6) = ("192.0.2.1", "2001:db8::1");
        assert_eq!(ranges.of_family(v4.parse().unwrap()), Some(ranges.first()));
        assert_eq!(ranges.of_family(v6.parse().unwrap()), None);
    }
}
