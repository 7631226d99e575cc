//! What one Service at a time may hold: addresses of the service network, and ports of every node.
//! Each is a key in the store, taken and given back in the same transaction as the Service is
//! written or removed.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::RevisionedBytes;

const PREFIX: &str = "/registry/ranges/";

/// Something that one Service at a time may hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// A `ClusterIP`.
    Address(IpAddr),
    /// A port of every node.
    NodePort {
        /// `TCP`, `UDP` or `SCTP`.
        protocol: String,
        /// Its number.
        number: u16,
    },
}

/// The Service that holds a claim: the value at the claim's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Claim {
    /// A port of every node.
    pub fn node_port(protocol: &str, number: u16) -> Self {
        Self::NodePort {
            protocol: protocol.to_owned(),
            number,
        }
    }

    /// All that a Service holds.
    pub fn of_service(service: &Value) -> BTreeSet<Self> {
        let spec = &service["spec"];
        let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
        let addresses = addresses
            .chain([&spec["clusterIP"]])
            .filter_map(|address| address.as_str()?.parse().ok())
            .map(Self::Address);
        let ports = spec["ports"].as_array().into_iter().flatten();
        let ports = ports.map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            (protocol, &port["nodePort"])
        });
        let node_ports = ports
            .chain([("TCP", &spec["healthCheckNodePort"])])
            .filter_map(|(protocol, number)| {
                let number = u16::try_from(number.as_u64()?).ok()?;
                (number != 0).then(|| Self::node_port(protocol, number))
            });
        addresses.chain(node_ports).collect()
    }

    /// Its key in the store.
    pub fn key(&self) -> String {
        match self {
            Self::Address(address) => format!("{PREFIX}serviceips/{address}"),
            Self::NodePort { protocol, number } => {
                format!("{PREFIX}servicenodeports/{protocol}/{number}")
            }
        }
    }

    /// Whether a key belongs to a claim.
    pub fn is_key(key: &str) -> bool {
        key.starts_with(PREFIX)
    }
}

impl Holder {
    /// The value at a claim's key.
    pub fn encode(&self) -> RevisionedBytes {
        let holder = serde_json::to_string(self).expect("two texts always serialise");
        let members = holder.trim_start_matches('{');
        RevisionedBytes {
            head: r#"{"resourceVersion":""#.into(),
            tail: format!(r#"",{members}"#).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn service_holds_its_addresses_and_its_ports_by_protocol() {
        let service = json!({"spec": {
            "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "2001:db8::7"],
            "healthCheckNodePort": 30_090,
            "ports": [
                {"port": 53, "protocol": "UDP", "nodePort": 30_053},
                {"port": 53, "nodePort": 30_053},
                {"port": 81},
            ],
        }});
        let keys: BTreeSet<String> = Claim::of_service(&service).iter().map(Claim::key).collect();
        let expected = [
            "/registry/ranges/serviceips/10.96.0.7",
            "/registry/ranges/serviceips/2001:db8::7",
            "/registry/ranges/servicenodeports/TCP/30053",
            "/registry/ranges/servicenodeports/TCP/30090",
            "/registry/ranges/servicenodeports/UDP/30053",
        ];
        assert_eq!(keys, expected.map(str::to_owned).into());
        let headless = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
        assert_eq!(Claim::of_service(&headless), BTreeSet::new());
    }

    #[test]
    fn holder_is_kept_as_json_with_its_revision() {
        let holder = Holder {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
        };
        let stamped = holder.encode().stamp(crate::Revision(7));
        assert_eq!(serde_json::from_slice::<Holder>(&stamped).unwrap(), holder);
        let whole: Value = serde_json::from_slice(&stamped).unwrap();
        assert_eq!(whole["resourceVersion"], "7");
    }
}
