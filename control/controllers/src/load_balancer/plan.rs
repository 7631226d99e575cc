use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fairlead_api::RevisionedBytes;
use fairlead_objects::{Object, ObjectName};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Service;
use serde::{Deserialize, Serialize};

use super::demand::{
    Family, Lack, families, ingress, is_lacking, is_load_balancer, is_told, prefers, requested,
};

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
    /// Takes the addresses in `taken` and writes all of the Service's to it; with what it lacks.
    Assign {
        service: ObjectName,
        addresses: Vec<IpAddr>,
        taken: Vec<IpAddr>,
        lack: Option<Lack>,
    },
    /// Tells the Service that it gets none, and why.
    Refuse { service: ObjectName, lack: Lack },
    /// Takes the addresses off a Service that no longer wants any.
    Clear { service: ObjectName },
    /// Frees an address.
    Release { address: IpAddr },
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
    let mut has: BTreeMap<ObjectName, Vec<IpAddr>> = BTreeMap::new();
    for (address, allocation) in held {
        let name = allocation.holder();
        let kept = has.get(&name).map(Vec::as_slice).unwrap_or_default();
        let holder = wanting
            .get(&name)
            .filter(|service| service.uid() == allocation.uid && may_hold(service, *address, kept));
        match holder {
            Some(_) => {
                taken.insert(*address);
                has.entry(name).or_default().push(*address);
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
    // Those that ask for a certain address first, or an earlier one might be given it.
    let mut turns: Vec<&Service> = wanting.values().copied().collect();
    turns.sort_by_key(|service| {
        let created = service
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        (requested(service).is_none(), created, service.object_name())
    });
    for service in turns {
        let kept = has.remove(&service.object_name()).unwrap_or_default();
        actions.extend(settle(service, &kept, &mut taken, pools));
    }
    actions
}

/// Whether a Service may keep `address`, beside those it was found to keep already.
fn may_hold(service: &Service, address: IpAddr, kept: &[IpAddr]) -> bool {
    let is_wanted = families(service)
        .iter()
        .any(|family| family.has(address) && !kept.iter().any(|kept| family.has(*kept)));
    let asked = requested(service).and_then(|asked| asked.parse::<IpAddr>().ok());
    is_wanted && asked.is_none_or(|asked| asked == address || !is_same_family(asked, address))
}

fn is_same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}

/// Gives a Service that keeps `kept` an address of each family it wants. One that cannot be had does
/// not take the others away.
fn settle(
    service: &Service,
    kept: &[IpAddr],
    taken: &mut BTreeSet<IpAddr>,
    pools: &[IpNetwork],
) -> Option<Action> {
    let mut addresses = Vec::new();
    let mut new = Vec::new();
    let mut lack = None;
    for family in families(service) {
        let address = match kept.iter().find(|kept| family.has(**kept)) {
            Some(kept) => Ok(*kept),
            None => choose(service, family, taken, pools),
        };
        match address {
            Ok(address) => {
                if taken.insert(address) {
                    new.push(address);
                }
                addresses.push(address);
            }
            Err(why) => lack = lack.or(Some(why)),
        }
    }
    if prefers(service) && !addresses.is_empty() {
        lack = None;
    }
    let name = service.object_name();
    match lack {
        None if new.is_empty() && ingress(service) == addresses && !is_lacking(service) => None,
        Some(ref lack) if ingress(service) == addresses && is_told(service, lack) => None,
        Some(lack) if addresses.is_empty() => Some(Action::Refuse {
            service: name,
            lack,
        }),
        lack => Some(Action::Assign {
            service: name,
            addresses,
            taken: new,
            lack,
        }),
    }
}

fn choose(
    service: &Service,
    family: Family,
    taken: &BTreeSet<IpAddr>,
    pools: &[IpNetwork],
) -> Result<IpAddr, Lack> {
    let lack = |reason, message| Lack { reason, message };
    let wanted = families(service);
    if let Some(asked) = requested(service) {
        let Ok(address) = asked.parse::<IpAddr>() else {
            return Err(lack(
                "InvalidAddress",
                format!("{asked:?} is not an address"),
            ));
        };
        if !wanted.iter().any(|family| family.has(address)) {
            let message = format!("{address} is of none of the service's families");
            return Err(lack("InvalidAddress", message));
        }
        if family.has(address) {
            if !pools.iter().any(|pool| is_usable(pool, address)) {
                let message = format!("{address} is in no address pool");
                return Err(lack("AddressNotInPool", message));
            }
            if taken.contains(&address) {
                let message = format!("{address} is held by another service");
                return Err(lack("AddressInUse", message));
            }
            return Ok(address);
        }
    }
    let of_family = || pools.iter().filter(|pool| family.has(pool.network()));
    of_family()
        .flat_map(|pool| pool.iter().filter(|address| is_usable(pool, *address)))
        .find(|address| !taken.contains(address))
        .ok_or_else(|| {
            let kind = match family {
                Family::V4 => "IPv4 ",
                Family::V6 => "IPv6 ",
                Family::Any => "",
            };
            let message = if of_family().next().is_none() {
                format!("no {kind}address pool is configured")
            } else {
                format!("no {kind}address is free in the pools")
            };
            lack("PoolExhausted", message)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::load_balancer::demand::CONDITION;

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
        let addresses = vec![address.parse().unwrap()];
        Action::Assign {
            service: ObjectName::new("shop", name),
            addresses: addresses.clone(),
            taken: addresses,
            lack: None,
        }
    }

    fn check(services: &[Service], held: &[(IpAddr, Allocation)], pool: &str) -> Vec<Action> {
        let services: Vec<_> = services.iter().collect();
        let pools: Vec<_> = pool.split(',').map(|pool| pool.parse().unwrap()).collect();
        plan(&services, &held.iter().cloned().collect(), &pools)
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
        let Action::Refuse { lack, .. } = &refused[0] else {
            panic!("{refused:?}")
        };
        let Lack { reason, message } = lack;
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
                matches!(&actions[..], [Action::Refuse { lack, .. }] if lack.reason == expected),
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
            matches!(&actions[..], [Action::Assign { taken, .. }] if taken.is_empty()),
            "{actions:?}"
        );
    }

    /// What a Service of `families` is given: its addresses, those that it takes, and the reason why
    /// one is lacking.
    fn given(
        families: &[&str],
        more: Value,
        held: &[(IpAddr, Allocation)],
        pool: &str,
    ) -> Vec<String> {
        let mut service = service("a", more);
        let spec = service.spec.as_mut().unwrap();
        spec.ip_families = Some(families.iter().map(ToString::to_string).collect());
        let texts = |addresses: &[IpAddr]| {
            let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            texts.join(" ")
        };
        check(&[service], held, pool)
            .iter()
            .map(|action| match action {
                Action::Assign {
                    addresses,
                    taken,
                    lack,
                    ..
                } => {
                    let lack = lack.as_ref().map_or("", |lack| &lack.message);
                    format!("{}; takes {}; {lack}", texts(addresses), texts(taken))
                }
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn service_of_both_families_has_an_address_of_each_in_its_own_order() {
        let pools = "198.18.100.0/24,2001:db8:100::/120";
        let (v4, v6) = ("198.18.100.1", "2001:db8:100::1");
        let asks_v6 = || json!({"loadBalancerIP": "2001:db8:100::9"});
        for (families, more, expected) in [
            (&["IPv4"][..], json!({}), format!("{v4}; takes {v4}; ")),
            (&["IPv6"], json!({}), format!("{v6}; takes {v6}; ")),
            (
                &["IPv4", "IPv6"],
                json!({}),
                format!("{v4} {v6}; takes {v4} {v6}; "),
            ),
            (
                &["IPv6", "IPv4"],
                json!({}),
                format!("{v6} {v4}; takes {v6} {v4}; "),
            ),
            (
                &["IPv4", "IPv6"],
                asks_v6(),
                format!("{v4} 2001:db8:100::9; takes {v4} 2001:db8:100::9; "),
            ),
        ] {
            assert_eq!(
                given(families, more, &[], pools),
                [expected],
                "{families:?}"
            );
        }
        let refused = given(&["IPv4"], asks_v6(), &[], pools);
        assert!(
            refused[0].contains("none of the service's families"),
            "{refused:?}"
        );
    }

    #[test]
    fn second_family_comes_and_goes_and_the_first_address_stays() {
        let pools = "198.18.100.0/24,2001:db8:100::/120";
        let (v4, v6) = (holds("198.18.100.7", "a"), holds("2001:db8:100::7", "a"));
        assert_eq!(
            given(
                &["IPv4", "IPv6"],
                json!({}),
                std::slice::from_ref(&v4),
                pools
            ),
            ["198.18.100.7 2001:db8:100::1; takes 2001:db8:100::1; "]
        );
        assert_eq!(
            given(&["IPv4"], json!({}), &[v4, v6], pools),
            [
                format!(
                    "{:?}",
                    Action::Release {
                        address: "2001:db8:100::7".parse().unwrap()
                    }
                ),
                "198.18.100.7; takes ; ".to_owned(),
            ]
        );
    }

    #[test]
    fn family_without_an_address_is_told_of_unless_it_was_only_preferred() {
        let both = &["IPv4", "IPv6"];
        let pool = "198.18.100.0/24";
        let v4 = "198.18.100.1; takes 198.18.100.1; ";
        let required = json!({"ipFamilyPolicy": "RequireDualStack"});
        let preferred = json!({"ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(
            given(both, required, &[], pool),
            [format!("{v4}no IPv6 address pool is configured")]
        );
        assert_eq!(given(both, preferred, &[], pool), [v4]);
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
