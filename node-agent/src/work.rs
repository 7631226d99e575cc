//! Makes the node what the control plane wants: hands each new desired state to the dataplane and
//! the DNS, then to the pods, and says what came of it. Only the newest state counts; one that was
//! overtaken while another was being applied is merged into it. What the dataplane refuses is
//! tried again together with what comes next.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use fairlead_api::error_chain;
use fairlead_dataplane::Dataplane;
use fairlead_dns::{Changes as NameChanges, Keeper};
use fairlead_pods::{Objects, Pods, Pressure};
use fairlead_proto::node::{Acknowledgement, NodeStatus};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};

use crate::{
    config::Config,
    desired::{Desired, Update, Workload},
    node::{self, Readiness},
    outbox::Outbox,
    view::Views,
};

/// How often the machine is looked at; as kubelet's eviction manager does.
const PRESSURE_PERIOD: Duration = Duration::from_secs(10);

/// The node's parts, and what it has to tell.
pub(crate) struct Node {
    pub(crate) config: Config,
    /// Whose file system holds what pods write.
    pub(crate) data_dir: PathBuf,
    pub(crate) dataplane: Arc<Dataplane>,
    pub(crate) dns: Arc<Keeper>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) outbox: Mutex<Outbox>,
    /// Woken when the outbox has something new.
    pub(crate) told: Notify,
    pub(crate) readiness: Mutex<Readiness>,
}

impl Node {
    /// Puts something into the outbox and wakes the session.
    pub(crate) fn tell(&self, put: impl FnOnce(&mut Outbox)) {
        put(&mut self
            .outbox
            .lock()
            .expect("nothing panics while the outbox is held"));
        self.told.notify_one();
    }

    /// What people may look into.
    pub(crate) fn views(&self) -> Views {
        Views {
            dataplane: Arc::clone(&self.dataplane),
            dns: Some(Arc::clone(&self.dns)),
        }
    }

    /// Applies the newest desired state, again and again, until the sender is gone.
    pub(crate) async fn work(&self, mut updates: mpsc::Receiver<Update>) {
        let mut desired = Desired::default();
        let mut assigned = None;
        while let Some(update) = updates.recv().await {
            desired.take(update);
            while let Ok(update) = updates.try_recv() {
                desired.take(update);
            }
            if self.apply(&desired).await {
                desired.changes = Arc::default();
                desired.names = NameChanges::default();
            }
            let is_assigned = assigned
                .as_ref()
                .is_some_and(|workload| Arc::ptr_eq(workload, &desired.workload));
            if !is_assigned {
                self.assign(&desired.workload).await;
                assigned = Some(Arc::clone(&desired.workload));
            }
        }
    }

    /// Whether the dataplane and the DNS took it.
    async fn apply(&self, desired: &Desired) -> bool {
        let ranges = desired.pod_cidrs.iter().map(|cidr| cidr.parse());
        let ranges: Vec<IpNetwork> = ranges.filter_map(Result::ok).collect();
        if !ranges.is_empty()
            && let Err(error) = self.dataplane.set_pod_cidrs(ranges.clone()).await
        {
            let error = error_chain(&error);
            tracing::error!(?ranges, error, "the dataplane refuses the pod ranges");
        }
        let generation = desired.generation;
        let changes = Arc::clone(&desired.changes);
        let applied = self.dataplane.apply(changes, generation).await;
        let applied = match applied {
            Ok(_done) => self
                .dns
                .update(desired.names.clone())
                .map_err(|error| error_chain(&error)),
            Err(error) => Err(error_chain(&error)),
        };
        let is_applied = applied.is_ok();
        let (acknowledgement, readiness) = match applied {
            Ok(()) => {
                let readiness = if desired.pod_cidrs.is_empty() {
                    Readiness::Starting
                } else {
                    Readiness::Ready
                };
                let acknowledgement = Acknowledgement {
                    generation: generation.0,
                    ..Acknowledgement::default()
                };
                (acknowledgement, readiness)
            }
            Err(text) => {
                tracing::error!(%generation, error = text, "the node refuses the desired state");
                let acknowledgement = Acknowledgement {
                    generation: self.dataplane.generation().0,
                    failed_generation: generation.0,
                    error: text.clone(),
                };
                (acknowledgement, Readiness::DataplaneFailed(text))
            }
        };
        self.tell(|outbox| outbox.put_acknowledgement(acknowledgement));
        self.set_readiness(readiness);
        is_applied
    }

    async fn assign(&self, workload: &Workload) {
        let pods: Vec<v1::Pod> = workload
            .pods()
            .filter_map(|json| read("Pod", json))
            .collect();
        let mut config_maps = Vec::new();
        let mut secrets = Vec::new();
        for object in workload.objects() {
            match object.kind.as_str() {
                "ConfigMap" => config_maps.extend(read("ConfigMap", &object.json)),
                "Secret" => secrets.extend(read("Secret", &object.json)),
                other => tracing::error!(kind = other, name = object.name, "no pod refers to this"),
            }
        }
        let wanted: Vec<_> = pods
            .iter()
            .filter_map(|pod| pod.metadata.uid.clone())
            .collect();
        self.tell(|outbox| outbox.retain_pods(|uid| wanted.iter().any(|wanted| wanted == uid)));
        self.pods
            .assign(pods, Objects::new(config_maps, secrets))
            .await;
    }

    /// Says what the machine runs short of, whenever that changed.
    pub(crate) async fn watch_pressure(&self) {
        let mut look = tokio::time::interval(PRESSURE_PERIOD);
        let mut told = Pressure::probe(&self.data_dir);
        loop {
            look.tick().await;
            let pressure = Pressure::probe(&self.data_dir);
            if pressure != told {
                tracing::warn!(?pressure, "what the machine runs short of changed");
                told = pressure;
                let readiness = self
                    .readiness
                    .lock()
                    .expect("nothing panics while it is held")
                    .clone();
                self.report(&readiness);
            }
        }
    }

    fn set_readiness(&self, readiness: Readiness) {
        let mut held = self
            .readiness
            .lock()
            .expect("nothing panics while it is held");
        if *held == readiness {
            return;
        }
        tracing::info!(?readiness, "the node's readiness changed");
        *held = readiness.clone();
        drop(held);
        self.report(&readiness);
    }

    fn report(&self, readiness: &Readiness) {
        let now = jiff::Timestamp::now();
        let status = node::status(&self.config, &self.data_dir, readiness, now);
        let status_json = status.to_string().into();
        self.tell(|outbox| outbox.put_node_status(NodeStatus { status_json }));
    }
}

/// An object as the control plane sent it; one that cannot be read is as if it were not there.
fn read<T: DeserializeOwned>(kind: &str, json: &[u8]) -> Option<T> {
    serde_json::from_slice(json)
        .inspect_err(|error| tracing::error!(kind, %error, "an object cannot be read"))
        .ok()
}
