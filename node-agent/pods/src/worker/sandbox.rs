//! Making, adopting and removing what a pod's containers share.

use std::fs;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};

use super::{Desired, Worker};
use crate::cgroup::PodCgroups;
use crate::files::{remove_tree_if_any, write_atomically};
use crate::network_files::{hosts_file, resolv_conf};
use crate::runtime::PodState;
use crate::shim::protocol::{Sandbox, Tmpfs};
use crate::spec::Surroundings;
use crate::volumes::Volumes;

/// A hostname's label holds no more (RFC 1123 §2.1).
const HOSTNAME_BYTES_MAX: usize = 63;
/// Size of a pod's /dev/shm, as with other runtimes.
const SHM_BYTES: u64 = 64 * 1024 * 1024;
/// The longest wait between two tries to make a sandbox.
const RETRY_S_MAX: i64 = 30;
/// The pod's addresses, one a line, for an agent that comes back before its network does.
const ADDRESS_FILE: &str = "address";

impl Worker {
    /// Takes up what an earlier agent left running.
    pub(super) async fn adopt(&mut self) {
        self.rewatch().await;
        let state = self.state.borrow_and_update().clone();
        if !state.alive && state.containers.is_empty() {
            return;
        }
        if let Some(first) = state.containers.first() {
            self.start_time = self.start_time.min(first.record.created_at);
        }
        let recorded = fs::read_to_string(self.data_dir().join(ADDRESS_FILE)).unwrap_or_default();
        self.pod_ips = recorded
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect();
        let desired = self.desired.borrow().clone();
        if state.alive && !desired.leaving && !host_network(&desired) {
            // The dataplane may have been restarted with us, and must know the pod again.
            match self.shared.network.attach(&self.uid, &self.netns()).await {
                Ok(addresses) => self.pod_ips = addresses,
                Err(error) => {
                    tracing::warn!(pod = self.name, %error, "cannot confirm the pod's network");
                }
            }
        }
        self.published.send_replace(state);
    }

    /// Learns the pod's state anew; the containers of a dead shim are buried.
    pub(super) async fn rewatch(&mut self) {
        match self.shared.runtime.watch(&self.uid).await {
            Ok(state) => self.state = state,
            Err(error) => {
                tracing::warn!(pod = self.name, %error, "cannot learn the pod's state");
                let containers = self.state.borrow().containers.clone();
                let lost = PodState {
                    alive: false,
                    containers,
                };
                self.state = tokio::sync::watch::Sender::new(lost).subscribe();
            }
        }
    }

    /// Makes the sandbox, or says why not and when it is tried again.
    pub(super) async fn run_sandbox(&mut self, desired: &Desired) {
        match self.try_run_sandbox(desired).await {
            Ok(()) => {
                self.rewatch().await;
                let alive = self.state.borrow().alive;
                self.published
                    .send_modify(|published| published.alive = alive);
                if alive {
                    self.sandbox_failures = 0;
                    self.sandbox_retry_at = None;
                } else {
                    let message = "Failed to create pod sandbox: the shim ended at once";
                    self.sandbox_failed("FailedCreatePodSandBox", message.to_owned())
                        .await;
                }
            }
            Err((reason, message)) => self.sandbox_failed(reason, message).await,
        }
    }

    async fn sandbox_failed(&mut self, reason: &'static str, message: String) {
        tracing::warn!(pod = self.name, reason, message, "cannot start the pod");
        self.events.warning(reason, message).await;
        let delay_s = (1i64 << self.sandbox_failures.min(5)).min(RETRY_S_MAX);
        self.sandbox_failures = self.sandbox_failures.saturating_add(1);
        self.sandbox_retry_at = Some(Timestamp::now() + SignedDuration::from_secs(delay_s));
    }

    async fn try_run_sandbox(&mut self, desired: &Desired) -> Result<(), (&'static str, String)> {
        let failed = |error: &dyn std::fmt::Display| {
            (
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {error}"),
            )
        };
        let pod_dir = self.shared.config.pod_run_dir(&self.uid);
        for dir in [&pod_dir, &self.data_dir()] {
            fs::create_dir_all(dir).map_err(|error| failed(&error))?;
        }
        let netns = (!host_network(desired)).then(|| self.netns());
        self.pod_ips = match &netns {
            Some(netns) => self
                .shared
                .network
                .attach(&self.uid, netns)
                .await
                .map_err(|error| failed(&error))?,
            None => self.shared.config.node_ips.clone(),
        };
        let lines: Vec<_> = self.pod_ips.iter().map(ToString::to_string).collect();
        let file = self.data_dir().join(ADDRESS_FILE);
        write_atomically(&file, lines.join("\n").as_bytes()).map_err(|error| failed(&error))?;
        let surroundings = self.surroundings();
        let volumes = self.volumes(desired, &surroundings);
        volumes.prepare().map_err(|error| {
            (
                "FailedMount",
                format!("MountVolume.SetUp failed for {error}"),
            )
        })?;
        let mut tmpfs = volumes.memory_volumes();
        tmpfs.push(Tmpfs {
            path: self.data_dir().join("shm"),
            size_bytes: Some(SHM_BYTES),
        });
        let hostname = self.hostname(desired);
        let dns = self.shared.network.dns();
        let node_file = &self.shared.config.resolv_conf;
        let (resolv_conf, problems) =
            resolv_conf(&desired.pod, &surroundings, dns.as_ref(), node_file);
        for (reason, message) in problems {
            self.events.warning(reason, message).await;
        }
        let hosts = hosts_file(&desired.pod, &hostname, &surroundings, dns.as_ref());
        let files = [
            ("hosts", hosts),
            ("hostname", format!("{hostname}\n")),
            ("resolv.conf", resolv_conf),
        ];
        for (name, content) in files {
            fs::write(self.data_dir().join(name), content).map_err(|error| failed(&error))?;
        }
        let spec = desired.pod.spec.as_ref();
        let step_args = self.shared.config.shim_command.iter().skip(1);
        let sandbox = Sandbox {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            hostname,
            netns,
            host_ipc: spec.and_then(|spec| spec.host_ipc) == Some(true),
            tmpfs,
            cgroups: self.cgroups(),
            layers_dir: self.shared.layers_dir.clone(),
            step_args: step_args
                .map(|arg| arg.to_string_lossy().into_owned())
                .collect(),
        };
        self.shared
            .runtime
            .run_sandbox(&sandbox)
            .await
            .map_err(|error| failed(&error))
    }

    /// Lets go of the sandbox of a pod whose work is done; what is known of its exits stays.
    ///
    /// # Errors
    /// What would not go, and why; the caller tries again.
    pub(super) async fn stop_sandbox(&mut self) -> Result<(), String> {
        let stopped = self.shared.runtime.stop_sandbox(&self.uid).await;
        stopped.map_err(|error| fairlead_api::error_chain(&error))?;
        self.rewatch().await;
        let state = self.state.borrow().clone();
        self.published.send_replace(state);
        self.detach_network().await
    }

    /// Removes everything of the pod.
    ///
    /// # Errors
    /// What would not go, and why; the caller tries again.
    pub(super) async fn tear_down(&mut self) -> Result<(), String> {
        let stopped = self.shared.runtime.stop_sandbox(&self.uid).await;
        stopped.map_err(|error| fairlead_api::error_chain(&error))?;
        self.detach_network().await?;
        let removed = self.shared.runtime.remove_sandbox(&self.uid).await;
        removed.map_err(|error| fairlead_api::error_chain(&error))?;
        let config = &self.shared.config;
        let logs = config.pod_log_dir(&self.namespace, &self.name, &self.uid);
        for dir in [self.data_dir(), logs] {
            remove_tree_if_any(&dir)
                .map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
        }
        Ok(())
    }

    async fn detach_network(&self) -> Result<(), String> {
        // Also for a pod of the node's own network: it never had one, and that is no error.
        let detached = self.shared.network.detach(&self.uid, &self.netns()).await;
        detached.map_err(|error| format!("cannot detach the network: {error}"))
    }

    pub(super) fn volumes<'a>(
        &self,
        desired: &'a Desired,
        surroundings: &'a Surroundings,
    ) -> Volumes<'a> {
        Volumes {
            pod: &desired.pod,
            objects: &desired.objects,
            surroundings,
            dir: self.data_dir(),
        }
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.shared.config.pod_data_dir(&self.uid)
    }

    pub(super) fn netns(&self) -> PathBuf {
        self.shared.config.pod_run_dir(&self.uid).join("netns")
    }

    pub(super) fn cgroups(&self) -> PodCgroups {
        let config = &self.shared.config;
        PodCgroups::of_pod(
            &self.shared.cgroups,
            &config.cgroup_prefix,
            &config.cgroup_v2,
            &self.uid,
        )
    }

    /// The pod's host name; a pod in the node's network goes by the node's.
    pub(super) fn hostname(&self, desired: &Desired) -> String {
        let spec = desired.pod.spec.as_ref();
        let name = if host_network(desired) {
            self.shared.config.node_name.as_str()
        } else {
            spec.and_then(|spec| spec.hostname.as_deref())
                .unwrap_or(&self.name)
        };
        let cut: String = name.chars().take(HOSTNAME_BYTES_MAX).collect();
        cut.trim_end_matches(['-', '.']).to_owned()
    }
}

pub(super) fn host_network(desired: &Desired) -> bool {
    desired.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}
