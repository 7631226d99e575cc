use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fairlead_api::RevisionedBytes;
use fairlead_objects::{Object, ObjectName};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Service;
use serde::{Deserialize, Serialize};

/// The condition that says whether a Service has its address.
pub(super) const CONDITION: &str = "net.fairlead.io/AddressAllocated";

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Allocation {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Allocation {
    fn holder(&self) -> ObjectName {
        ObjectName::new(&self.namespace, &self.name)
    }

    pub(super) fn encode(&self) -> RevisionedBytes {
        let json = serde_json::to_string(self).expect("three strings always serialise");
        RevisionedBytes {
            head: b"{\"resourceVersion\":\"".to_vec().into(),
            tail: format!("\",{}", &json[1..]).into_bytes().into(),
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Takes an address (unless it is held already) and writes it to the Service.
    Assign {
        service: ObjectName,
        address: IpAddr,
        is_held: bool,
    },
    /// Tells the Service that it gets none, and why.
    Refuse {
        service: ObjectName,
        reason: &'static str,
        message: String,
    },
    /// Takes the address off a Service that no longer wants one.
    Clear { service: ObjectName },
    /// Frees an address.
    Release { address: IpAddr },
}

fn is_load_balancer(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
        // Another class is another implementation's to serve.
        && spec
            .and_then(|spec| spec.load_balancer_class.as_deref())
            .is_none_or(|class| class == "net.fairlead.io/xdp")
}

/// Whether addresses depend on a Service.
pub(super) fn is_concerned(service: &Service) -> bool {
    is_load_balancer(service) || !ingress(service).is_empty()
}

fn ingress(service: &Service) -> Vec<IpAddr> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status
        .and_then(|status| status.ingress.as_deref())
        .unwrap_or_default();
    ingress
        .iter()
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .collect()
}

fn requested(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    spec.load_balancer_ip
        .as_deref()
        .filter(|address| !address.is_empty())
}

/// What to assign, refuse and release, looking at all Services at once.
pub(super) fn plan(
    services: &[&Service],
    held: &BTreeMap<IpAddr, Allocation>,
    pools: &[IpNetwork],
) -> Vec<Action> {
    let mut actions = Vec::new();
    let wanting: BTreeMap<ObjectName, &Service> = services
        .iter()
        .filter(|service| is_load_balancer(service) && !service.is_terminating())
        .map(|service| (service.object_name(), *service))
        .collect();
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    let mut has: BTreeMap<ObjectName, IpAddr> = BTreeMap::new();
    for (address, allocation) in held {
        let holder = wanting.get(&allocation.holder()).filter(|service| {
            service.uid() == allocation.uid
                && requested(service).is_none_or(|wanted| wanted.parse() == Ok(*address))
                && !has.contains_key(&service.object_name())
        });
        match holder {
            Some(service) => {
                taken.insert(*address);
                has.insert(service.object_name(), *address);
            }
            None => actions.push(Action::Release { address: *address }),
        }
    }
    for service in services {
        if !is_load_balancer(service) && !service.is_terminating() && !ingress(service).is_empty() {
            actions.push(Action::Clear {
                service: service.object_name(),
            });
        }
    }
    let mut waiting: Vec<&Service> = Vec::new();
    for (name, service) in &wanting {
        match has.get(name) {
            Some(address) if ingress(service) == [*address] => {}
            Some(address) => actions.push(Action::Assign {
                service: name.clone(),
                address: *address,
                is_held: true,
            }),
            None => waiting.push(service),
        }
    }
    // Those that ask for a certain address first, or an earlier one might be given it.
    waiting.sort_by_key(|service| {
        let created = service
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        (requested(service).is_none(), created, service.object_name())
    });
    for service in waiting {
        let name = service.object_name();
        match choose(service, &taken, pools) {
            Ok(address) => {
                taken.insert(address);
                actions.push(Action::Assign {
                    service: name,
                    address,
                    is_held: false,
                });
            }
            Err((reason, message)) => {
                if !is_refused_for(service, reason, &message) {
                    actions.push(Action::Refuse {
                        service: name,
                        reason,
                        message,
                    });
                }
            }
        }
    }
    actions
}

fn choose(
    service: &Service,
    taken: &BTreeSet<IpAddr>,
    pools: &[IpNetwork],
) -> Result<IpAddr, (&'static str, String)> {
    if let Some(wanted) = requested(service) {
        let Ok(address) = wanted.parse::<IpAddr>() else {
            return Err(("InvalidAddress", format!("{wanted:?} is not an address")));
        };
        if !pools.iter().any(|pool| is_usable(pool, address)) {
            return Err((
                "AddressNotInPool",
                format!("{address} is in no address pool"),
            ));
        }
        if taken.contains(&address) {
            return Err((
                "AddressInUse",
                format!("{address} is held by another service"),
            ));
        }
        return Ok(address);
    }
    pools
        .iter()
        .flat_map(|pool| pool.iter().filter(|address| is_usable(pool, *address)))
        .find(|address| !taken.contains(address))
        .ok_or_else(|| {
            let message = if pools.is_empty() {
                "no address pool is configured".to_owned()
            } else {
                "no address is free in the pools".to_owned()
            };
            ("PoolExhausted", message)
        })
}

/// Not the network's own address and not its broadcast address, which some routers treat apart.
fn is_usable(pool: &IpNetwork, address: IpAddr) -> bool {
    let is_single = matches!(
        (pool, pool.prefix()),
        (IpNetwork::V4(_), 31..) | (IpNetwork::V6(_), 127..)
    );
    pool.contains(address)
        && (is_single
            || (address != pool.network() && (pool.is_ipv6() || address != pool.broadcast())))
}

fn is_refused_for(service: &Service, reason: &str, message: &str) -> bool {
    let conditions = service
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|condition| {
        condition.type_ == CONDITION
            && condition.status == "False"
            && condition.reason == reason
            && condition.message == message
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(name: &str, more: Value) -> Service {
        let mut value = json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"type": "LoadBalancer"},
        });
        for (key, field) in more.as_object().unwrap() {
            value["spec"][key] = field.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn with_ingress(mut service: Service, address: &str) -> Service {
        service.status =
            serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": address}]}}))
                .unwrap();
        service
    }

    fn holds(address: &str, name: &str) -> (IpAddr, Allocation) {
        let (namespace, name, uid) = ("shop".to_owned(), name.to_owned(), name.to_owned());
        (
            address.parse().unwrap(),
            Allocation {
                namespace,
                name,
                uid,
            },
        )
    }

    fn assign(name: &str, address: &str) -> Action {
        let (service, address) = (ObjectName::new("shop", name), address.parse().unwrap());
        Action::Assign {
            service,
            address,
            is_held: false,
        }
    }

    fn check(services: &[Service], held: &[(IpAddr, Allocation)], pool: &str) -> Vec<Action> {
        let services: Vec<_> = services.iter().collect();
        plan(
            &services,
            &held.iter().cloned().collect(),
            &[pool.parse().unwrap()],
        )
    }

    #[test]
    fn requested_address_is_honoured_and_others_take_the_first_free() {
        let services = [
            service("a", json!({})),
            service("b", json!({"loadBalancerIP": "198.18.100.1"})),
        ];
        let expected = [assign("b", "198.18.100.1"), assign("a", "198.18.100.2")];
        assert_eq!(check(&services, &[], "198.18.100.0/24"), expected);
    }

    #[test]
    fn exhausted_pool_refuses_once_and_serves_the_waiting_when_one_frees() {
        let pool = "198.18.100.1/32";
        let a = with_ingress(service("a", json!({})), "198.18.100.1");
        let mut b = service("b", json!({}));
        let held = [holds("198.18.100.1", "a")];
        let refused = check(&[a.clone(), b.clone()], &held, pool);
        let Action::Refuse {
            reason, message, ..
        } = &refused[0]
        else {
            panic!("{refused:?}")
        };
        b.status = serde_json::from_value(json!({"conditions": [{
            "type": CONDITION, "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}))
        .unwrap();
        assert_eq!(check(&[a, b.clone()], &held, pool), []);
        let freed = check(std::slice::from_ref(&b), &held, pool);
        assert_eq!(
            freed,
            [
                Action::Release {
                    address: "198.18.100.1".parse().unwrap()
                },
                assign("b", "198.18.100.1")
            ]
        );
    }

    #[test]
    fn address_outside_the_pools_or_in_use_is_refused() {
        for (wanted, expected) in [
            ("192.0.2.1", "AddressNotInPool"),
            ("198.18.100.0", "AddressNotInPool"),
            ("198.18.100.1", "AddressInUse"),
            ("nonsense", "InvalidAddress"),
        ] {
            let a = with_ingress(service("a", json!({})), "198.18.100.1");
            let b = service("b", json!({"loadBalancerIP": wanted}));
            let actions = check(&[a, b], &[holds("198.18.100.1", "a")], "198.18.100.0/24");
            assert!(
                matches!(&actions[..], [Action::Refuse { reason, .. }] if *reason == expected),
                "{wanted}: {actions:?}"
            );
        }
    }

    #[test]
    fn service_that_becomes_a_cluster_ip_service_loses_its_address() {
        let changed = with_ingress(service("a", json!({"type": "ClusterIP"})), "198.18.100.1");
        let actions = check(&[changed], &[holds("198.18.100.1", "a")], "198.18.100.0/24");
        let address = "198.18.100.1".parse().unwrap();
        let service = ObjectName::new("shop", "a");
        assert_eq!(
            actions,
            [Action::Release { address }, Action::Clear { service }]
        );
    }

    #[test]
    fn held_address_missing_from_the_status_is_written_again() {
        let actions = check(
            &[service("a", json!({}))],
            &[holds("198.18.100.7", "a")],
            "198.18.100.0/24",
        );
        assert!(
            matches!(actions[..], [Action::Assign { is_held: true, .. }]),
            "{actions:?}"
        );
    }

    #[test]
    fn encoded_allocation_reads_back() {
        let allocation = holds("198.18.100.1", "a").1;
        let bytes = allocation.encode().stamp(fairlead_api::Revision(7));
        assert_eq!(
            serde_json::from_slice::<Allocation>(&bytes).unwrap(),
            allocation
        );
    }
}
