//! `fairlead-agent run`: the rooms, wired.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::Context;
use fairlead_dataplane::Dataplane;
use fairlead_dns::Keeper;
use fairlead_pods::{Pods, Report};
use fairlead_proto::node::{Event, PodGone, PodStatus};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
};

use crate::{
    config::Layout,
    health,
    health_port::{self, Tell},
    network::DataplaneNetwork,
    node::{self, Readiness},
    outbox::Outbox,
    session::Session,
    socket,
    work::Node,
};

/// Updates that wait while others are applied; they are taken all at once, so one more than this
/// waits in the session.
const UPDATES_MAX: usize = 64;

pub(crate) async fn run(data_dir: &Path) -> anyhow::Result<()> {
    let layout = Layout::new(data_dir);
    let config = layout.load_config()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let dataplane = Arc::new(
        Dataplane::open(config.dataplane(&layout))
            .await
            .context("cannot open the dataplane")?,
    );
    let dns = Arc::new(Keeper::start(
        // The link follows the running binary even when an upgrade has replaced the file.
        "/proc/self/exe".into(),
        config.dns(&layout),
    ));
    let (reports, reported) = mpsc::channel(256);
    let network = Arc::new(DataplaneNetwork {
        dataplane: Arc::clone(&dataplane),
        dns: Arc::clone(&dns),
    });
    let pods = Pods::start(config.pods(&layout), network, reports)
        .await
        .context("cannot adopt the pods")?;
    let listener = socket::bind(&layout.socket()).context("cannot bind the agent's socket")?;
    let node = Arc::new(Node {
        data_dir: data_dir.to_owned(),
        dataplane: Arc::clone(&dataplane),
        dns,
        pods: Arc::new(pods),
        outbox: Mutex::new(Outbox::default()),
        told: Notify::new(),
        readiness: Mutex::new(Readiness::of_adopted(dataplane.generation())),
        config,
    });
    node.tell(|outbox| outbox.put_event(node::starting(&node.config)));
    let (updates, received) = mpsc::channel(UPDATES_MAX);
    let session = Session::new(Arc::clone(&node), layout.clone(), updates)?;
    let teller = Arc::clone(&node);
    let tell: Tell = Arc::new(move |event| teller.tell(|outbox| outbox.put_event(event)));
    let tell_health = Arc::clone(&tell);
    let record = layout.state().join("unhealthy");
    let servers = health::follow(Arc::clone(&dataplane), record, move |event| {
        tell_health(event)
    });
    let ports = health_port::follow(
        Arc::clone(&dataplane),
        node.config.addresses().collect(),
        tell,
    );
    tracing::info!(node = %node.config.node_name, "running");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = session.run() => {}
        () = node.work(received) => {}
        () = node.watch_pressure() => {}
        () = forward(&node, reported) => {}
        () = servers => {}
        () = ports => {}
        () = socket::serve(listener, node.views()) => {}
    }
    tracing::info!("stopped; pods and traffic go on");
    Ok(())
}

/// Puts what the pods report into the outbox.
async fn forward(node: &Node, mut reported: mpsc::Receiver<Report>) {
    while let Some(report) = reported.recv().await {
        match report {
            Report::Status {
                namespace,
                name,
                uid,
                status,
            } => match serde_json::to_vec(&status) {
                Ok(json) => {
                    let status_json = json.into();
                    let status = PodStatus {
                        namespace,
                        name,
                        uid,
                        status_json,
                    };
                    node.tell(|outbox| outbox.put_status(status));
                }
                Err(error) => tracing::error!(namespace, name, %error, "a status is no JSON"),
            },
            Report::Gone {
                namespace,
                name,
                uid,
            } => {
                node.tell(|outbox| {
                    outbox.put_gone(PodGone {
                        namespace,
                        name,
                        uid,
                    })
                });
            }
            Report::Event(event) => {
                let event = Event {
                    kind: "Pod".to_owned(),
                    namespace: event.namespace,
                    name: event.name,
                    uid: event.uid,
                    r#type: event.event_type.to_owned(),
                    reason: event.reason.to_owned(),
                    message: event.message,
                };
                node.tell(|outbox| outbox.put_event(event));
            }
        }
    }
}
