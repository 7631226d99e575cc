//! The task of one pod: looks, asks the plan, does what it says, reports what changed.

mod events;
mod sandbox;
mod start;
mod stop;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};

use crate::Config;
use crate::machine::Machine;
use crate::objects::Objects;
use crate::pod::{Action, StatusContext, View, Wait, plan, status};
use crate::probes::Probes;
use crate::report::{PodNetwork, Report};
use crate::runtime::{PodState, Runtime};
use crate::shim::protocol::{ContainerState, Phase};
use crate::spec::Surroundings;
use events::Events;

/// A pod is looked at this often even if nothing happens.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// What would not go is tried again after this long.
const REMOVAL_RETRY: Duration = Duration::from_secs(1);

/// What all workers of a node share.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) reports: mpsc::Sender<Report>,
    pub(crate) machine: Machine,
    pub(crate) layers_dir: PathBuf,
    pub(crate) cgroups: crate::cgroup::Mounts,
}

/// What the control plane wants of a pod.
#[derive(Clone, PartialEq)]
pub(crate) struct Desired {
    pub(crate) pod: Arc<Pod>,
    pub(crate) leaving: bool,
    pub(crate) objects: Arc<Objects>,
}

/// One pod's task.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    uid: String,
    namespace: String,
    name: String,
    desired: watch::Receiver<Desired>,
    /// As the runtime has it.
    state: watch::Receiver<PodState>,
    /// For those who ask about the pod from outside.
    published: watch::Sender<PodState>,
    probes: Probes,
    events: Events,
    waits: BTreeMap<String, Wait>,
    stopping: BTreeSet<String>,
    sandbox_failures: u32,
    sandbox_retry_at: Option<Timestamp>,
    /// Why something of the pod would last not go.
    removal_failure: Option<String>,
    /// The primary family's first; none before the pod has its network.
    pod_ips: Vec<IpAddr>,
    start_time: Timestamp,
    reported: Option<PodStatus>,
}

impl Worker {
    /// Takes up a pod, running or not. `published` is kept up to date with its state. Ends when
    /// nothing is left of the pod (true), or when nobody wants to know any more (false).
    pub(crate) async fn run(
        shared: Arc<Shared>,
        mut desired: watch::Receiver<Desired>,
        published: watch::Sender<PodState>,
    ) -> bool {
        let pod = Arc::clone(&desired.borrow_and_update().pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let events = Events::new(shared.reports.clone(), &namespace, &name, &uid);
        let probes = Probes::new(&uid, Arc::clone(&shared.runtime), events.on_probe_failure());
        let known = pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.clone());
        let mut worker = Self {
            uid,
            namespace,
            name,
            desired,
            state: watch::Sender::new(PodState::default()).subscribe(),
            published,
            probes,
            events,
            waits: BTreeMap::new(),
            stopping: BTreeSet::new(),
            sandbox_failures: 0,
            sandbox_retry_at: None,
            removal_failure: None,
            pod_ips: Vec::new(),
            start_time: known.map_or_else(Timestamp::now, |time| time.0),
            reported: None,
            shared,
        };
        worker.adopt().await;
        worker.serve().await
    }

    async fn serve(&mut self) -> bool {
        let mut images = self.shared.runtime.image_changes();
        let mut verdicts = self.probes.changes();
        loop {
            let wake_at = match self.step().await {
                Step::Gone => return true,
                Step::Again => continue,
                Step::Wait(wake_at) => wake_at,
            };
            let sleep = wake_at.map_or(RESYNC_INTERVAL, |at| {
                let left = Timestamp::now()
                    .until(at)
                    .ok()
                    .and_then(|span| span.try_into().ok());
                left.unwrap_or(Duration::ZERO).min(RESYNC_INTERVAL)
            });
            tokio::select! {
                changed = self.desired.changed() => match changed {
                    Ok(()) => self.desire_changed(),
                    // The agent itself ends: the pod stays as it is.
                    Err(_) => return false,
                },
                Ok(()) = self.state.changed() => {}
                Ok(()) = verdicts.changed() => {}
                Ok(()) = images.changed() => self.retry_waits(|wait| wait.reason.contains("Image")),
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Looks once and does what is to be done.
    async fn step(&mut self) -> Step {
        let desired = self.desired.borrow().clone();
        let state = self.observe(&desired).await;
        if !desired.leaving
            && !state.alive
            && state.containers.is_empty()
            && has_ended(&desired.pod)
        {
            // It ended before this node knew of it, and must not run again.
            return Step::Wait(None);
        }
        let verdicts = self.probes.verdicts();
        let (plan, status) = {
            let view = self.view(&desired, &state, &verdicts);
            (plan(&view), self.status(&desired, &view))
        };
        self.report(&desired, status).await;
        self.events.backing_off(&plan.backing_off).await;
        let mut again = false;
        for action in plan.actions {
            again |= match action {
                Action::RunSandbox => {
                    self.run_sandbox(&desired).await;
                    true
                }
                Action::Start {
                    name,
                    attempt,
                    backoff_s,
                } => {
                    self.start(&desired, &name, attempt, backoff_s).await;
                    true
                }
                Action::Stop {
                    name,
                    id,
                    grace_s,
                    reason,
                } => {
                    self.stop(&desired, &name, &id, grace_s, &reason).await;
                    false
                }
                Action::Remove { id } => {
                    if let Err(error) = self.shared.runtime.remove_container(&self.uid, &id).await {
                        tracing::warn!(pod = self.name, %error, "cannot remove an old container");
                    }
                    false
                }
                Action::StopSandbox => match self.stop_sandbox().await {
                    Ok(()) => true,
                    Err(message) => return self.cannot_remove(message).await,
                },
                Action::TearDown => match self.tear_down().await {
                    Ok(()) => return Step::Gone,
                    Err(message) => return self.cannot_remove(message).await,
                },
            };
        }
        // A pull error becomes a back-off a moment later, without anything happening.
        let shown = self
            .waits
            .values()
            .map(|wait| wait.failed_at + Duration::from_secs(1));
        let next_look = shown.filter(|at| *at > Timestamp::now()).min();
        let wake_at = plan.wake_at.into_iter().chain(next_look).min();
        if again {
            Step::Again
        } else {
            Step::Wait(wake_at)
        }
    }

    /// Says, once for each reason, why something of the pod would not go; it is tried again.
    async fn cannot_remove(&mut self, message: String) -> Step {
        if self.removal_failure.as_ref() != Some(&message) {
            tracing::warn!(pod = self.name, uid = self.uid, message, "cannot remove");
            let told = format!("error killing pod: {message}");
            self.events.warning("FailedKillPod", told).await;
            self.removal_failure = Some(message);
        }
        Step::Wait(Some(Timestamp::now() + REMOVAL_RETRY))
    }

    /// The pod's state now; the dead are buried, and what is new is told.
    async fn observe(&mut self, desired: &Desired) -> PodState {
        let mut state = self.state.borrow_and_update().clone();
        let before = self.published.borrow().clone();
        if before.alive && !state.alive {
            tracing::warn!(pod = self.name, uid = self.uid, "the pod's shim is gone");
            self.events
                .warning("SandboxChanged", "the pod's shim died; restarting it")
                .await;
            self.rewatch().await;
            state = self.state.borrow_and_update().clone();
        }
        if state != before {
            self.tell_changes(desired, &before, &state).await;
            self.published.send_replace(state.clone());
        }
        let ended = |state: &&ContainerState| matches!(state.phase, Phase::Exited(_));
        for exited in state.containers.iter().filter(ended) {
            self.stopping.remove(&exited.record.id);
        }
        self.probe(desired, &state);
        state
    }

    /// Keeps a probe on each container that runs.
    fn probe(&mut self, desired: &Desired, state: &PodState) {
        let stopped = desired.leaving;
        let mut running = Vec::new();
        for container in &state.containers {
            let Phase::Running { started_at, .. } = container.phase else {
                continue;
            };
            let id = container.record.id.as_str();
            let spec = crate::pod::roles(&desired.pod)
                .find(|(_, spec)| spec.name == container.record.name);
            if let (Some((_, spec)), Some(address), false) = (spec, self.pod_ips.first(), stopped) {
                running.push(id);
                let known = known_verdict(&desired.pod, id);
                self.probes.begin(id, spec, *address, started_at, known);
            }
        }
        self.probes.keep(&running);
    }

    /// Tells what has begun and ended.
    async fn tell_changes(&mut self, desired: &Desired, before: &PodState, after: &PodState) {
        for container in &after.containers {
            let record = &container.record;
            let old = before
                .containers
                .iter()
                .find(|old| old.record.id == record.id);
            let had_started = old.is_some_and(|old| !matches!(old.phase, Phase::Creating));
            let name = &record.name;
            match &container.phase {
                _ if had_started => {}
                Phase::Creating => {}
                Phase::Running { .. } => {
                    self.events
                        .normal("Started", format!("Container started: {name}"))
                        .await;
                    self.post_start(desired, container);
                }
                Phase::Exited(exit) if exit.started_at.is_none() => {
                    let message = exit.message.as_deref().unwrap_or("unknown");
                    self.events
                        .warning("Failed", format!("Error: {message}"))
                        .await;
                }
                Phase::Exited(_) => {
                    self.events
                        .normal("Started", format!("Container started: {name}"))
                        .await;
                }
            }
        }
    }

    fn view<'a>(
        &'a self,
        desired: &'a Desired,
        state: &'a PodState,
        verdicts: &'a BTreeMap<String, crate::pod::Verdict>,
    ) -> View<'a> {
        View {
            pod: &desired.pod,
            now: Timestamp::now(),
            leaving: desired.leaving,
            alive: state.alive,
            sandbox_retry_at: self.sandbox_retry_at,
            containers: &state.containers,
            waits: &self.waits,
            stopping: &self.stopping,
            verdicts,
        }
    }

    fn status(&self, desired: &Desired, view: &View<'_>) -> PodStatus {
        let empty = PodStatus::default();
        let previous = match &self.reported {
            Some(status) => status,
            None => desired.pod.status.as_ref().unwrap_or(&empty),
        };
        let termination_message =
            |state: &ContainerState| stop::termination_message(&desired.pod, state);
        let context = StatusContext {
            node_ips: &self.shared.config.node_ips,
            pod_ips: &self.pod_ips,
            start_time: self.start_time,
            previous,
            termination_message: &termination_message,
        };
        status(view, &context)
    }

    /// Reports a status that is new. That it arrives is the receiver's care.
    async fn report(&mut self, desired: &Desired, status: PodStatus) {
        // A pod known only by what it left running has no spec to speak of.
        if desired.pod.spec.is_none() || self.reported.as_ref() == Some(&status) {
            return;
        }
        self.reported = Some(status.clone());
        let report = Report::Status {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            status: Box::new(status),
        };
        // The receiver is gone only when the agent ends, and then nobody is left to tell.
        let _ = self.shared.reports.send(report).await;
    }

    fn desire_changed(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        self.retry_waits(|wait| wait.reason.starts_with("Create"));
        if self.published.borrow().alive && !desired.leaving {
            let surroundings = self.surroundings();
            // Objects may have changed; a volume that cannot follow keeps what it has.
            if let Err(error) = self.volumes(&desired, &surroundings).prepare() {
                tracing::warn!(pod = self.name, %error, "cannot renew the pod's volumes");
            }
        }
    }

    /// Lets containers that wait for something be tried again at once.
    fn retry_waits(&mut self, which: impl Fn(&Wait) -> bool) {
        let now = Timestamp::now();
        self.waits
            .values_mut()
            .filter(|wait| which(wait))
            .for_each(|wait| wait.retry_at = now);
    }

    fn surroundings(&self) -> Surroundings {
        let machine = &self.shared.machine;
        Surroundings {
            node_name: self.shared.config.node_name.to_string(),
            node_ips: self.shared.config.node_ips.clone(),
            pod_ips: self.pod_ips.clone(),
            node_cpu_milli: machine.cpu_milli(),
            node_memory_bytes: machine.memory_bytes,
        }
    }
}

/// What comes after a step.
enum Step {
    /// Nothing is left of the pod.
    Gone,
    /// What was done may call for more.
    Again,
    /// Until something happens, or that time.
    Wait(Option<Timestamp>),
}

/// Whether the API says that the pod has run to its end.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What the API knows of a container run: `(started, ready)`. An agent that was restarted goes
/// on from there, instead of taking a serving pod out of its services.
fn known_verdict(pod: &Pod, id: &str) -> Option<(bool, bool)> {
    let status = pod.status.as_ref()?;
    let statuses = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses);
    let known = statuses
        .flatten()
        .find(|known| known.container_id.as_deref() == Some(format!("fairlead://{id}").as_str()))?;
    Some((known.started.unwrap_or(known.ready), known.ready))
}
