//! Events about a pod, in a kubelet's words.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::probes::OnFailure;
use crate::report::{Event, Report};

/// Where a pod's Events go, and which need not be told again.
pub(super) struct Events {
    reporter: Reporter,
    /// Runs whose back-off has been told.
    backed_off: BTreeSet<String>,
}

/// Where a pod's Events go.
#[derive(Clone)]
pub(super) struct Reporter {
    reports: mpsc::Sender<Report>,
    namespace: String,
    name: String,
    uid: String,
}

impl Events {
    pub(super) fn new(
        reports: mpsc::Sender<Report>,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Self {
        let reporter = Reporter {
            reports,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        };
        Self {
            reporter,
            backed_off: BTreeSet::new(),
        }
    }

    /// For tasks of their own.
    pub(super) fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    pub(super) async fn normal(&self, reason: &'static str, message: impl Into<String>) {
        self.reporter.send("Normal", reason, message.into()).await;
    }

    pub(super) async fn warning(&self, reason: &'static str, message: impl Into<String>) {
        self.reporter.warning(reason, message).await;
    }

    /// Tells of containers that wait before they are restarted, once for each run.
    pub(super) async fn backing_off(&mut self, waiting: &[(String, String)]) {
        for (container, id) in waiting {
            if self.backed_off.insert(id.clone()) {
                let message = format!(
                    "Back-off restarting failed container {container} in pod {}_{}({})",
                    self.reporter.name, self.reporter.namespace, self.reporter.uid
                );
                self.warning("BackOff", message).await;
            }
        }
        self.backed_off
            .retain(|id| waiting.iter().any(|(_, waiting)| waiting == id));
    }

    /// Tells of failed probes. Drops what the agent cannot take at once: the next probe fails
    /// with the same words.
    pub(super) fn on_probe_failure(&self) -> OnFailure {
        let reporter = self.reporter();
        Arc::new(move |kind, message| {
            let message = format!("{} probe failed: {message}", kind.name());
            let event = reporter.event("Warning", "Unhealthy", message);
            let _ = reporter.reports.try_send(Report::Event(event));
        })
    }
}

impl Reporter {
    pub(super) async fn warning(&self, reason: &'static str, message: impl Into<String>) {
        self.send("Warning", reason, message.into()).await;
    }

    async fn send(&self, event_type: &'static str, reason: &'static str, message: String) {
        let event = self.event(event_type, reason, message);
        // The receiver is gone only when the agent ends.
        let _ = self.reports.send(Report::Event(event)).await;
    }
    fn event(&self, event_type: &'static str, reason: &'static str, message: String) -> Event {
        Event {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            event_type,
            reason,
            message,
        }
    }
}
