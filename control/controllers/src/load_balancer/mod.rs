//! Addresses for load balancer Services, from the cluster's pools.

mod demand;
mod plan;

use fairlead_api::Index;
use fairlead_objects::{About, Cache, Change, Changed, EventType, Object, ObjectName, WriteError};
use fairlead_store::{CommitError, Expect, Key, Op, Transaction};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service, ServiceStatus},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use tracing::{info, warn};

use self::{
    demand::{CONDITION, Lack, is_concerned},
    plan::{Action, Allocation, plan},
};
use crate::controller::{Context, Controller, Outcome, everything};

const PREFIX: &str = "/registry/ranges/vips/";

/// The controller of load balancer addresses. It looks at all Services at once: a freed address is
/// for the one that waited longest.
pub(crate) struct LoadBalancerController;

impl Controller for LoadBalancerController {
    const NAME: &'static str = "load-balancer";
    const WORKERS: usize = 1;

    fn affected(&self, change: &Change, _: &Cache) -> Vec<ObjectName> {
        match &change.changed {
            Changed::Service(delta) if delta.sides().any(|service| is_concerned(service)) => {
                everything()
            }
            _ => Vec::new(),
        }
    }

    async fn reconcile(&self, context: &Context, _: &ObjectName) -> Result<Outcome, WriteError> {
        let cache = context.cache();
        let snapshot = context.writer.store().snapshot();
        let held = snapshot
            .range(PREFIX, None)
            .filter_map(|entry| {
                let address = entry.key.name().parse().ok()?;
                let allocation = serde_json::from_slice(&entry.value).ok()?;
                Some((address, allocation))
            })
            .collect();
        let services: Vec<&Service> = cache.services.iter().map(|service| &**service).collect();
        let mut outcome = Outcome::default();
        for action in plan(&services, &held, &context.config.vip_pools) {
            apply(context, &cache, action, &mut outcome).await?;
        }
        Ok(outcome)
    }
}

async fn apply(
    context: &Context,
    cache: &Cache,
    action: Action,
    outcome: &mut Outcome,
) -> Result<(), WriteError> {
    let writer = &context.writer;
    let recorder = context
        .recorder
        .speaking_as("load-balancer-controller", None);
    match action {
        Action::Assign {
            service: name,
            addresses,
            taken,
            lack,
        } => {
            let Some(service) = cache.services.get(&name) else {
                return Ok(());
            };
            let holder = Allocation {
                namespace: name.namespace.clone(),
                name: name.name.clone(),
                uid: service.uid().to_owned(),
            };
            let with = taken.iter().map(|address| Op::Put {
                key: Key::raw(format!("{PREFIX}{address}")),
                expect: Expect::Absent,
                value: holder.encode(),
                index: Index::default().into(),
            });
            let ingress: Vec<_> = addresses
                .iter()
                .map(|address| LoadBalancerIngress {
                    ip: Some(address.to_string()),
                    ip_mode: Some("VIP".to_owned()),
                    ..LoadBalancerIngress::default()
                })
                .collect();
            let written = writer
                .update_with::<Service>(&name, Some(service.uid()), with.collect(), |service| {
                    let generation = service.metadata.generation;
                    let status = service.status.get_or_insert_default();
                    status.load_balancer = Some(LoadBalancerStatus {
                        ingress: Some(ingress.clone()),
                    });
                    tell(status, lack.as_ref(), generation);
                })
                .await?;
            info!(service = %name, ?addresses, ?lack, "load balancer addresses assigned");
            outcome.wrote(written);
            let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let message = format!("Assigned {}", texts.join(", "));
            recorder
                .record(
                    &About::object(&**service),
                    EventType::Normal,
                    "AddressAssigned",
                    message,
                )
                .await;
        }
        Action::Refuse {
            service: name,
            lack,
        } => {
            let Some(service) = cache.services.get(&name) else {
                return Ok(());
            };
            let Lack { reason, message } = &lack;
            warn!(service = %name, reason, message, "no load balancer address");
            let written = writer
                .update::<Service>(&name, Some(service.uid()), |service| {
                    let generation = service.metadata.generation;
                    let status = service.status.get_or_insert_default();
                    status.load_balancer = Some(LoadBalancerStatus::default());
                    tell(status, Some(&lack), generation);
                })
                .await?;
            outcome.wrote(written);
            recorder
                .record(
                    &About::object(&**service),
                    EventType::Warning,
                    "AllocationFailed",
                    message.clone(),
                )
                .await;
        }
        Action::Clear { service } => {
            let clear = |service: &mut Service| {
                if let Some(status) = &mut service.status {
                    status.load_balancer = Some(LoadBalancerStatus::default());
                }
            };
            outcome.wrote(writer.update::<Service>(&service, None, clear).await?);
        }
        Action::Release { address } => {
            let key = Key::raw(format!("{PREFIX}{address}"));
            let op = Op::Delete {
                key: key.clone(),
                expect: Expect::Any,
            };
            let transaction = Transaction {
                checks: Vec::new(),
                ops: vec![op],
            };
            match writer.store().commit(transaction).await {
                Ok(committed) => outcome.wrote(Some(committed.revision)),
                Err(source @ (CommitError::Unavailable(_) | CommitError::Conflict { .. })) => {
                    return Err(WriteError::Store { key, source });
                }
            }
            info!(%address, "load balancer address released");
        }
    }
    Ok(())
}

/// Says in a status what the Service lacks, or that it lacks nothing.
fn tell(status: &mut ServiceStatus, lack: Option<&Lack>, generation: Option<i64>) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != CONDITION);
    }
    if let Some(Lack { reason, message }) = lack {
        status.conditions.get_or_insert_default().push(Condition {
            type_: CONDITION.to_owned(),
            status: "False".to_owned(),
            reason: (*reason).to_owned(),
            message: message.clone(),
            last_transition_time: Time(Timestamp::now()),
            observed_generation: generation,
        });
    }
}
