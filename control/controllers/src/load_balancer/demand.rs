//! What a Service wants of addresses, and what it says that it has.

use std::net::IpAddr;

use fairlead_api::balancing::LOAD_BALANCER_CLASS;
use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::Condition};

/// The condition that says whether a Service has its address.
pub(super) const CONDITION: &str = "net.fairlead.io/AddressAllocated";

/// Why a Service has not all the addresses it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Which family an address is to be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
    /// A Service that does not say takes what there is.
    Any,
}

impl Family {
    /// Whether an address is of it.
    pub(super) fn has(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
            Self::Any => true,
        }
    }
}

/// The families a Service wants an address of, the primary one first.
pub(super) fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let listed = spec.and_then(|spec| spec.ip_families.as_deref());
    let families: Vec<_> = listed
        .unwrap_or_default()
        .iter()
        .map(|family| {
            if family == "IPv6" {
                Family::V6
            } else {
                Family::V4
            }
        })
        .collect();
    if families.is_empty() {
        vec![Family::Any]
    } else {
        families
    }
}

/// Whether it wants any, of us.
pub(super) fn is_load_balancer(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
        // Another class is another implementation's to serve.
        && spec
            .and_then(|spec| spec.load_balancer_class.as_deref())
            .is_none_or(|class| class == LOAD_BALANCER_CLASS)
}

/// Whether addresses depend on a Service.
pub(super) fn is_concerned(service: &Service) -> bool {
    is_load_balancer(service) || !ingress(service).is_empty()
}

/// The addresses that its status says it has.
pub(super) fn ingress(service: &Service) -> Vec<IpAddr> {
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

/// The address it asks for.
pub(super) fn requested(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    spec.load_balancer_ip
        .as_deref()
        .filter(|address| !address.is_empty())
}

/// Whether the Service is content with one family where there is no address of the other.
pub(super) fn prefers(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.ip_family_policy.as_deref()) == Some("PreferDualStack")
}

fn condition(service: &Service) -> Option<&Condition> {
    let status = service.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == CONDITION && condition.status == "False")
}

/// Whether the Service's status says that it lacks an address.
pub(super) fn is_lacking(service: &Service) -> bool {
    condition(service).is_some()
}

/// Whether it says why.
pub(super) fn is_told(service: &Service, lack: &Lack) -> bool {
    condition(service)
        .is_some_and(|said| said.reason == lack.reason && said.message == lack.message)
}
