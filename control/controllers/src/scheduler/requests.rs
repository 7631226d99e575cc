//! What a pod asks a node for.

use std::collections::BTreeMap;

use fairlead_api::quantity::Quantity;
use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource,
};

/// Amounts by resource, in thousandths (of a CPU, of a byte, of a device).
pub(super) type Amounts = BTreeMap<String, i64>;

/// What a container counts as, for scores only, when it asks for nothing: an idle node must still
/// look emptier than one full of pods that ask for nothing.
const IDLE_CPU: i64 = 100;
const IDLE_MEMORY: i64 = 200 * 1024 * 1024 * 1000;

/// Reads amounts; one that is no quantity was refused when the object was written.
pub(super) fn amounts(of: Option<&BTreeMap<String, resource::Quantity>>) -> Amounts {
    of.into_iter()
        .flatten()
        .filter_map(|(name, quantity)| {
            Some((name.clone(), Quantity::parse(&quantity.0).ok()?.millis()))
        })
        .collect()
}

/// What a pod's containers need at the same time: all that run together, or the greediest moment
/// of its start, whichever is more.
pub(super) fn of_pod(pod: &Pod) -> Amounts {
    of_pod_with(pod, |container| {
        amounts(
            container
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref()),
        )
    })
}

/// The same with a floor for containers that do not say.
pub(super) fn of_pod_for_scores(pod: &Pod) -> Amounts {
    of_pod_with(pod, |container| {
        let requests = container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        let mut amounts = amounts(requests);
        amounts.entry("cpu".to_owned()).or_insert(IDLE_CPU);
        amounts.entry("memory".to_owned()).or_insert(IDLE_MEMORY);
        amounts
    })
}

fn of_pod_with(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let Some(spec) = &pod.spec else {
        return Amounts::new();
    };
    let mut running = Amounts::new();
    for container in &spec.containers {
        add(&mut running, &of(container));
    }
    let mut sidecars = Amounts::new();
    let mut starting = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        let mut moment = sidecars.clone();
        add(&mut moment, &own);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut running, &own);
            sidecars = moment.clone();
        }
        raise(&mut starting, &moment);
    }
    raise(&mut running, &starting);
    add(&mut running, &amounts(spec.overhead.as_ref()));
    running
}

pub(super) fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

pub(super) fn subtract(from: &mut Amounts, less: &Amounts) {
    for (name, amount) in less {
        if let Some(sum) = from.get_mut(name) {
            *sum = sum.saturating_sub(*amount);
        }
    }
}

fn raise(to: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let present = to.entry(name.clone()).or_default();
        *present = (*present).max(*amount);
    }
}
