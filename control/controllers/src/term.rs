//! One term of leadership: everything that runs between gaining the lead and losing it.

use std::{sync::Arc, time::Duration};

use fairlead_objects::{Informer, Recorder, Writer};
use fairlead_store::Store;
use tokio::task::JoinSet;
use tracing::{error, warn};

use crate::{
    Config, bootstrap,
    controller::{Context, Route, start},
    deployment::DeploymentController,
    endpoints::{EndpointsController, NodeDnsController},
    event_expiry,
    garbage::GarbageCollector,
    load_balancer::LoadBalancerController,
    namespace::NamespaceController,
    node_lifecycle::NodeLifecycle,
    pod_cidr::PodCidrController,
    pod_garbage::PodGarbageCollector,
    replica_set::ReplicaSetController,
    scheduler::Scheduler,
};

/// Runs until it is dropped; its tasks end with it.
pub(crate) async fn run(store: Store, config: Config) {
    // What the last leader had acknowledged must be in the snapshot the first list is taken from.
    while let Err(cause) = store.linearizable().await {
        warn!(
            error = &cause as &dyn std::error::Error,
            "the lead is not confirmed yet"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let writer = Writer::new(store.clone());
    let context = Context {
        config: Arc::new(config),
        informer: Informer::new(store),
        recorder: Recorder::new(writer.clone(), "fairlead-control"),
        writer,
    };
    let mut tasks = JoinSet::new();
    let mut routes: Vec<Route> = vec![
        start(DeploymentController, &context, &mut tasks),
        start(ReplicaSetController, &context, &mut tasks),
        start(EndpointsController, &context, &mut tasks),
        start(NodeDnsController, &context, &mut tasks),
        start(LoadBalancerController, &context, &mut tasks),
        start(NamespaceController, &context, &mut tasks),
        start(NodeLifecycle::default(), &context, &mut tasks),
        start(PodCidrController, &context, &mut tasks),
        start(GarbageCollector::default(), &context, &mut tasks),
        start(PodGarbageCollector::default(), &context, &mut tasks),
    ];
    routes.push(Scheduler::start(&context, &mut tasks));
    tasks.spawn(bootstrap::run(context.clone()));
    tasks.spawn(event_expiry::run(context.clone()));

    let informer = context.informer.clone();
    let watching = context.informer.run(|change| {
        let cache = informer.cache();
        for route in &routes {
            route(change, &cache);
        }
    });
    tokio::select! {
        () = watching => {}
        Some(ended) = tasks.join_next() => {
            error!(?ended, "a controller ended; all start again");
        }
    }
}
