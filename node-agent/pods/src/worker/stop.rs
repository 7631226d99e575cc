//! Stopping a container, its hooks, and its last words.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Pod, Probe};
use tokio::time::Instant;

use super::{Desired, Worker};
use crate::logs;
use crate::pod::{StopReason, roles};
use crate::probes::{self, Target};
use crate::runtime::Runtime;
use crate::shim::protocol::{ContainerState, Phase};

/// More of a termination message is cut off, as upstream.
const TERMINATION_MESSAGE_BYTES_MAX: u64 = 4096;
/// Least time that is left for TERM after a hook.
const AFTER_HOOK_MIN: Duration = Duration::from_secs(2);
/// A postStart hook may not take for ever.
const POST_START_MAX: Duration = Duration::from_secs(300);
/// How often a shim is asked to stop a container after a hook, and the pause between.
const STOP_TRIES: u32 = 30;
const STOP_RETRY: Duration = Duration::from_secs(1);

impl Worker {
    /// Asks a container to stop; a preStop hook uses up part of the grace.
    pub(super) async fn stop(
        &mut self,
        desired: &Desired,
        name: &str,
        id: &str,
        grace_s: i64,
        reason: &StopReason,
    ) {
        let message = match reason {
            StopReason::Leaving | StopReason::Done => format!("Stopping container {name}"),
            StopReason::Probe(kind) => format!(
                "Container {name} failed {} probe, will be restarted",
                kind.name().to_lowercase()
            ),
        };
        self.events.normal("Killing", message).await;
        self.stopping.insert(id.to_owned());
        let grace = Duration::from_secs(u64::try_from(grace_s).unwrap_or(0));
        let hook = roles(&desired.pod)
            .find(|(_, container)| container.name == name)
            .and_then(|(_, container)| container.lifecycle.as_ref()?.pre_stop.clone());
        let target = self.target(desired, id);
        let (Some(hook), Some(target)) = (hook, target) else {
            self.stop_now(id, grace).await;
            return;
        };
        let runtime = Arc::clone(&self.shared.runtime);
        let reports = self.events.reporter();
        // Not in the worker's own task: other containers must not wait for the hook.
        tokio::spawn(async move {
            let begun = Instant::now();
            if let Err(error) = run_hook(&hook, &target, &*runtime, grace).await {
                reports
                    .warning("FailedPreStopHook", format!("PreStopHook failed: {error}"))
                    .await;
            }
            let left = grace.saturating_sub(begun.elapsed()).max(AFTER_HOOK_MIN);
            stop_surely(&*runtime, &target, left).await;
        });
    }

    async fn stop_now(&mut self, id: &str, grace: Duration) {
        let grace_ms = grace.as_millis() as u64;
        if let Err(error) = self
            .shared
            .runtime
            .stop_container(&self.uid, id, grace_ms)
            .await
        {
            // The next look tries again.
            self.stopping.remove(id);
            tracing::warn!(pod = self.name, container = id, %error, "cannot stop a container");
        }
    }

    /// Runs a container's postStart hook; its failure ends the container.
    pub(super) fn post_start(&self, desired: &Desired, container: &ContainerState) {
        let name = &container.record.name;
        let hook = roles(&desired.pod)
            .find(|(_, entry)| entry.name == *name)
            .and_then(|(_, entry)| entry.lifecycle.as_ref()?.post_start.clone());
        let (Some(hook), Some(target)) = (hook, self.target(desired, &container.record.id)) else {
            return;
        };
        let runtime = Arc::clone(&self.shared.runtime);
        let reports = self.events.reporter();
        tokio::spawn(async move {
            let Err(error) = run_hook(&hook, &target, &*runtime, POST_START_MAX).await else {
                return;
            };
            let message = format!("PostStartHook failed: {error}");
            reports.warning("FailedPostStartHook", message).await;
            stop_surely(&*runtime, &target, AFTER_HOOK_MIN).await;
        });
    }

    /// A running container, as probes and hooks see it.
    fn target(&self, desired: &Desired, id: &str) -> Option<Target> {
        let state = self.state.borrow();
        let container = state
            .containers
            .iter()
            .find(|entry| entry.record.id == id)?;
        let Phase::Running { started_at, .. } = container.phase else {
            return None;
        };
        let (_, spec) = roles(&desired.pod).find(|(_, spec)| spec.name == container.record.name)?;
        Some(Target {
            uid: self.uid.clone(),
            id: id.to_owned(),
            container: spec.clone(),
            address: *self.pod_ips.first()?,
            started_at,
        })
    }
}

/// Asks until the shim has heard: the worker counts the container as stopping and asks no more.
/// A shim that stays away is found dead by the worker, which then ends its containers.
async fn stop_surely(runtime: &dyn Runtime, target: &Target, grace: Duration) {
    let grace_ms = grace.as_millis() as u64;
    for _ in 0..STOP_TRIES {
        let asked = runtime.stop_container(&target.uid, &target.id, grace_ms);
        match asked.await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(container = target.id, %error, "cannot stop a container");
            }
        }
        tokio::time::sleep(STOP_RETRY).await;
    }
}

async fn run_hook(
    hook: &LifecycleHandler,
    target: &Target,
    runtime: &dyn Runtime,
    max: Duration,
) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(wanted.min(max)).await;
        return Ok(());
    }
    // A hook asks as a probe does, once.
    let question = Probe {
        exec: hook.exec.clone(),
        http_get: hook.http_get.clone(),
        tcp_socket: hook.tcp_socket.clone(),
        ..Probe::default()
    };
    tokio::time::timeout(max, probes::ask(&question, target, runtime, max))
        .await
        .unwrap_or_else(|_| Err(format!("not done within {}s", max.as_secs())))
}

/// What a container left as its last words.
pub(super) fn termination_message(pod: &Pod, state: &ContainerState) -> Option<String> {
    let Phase::Exited(exit) = &state.phase else {
        return None;
    };
    let mut message = String::new();
    if let Ok(file) = File::open(&state.record.termination_message) {
        let mut bytes = Vec::new();
        let _ = file
            .take(TERMINATION_MESSAGE_BYTES_MAX)
            .read_to_end(&mut bytes);
        message = String::from_utf8_lossy(&bytes).into_owned();
    }
    let falls_back = roles(pod).any(|(_, container)| {
        container.name == state.record.name
            && container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
    });
    if message.is_empty() && falls_back && exit.code != 0 {
        return logs::last_words(&state.record.log_path).filter(|words| !words.is_empty());
    }
    Some(message).filter(|message| !message.is_empty())
}
