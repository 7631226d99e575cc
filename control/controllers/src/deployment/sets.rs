use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::{
    history::{self, DESIRED_REPLICAS, MAX_REPLICAS},
    plan::Action,
    template,
};

/// One ReplicaSet as the plan leaves it.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(super) object: ReplicaSet,
    pub(super) size: i32,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) min_ready_seconds: Option<i32>,
    pub(super) is_created: bool,
}

impl Set {
    pub(super) fn new(object: ReplicaSet, is_created: bool) -> Self {
        Self {
            size: object.spec.replicas.unwrap_or(1),
            annotations: BTreeMap::new(),
            min_ready_seconds: object.spec.min_ready_seconds,
            is_created,
            object,
        }
    }

    /// How large it should be.
    pub(super) fn replicas(&self) -> i32 {
        self.size
    }

    /// How many pods it has.
    pub(super) fn actual(&self) -> i32 {
        self.object
            .status
            .as_ref()
            .map_or(0, |status| status.replicas)
    }

    pub(super) fn ready(&self) -> i32 {
        self.object
            .status
            .as_ref()
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0)
    }

    pub(super) fn available(&self) -> i32 {
        self.object
            .status
            .as_ref()
            .and_then(|status| status.available_replicas)
            .unwrap_or(0)
    }

    pub(super) fn terminating(&self) -> i32 {
        self.object
            .status
            .as_ref()
            .and_then(|status| status.terminating_replicas)
            .unwrap_or(0)
    }

    pub(super) fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    /// Orders by age, then by name.
    pub(super) fn created(&self) -> (Option<Timestamp>, &str) {
        let at = self
            .object
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        (at, self.name())
    }

    /// Whether it has all the pods of the Deployment, all available.
    pub(super) fn is_saturated(&self, desired: i32) -> bool {
        let annotated = history::number(&self.object, DESIRED_REPLICAS);
        self.size == desired && annotated == Some(i64::from(desired)) && self.available() == desired
    }

    pub(super) fn template_is(&self, deployment: &Deployment) -> bool {
        let own = self.object.spec.template.as_ref();
        own.is_some_and(|own| template::is_same(&deployment.spec.template, own))
    }
}

/// A Deployment's ReplicaSets, oldest first, and which one has the current template.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    pub(super) all: Vec<Set>,
    pub(super) new: Option<usize>,
    pub(super) desired: i32,
    pub(super) surge: i32,
    pub(super) events: Vec<Action>,
}

impl Sets {
    /// The newest set that is not of the current template.
    pub(super) fn latest(&self) -> Option<usize> {
        (0..self.all.len())
            .rev()
            .find(|index| Some(*index) != self.new)
    }

    /// Resizes a set, noting what the Deployment's size was then.
    pub(super) fn scale(&mut self, index: usize, size: i32) {
        let (desired, surge) = (self.desired, self.surge);
        let set = &mut self.all[index];
        if set.size != size {
            let direction = if size > set.size { "up" } else { "down" };
            let message = format!(
                "Scaled {direction} replica set {} from {} to {size}",
                set.name(),
                set.size
            );
            self.events.push(Action::Event {
                reason: "ScalingReplicaSet",
                message,
            });
            set.size = size;
        }
        set.annotations
            .insert(DESIRED_REPLICAS.to_owned(), desired.to_string());
        set.annotations
            .insert(MAX_REPLICAS.to_owned(), (desired + surge).to_string());
    }

    pub(super) fn total(&self) -> i32 {
        self.all.iter().map(Set::replicas).sum()
    }

    pub(super) fn available(&self) -> i32 {
        self.all.iter().map(Set::available).sum()
    }

    pub(super) fn old(&self) -> Vec<usize> {
        (0..self.all.len())
            .filter(|index| Some(*index) != self.new)
            .collect()
    }
}
