//! What should happen to a pod next, and what is to be said about it: decisions without I/O.

mod plan;
mod probe;
mod status;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::shim::protocol::{ContainerState, Phase};

pub(crate) use plan::{Action, StopReason, plan};
pub(crate) use probe::{ProbeCounter, ProbeKind};
pub(crate) use status::{StatusContext, status};

/// The longest wait between two tries of anything: crash loops and images.
pub(crate) const BACKOFF_S_MAX: u32 = 300;
/// The first wait.
pub(crate) const BACKOFF_S_MIN: u32 = 10;

/// What is asked of a container's place in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next begins.
    Init,
    /// An init container with `restartPolicy: Always`: starts among them and stays.
    Sidecar,
    /// The pod's own work.
    Main,
}

/// Why a container could not be started, and when that is tried again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wait {
    /// `ErrImagePull`, `CreateContainerConfigError` …
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) failed_at: Timestamp,
    pub(crate) retry_at: Timestamp,
    pub(crate) delay_s: u32,
}

/// What probes have found about one run of a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) started: bool,
    pub(crate) ready: bool,
    /// A liveness or startup probe has failed for good.
    pub(crate) failed: Option<ProbeFailure>,
}

/// The failure that ends a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProbeFailure {
    pub(crate) kind: ProbeKind,
    /// `terminationGracePeriodSeconds` of the probe.
    pub(crate) grace_s: Option<i64>,
}

impl Default for Verdict {
    /// A container without probes has started and is ready as long as it runs.
    fn default() -> Self {
        Self {
            started: true,
            ready: true,
            failed: None,
        }
    }
}

/// A pod as it should be and as it is.
pub(crate) struct View<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) now: Timestamp,
    /// The pod was deleted, or is no longer this node's.
    pub(crate) leaving: bool,
    /// Whether the sandbox lives.
    pub(crate) alive: bool,
    /// After a failure to make the sandbox: when to try again.
    pub(crate) sandbox_retry_at: Option<Timestamp>,
    /// Every known run of every container.
    pub(crate) containers: &'a [ContainerState],
    /// By container name.
    pub(crate) waits: &'a BTreeMap<String, Wait>,
    /// Ids of containers that were asked to stop.
    pub(crate) stopping: &'a BTreeSet<String>,
    /// By container id; absent for containers without probes.
    pub(crate) verdicts: &'a BTreeMap<String, Verdict>,
}

impl View<'_> {
    /// The pod's containers with their roles, in the order they start.
    pub(crate) fn roles(&self) -> impl Iterator<Item = (Role, &Container)> {
        roles(self.pod)
    }

    /// The latest run of a container.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerState> {
        self.containers
            .iter()
            .filter(|state| state.record.name == name)
            .max_by_key(|state| state.record.attempt)
    }

    /// The run before the latest.
    pub(crate) fn previous(&self, name: &str) -> Option<&ContainerState> {
        let latest = self.latest(name)?.record.attempt;
        self.containers
            .iter()
            .filter(|state| state.record.name == name && state.record.attempt < latest)
            .max_by_key(|state| state.record.attempt)
    }

    pub(crate) fn verdict(&self, id: &str) -> Verdict {
        self.verdicts.get(id).cloned().unwrap_or_default()
    }

    /// Whether the container's latest run runs and has passed its startup probe.
    pub(crate) fn has_started(&self, name: &str) -> bool {
        self.latest(name).is_some_and(|state| {
            matches!(state.phase, Phase::Running { .. }) && self.verdict(&state.record.id).started
        })
    }
}

/// A pod's containers with their roles, in the order they start.
pub(crate) fn roles(pod: &Pod) -> impl Iterator<Item = (Role, &Container)> {
    let spec = pod.spec.iter();
    let init = spec
        .clone()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let init = init.map(|container| match container.restart_policy.as_deref() {
        Some("Always") => (Role::Sidecar, container),
        _ => (Role::Init, container),
    });
    let main = spec
        .flat_map(|spec| &spec.containers)
        .map(|container| (Role::Main, container));
    init.chain(main)
}

/// The wait after one of `delay_s` seconds.
pub(crate) fn next_backoff_s(delay_s: u32) -> u32 {
    (delay_s * 2).clamp(BACKOFF_S_MIN, BACKOFF_S_MAX)
}
