//! The scheduler: filter the nodes a pod may run on, score them, bind it to the best.
//!
//! It decides on its own state, in which a pod it has placed counts at once; writing the binding
//! happens beside the next decisions, never before them.

mod affinity;
mod filter;
mod node_info;
mod pod_queue;
mod requests;
mod score;
mod state;

use std::{sync::Arc, time::Duration};

use fairlead_objects::{About, Cache, Change, Changed, EventType, Object, ObjectName, WriteError};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use tokio::{sync::Semaphore, task::JoinSet};
use tracing::{debug, warn};

pub(crate) use self::filter::tolerates;
use self::{pod_queue::PodQueue, state::State};
use crate::{
    controller::{Context, Route},
    pod_state,
};

/// How many bindings are written at a time.
const BINDINGS_MAX: usize = 64;
/// How often pods that found no node are tried again even if nothing that matters seems to have
/// changed.
const RETRY_ALL: Duration = Duration::from_secs(30);
const NAME: &str = "default-scheduler";

/// The scheduler.
pub(crate) struct Scheduler {
    context: Context,
    queue: PodQueue,
    state: State,
}

impl Scheduler {
    /// Starts it and returns the route for what it must know.
    pub(crate) fn start(context: &Context, tasks: &mut JoinSet<()>) -> Route {
        let scheduler = Arc::new(Self {
            context: context.clone(),
            queue: PodQueue::new(),
            state: State::default(),
        });
        tasks.spawn(scheduler.clone().run());
        let retried = scheduler.clone();
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(RETRY_ALL).await;
                retried.queue.wake();
            }
        });
        Box::new(move |change, cache| scheduler.observe(change, cache))
    }

    fn observe(&self, change: &Change, _: &Cache) {
        match &change.changed {
            Changed::Node(delta) => {
                self.state
                    .set_node(&change.name.name, delta.current.clone());
                if delta.current.is_some()
                    && is_news(delta.previous.as_deref(), delta.current.as_deref())
                {
                    self.queue.wake();
                }
            }
            Changed::Pod(delta) => {
                let previous = delta.previous.as_deref();
                let current = delta.current.as_deref();
                if let Some(gone) =
                    previous.filter(|old| current.is_none_or(|new| new.uid() != old.uid()))
                {
                    self.state.remove_pod(gone.uid());
                }
                match current {
                    Some(pod) if pod_state::has_ended(pod) => self.state.remove_pod(pod.uid()),
                    Some(pod) if pod_state::node(pod).is_some() => self.state.set_pod(pod),
                    Some(_) | None => {}
                }
                match current.filter(|pod| wants_node(pod)) {
                    Some(pod) => {
                        let is_changed = previous.is_none_or(|old| {
                            old.spec != pod.spec
                                || !wants_node(old)
                                || old.metadata.labels != pod.metadata.labels
                        });
                        if is_changed {
                            let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
                            self.queue.add(change.name.clone(), priority.unwrap_or(0));
                        }
                    }
                    None => self.queue.remove(&change.name),
                }
                let held = |pod: Option<&Pod>| {
                    pod.is_some_and(|pod| {
                        pod_state::node(pod).is_some() && !pod_state::has_ended(pod)
                    })
                };
                if held(previous) && !held(current) {
                    self.queue.wake();
                }
            }
            _ => {}
        }
    }

    async fn run(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(BINDINGS_MAX));
        let mut bindings = JoinSet::new();
        loop {
            let permit = permits
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let (name, cycle) = self.queue.next().await;
            let pod = self
                .context
                .cache()
                .pods
                .get(&name)
                .filter(|pod| wants_node(pod))
                .cloned();
            let Some(pod) = pod else { continue };
            match self.state.place(&pod) {
                Ok(node) => {
                    let scheduler = self.clone();
                    bindings.spawn(async move {
                        scheduler.bind(&pod, &name, node).await;
                        drop(permit);
                    });
                    while bindings.try_join_next().is_some() {}
                }
                Err(message) => {
                    debug!(pod = %name, message, "no node fits");
                    self.queue.park(
                        name,
                        pod.spec
                            .as_ref()
                            .and_then(|spec| spec.priority)
                            .unwrap_or(0),
                        cycle,
                    );
                    self.refuse(&pod, message).await;
                }
            }
        }
    }

    async fn bind(&self, pod: &Pod, name: &ObjectName, node: String) {
        let now = Timestamp::now();
        let result = self
            .context
            .writer
            .update::<Pod>(name, Some(pod.uid()), |pod| {
                if !wants_node(pod) {
                    return;
                }
                pod.spec.get_or_insert_default().node_name = Some(node.clone());
                let condition = PodCondition {
                    type_: "PodScheduled".to_owned(),
                    status: "True".to_owned(),
                    ..PodCondition::default()
                };
                pod_state::set_condition(pod, condition, now);
            })
            .await;
        let recorder = self.context.recorder.speaking_as(NAME, None);
        match result {
            Ok(_) => {
                self.queue.forget(name);
                let message = format!("Successfully assigned {name} to {node}");
                recorder
                    .record(&About::object(pod), EventType::Normal, "Scheduled", message)
                    .await;
            }
            Err(cause) => {
                self.state.remove_pod(pod.uid());
                if !matches!(cause, WriteError::Missing(_)) {
                    warn!(pod = %name, error = &cause as &dyn std::error::Error, "binding not written");
                    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
                    self.queue.add(name.clone(), priority.unwrap_or(0));
                }
            }
        }
    }

    async fn refuse(&self, pod: &Pod, message: String) {
        let now = Timestamp::now();
        let written = self
            .context
            .writer
            .update::<Pod>(&pod.object_name(), Some(pod.uid()), |pod| {
                let condition = PodCondition {
                    type_: "PodScheduled".to_owned(),
                    status: "False".to_owned(),
                    reason: Some("Unschedulable".to_owned()),
                    message: Some(message.clone()),
                    ..PodCondition::default()
                };
                if wants_node(pod) {
                    pod_state::set_condition(pod, condition, now);
                }
            })
            .await;
        if let Err(cause) = written {
            debug!(%cause, "condition of an unschedulable pod not written");
            return;
        }
        let recorder = self.context.recorder.speaking_as(NAME, None);
        recorder
            .record(
                &About::object(pod),
                EventType::Warning,
                "FailedScheduling",
                message,
            )
            .await;
    }
}

/// Whether a pod waits for this scheduler to give it a node.
fn wants_node(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    pod_state::is_active(pod)
        && pod_state::node(pod).is_none()
        && spec
            .and_then(|spec| spec.scheduler_name.as_deref())
            .is_none_or(|name| name.is_empty() || name == NAME)
        && spec
            .and_then(|spec| spec.scheduling_gates.as_ref())
            .is_none_or(Vec::is_empty)
}

/// Whether a node's change could let a pod on it that could not go there before.
fn is_news(
    previous: Option<&k8s_openapi::api::core::v1::Node>,
    current: Option<&k8s_openapi::api::core::v1::Node>,
) -> bool {
    let facts = |node: Option<&k8s_openapi::api::core::v1::Node>| {
        node.map(|node| {
            let allocatable = node
                .status
                .as_ref()
                .and_then(|status| status.allocatable.clone());
            (node.metadata.labels.clone(), node.spec.clone(), allocatable)
        })
    };
    facts(previous) != facts(current)
}
