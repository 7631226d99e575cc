//! All pods of a node: a worker for each that is assigned or still here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use crate::Config;
use crate::cgroup::Mounts;
use crate::files::remove_tree_if_any;
use crate::image::{ImageStore, LAYERS_DIR};
use crate::logs::{self, LogRequest};
use crate::machine::Machine;
use crate::objects::Objects;
use crate::report::{PodNetwork, Report};
use crate::runtime::{EmbeddedRuntime, PodState, Runtime, RuntimeError};
use crate::shim::protocol::{Phase, Sandbox};
use crate::worker::{Desired, Shared, Worker};

/// Why the node's pods could not be taken up or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory of the configuration cannot be used.
    #[error("cannot prepare {}", path.display())]
    Directory {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine's cgroup hierarchies cannot be found.
    #[error("cannot find the cgroup hierarchies")]
    Cgroups(#[source] io::Error),
    /// Pods that an earlier agent left cannot be listed, stopped or removed.
    #[error("cannot take care of the pods already here")]
    Runtime(#[from] RuntimeError),
    /// A pod's network cannot be removed.
    #[error("cannot detach pod {uid} from the network")]
    Network {
        /// The pod.
        uid: String,
        /// Why.
        source: crate::NetworkError,
    },
}

/// The pods of a node. Dropping it leaves them running: a later [`Pods::start`] adopts them.
pub struct Pods {
    shared: Arc<Shared>,
    roster: Mutex<Roster>,
    image_watch: JoinHandle<()>,
}

#[derive(Default)]
struct Roster {
    workers: BTreeMap<String, Entry>,
    /// Found running at the start and not heard of since.
    left_behind: BTreeMap<String, Sandbox>,
    /// Gone, but still assigned: their going is reported until the control plane has heard.
    gone: BTreeSet<String>,
    /// As they were assigned last.
    objects: Arc<Objects>,
}

struct Entry {
    desired: watch::Sender<Desired>,
    state: watch::Receiver<PodState>,
    task: JoinHandle<()>,
}

impl Pods {
    /// Takes up the node's pods, adopting those that run. Nothing is stopped before the first
    /// [`Pods::assign`].
    ///
    /// # Errors
    /// When a directory cannot be made or the pods already here cannot be listed.
    pub async fn start(
        config: Config,
        network: Arc<dyn PodNetwork>,
        reports: mpsc::Sender<Report>,
    ) -> Result<Self, Error> {
        let config = Arc::new(config);
        for path in [
            &config.data_dir,
            &config.run_dir,
            &config.log_dir,
            &config.cgroup_v2,
        ] {
            fs::create_dir_all(path).map_err(|source| Error::Directory {
                path: path.clone(),
                source,
            })?;
        }
        // Specs of containers hold what Secrets gave their environments.
        for path in [config.run_dir.join("pods"), config.data_dir.join("pods")] {
            create_private(&path).map_err(|source| Error::Directory { path, source })?;
        }
        let images = open_images(&config)?;
        let runtime: Arc<dyn Runtime> = Arc::new(EmbeddedRuntime::new(
            Arc::clone(&config),
            Arc::clone(&images),
        ));
        let sandboxes = runtime.sandboxes().await?;
        let left_behind = sandboxes
            .into_iter()
            .map(|sandbox| (sandbox.uid.clone(), sandbox))
            .collect();
        let shared = Arc::new(Shared {
            cgroups: Mounts::discover().map_err(Error::Cgroups)?,
            machine: Machine::probe(),
            layers_dir: images.layers_dir(),
            config,
            runtime,
            network,
            reports,
        });
        let image_watch = tokio::spawn(async move { images.watch_archives().await });
        let roster = Mutex::new(Roster {
            left_behind,
            ..Roster::default()
        });
        Ok(Self {
            shared,
            roster,
            image_watch,
        })
    }

    /// Says which pods the node has: all of them, each time, with all objects they refer to. Pods
    /// that are here and not named are stopped and removed.
    pub async fn assign(&self, pods: Vec<Pod>, objects: Objects) {
        let mut roster = self.roster.lock().await;
        // Most states differ in Services only: pods whose part is the same are not woken.
        if *roster.objects != objects {
            roster.objects = Arc::new(objects);
        }
        let objects = Arc::clone(&roster.objects);
        let mut named = BTreeSet::new();
        for pod in pods {
            let Some(uid) = pod.metadata.uid.clone() else {
                continue;
            };
            named.insert(uid.clone());
            let leaving = pod.metadata.deletion_timestamp.is_some();
            let desired = Desired {
                pod: Arc::new(pod),
                leaving,
                objects: Arc::clone(&objects),
            };
            roster.left_behind.remove(&uid);
            self.settle(&mut roster, uid, desired).await;
        }
        // What an earlier agent left and nobody wants: known by no more than its sandbox.
        for (uid, sandbox) in std::mem::take(&mut roster.left_behind) {
            let pod = Arc::new(pod_of(&sandbox));
            let desired = Desired {
                pod,
                leaving: true,
                objects: Arc::clone(&objects),
            };
            self.settle(&mut roster, uid, desired).await;
        }
        for (uid, entry) in &roster.workers {
            if !named.contains(uid) {
                entry
                    .desired
                    .send_if_modified(|desired| !std::mem::replace(&mut desired.leaving, true));
            }
        }
        roster.gone.retain(|uid| named.contains(uid));
        roster
            .workers
            .retain(|uid, entry| named.contains(uid) || !entry.task.is_finished());
    }

    /// Hands what is wanted to the pod's worker, or starts one.
    async fn settle(&self, roster: &mut Roster, uid: String, desired: Desired) {
        if let Some(entry) = roster.workers.get(&uid) {
            if !entry.task.is_finished() {
                // A pod that is leaving cannot come back.
                entry.desired.send_if_modified(|present| {
                    let leaving = present.leaving || desired.leaving;
                    let next = Desired { leaving, ..desired };
                    let differs = next != *present;
                    *present = next;
                    differs
                });
                return;
            }
            roster.workers.remove(&uid);
            roster.gone.insert(uid.clone());
        }
        if roster.gone.contains(&uid) {
            report_gone(&self.shared.reports, &desired.pod).await;
            return;
        }
        let pod = Arc::clone(&desired.pod);
        let (desired_sender, desired_receiver) = watch::channel(desired);
        let (state_sender, state) = watch::channel(PodState::default());
        let shared = Arc::clone(&self.shared);
        let task = tokio::spawn(async move {
            let reports = shared.reports.clone();
            if Worker::run(shared, desired_receiver, state_sender).await {
                report_gone(&reports, &pod).await;
            }
        });
        roster.workers.insert(
            uid,
            Entry {
                desired: desired_sender,
                state,
                task,
            },
        );
    }

    /// A container's log, in chunks; the channel closes at its end.
    ///
    /// # Errors
    /// A sentence for the user when the pod, the container or its log is not here.
    pub async fn logs(
        &self,
        request: LogRequest,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, String> {
        let roster = self.roster.lock().await;
        let entry = roster
            .workers
            .get(&request.uid)
            .ok_or_else(|| format!("pod {:?} is not on this node", request.pod))?;
        let pod = Arc::clone(&entry.desired.borrow().pod);
        let names: Vec<String> = crate::pod::roles(&pod)
            .map(|(_, container)| container.name.clone())
            .collect();
        let container = match &request.container {
            Some(name) if names.contains(name) => name.clone(),
            Some(name) => {
                return Err(format!(
                    "container {name} is not valid for pod {}",
                    request.pod
                ));
            }
            None => match names.as_slice() {
                [only] => only.clone(),
                _ => {
                    return Err(format!(
                        "a container name must be specified for pod {}, choose one of: {names:?}",
                        request.pod
                    ));
                }
            },
        };
        let dir = self
            .shared
            .config
            .pod_log_dir(&request.namespace, &request.pod, &request.uid);
        let path = logs::find(&dir, &container, request.previous)?;
        let state = entry.state.clone();
        drop(roster);
        let log_path = path.clone();
        let runs = move || {
            state.borrow().containers.iter().any(|container| {
                container.record.log_path == log_path
                    && !matches!(container.phase, Phase::Exited(_))
            })
        };
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(logs::send(path, request, runs, sender));
        Ok(receiver)
    }

    /// Stops every pod of the node and removes what is left of it: containers, networks, mounts,
    /// cgroups, logs. No [`Pods`] of this configuration may be alive. Images stay.
    ///
    /// # Errors
    /// At the first thing that cannot be removed; calling it again goes on from there.
    pub async fn destroy(config: &Config, network: &dyn PodNetwork) -> Result<(), Error> {
        let config = Arc::new(config.clone());
        let runtime = EmbeddedRuntime::new(Arc::clone(&config), open_images(&config)?);
        let mut uids = BTreeSet::new();
        for dir in [config.run_dir.join("pods"), config.data_dir.join("pods")] {
            let fail = |source| Error::Directory {
                path: dir.clone(),
                source,
            };
            match fs::read_dir(&dir) {
                Ok(entries) => {
                    for entry in entries {
                        let name = entry.map_err(fail)?.file_name();
                        uids.insert(name.to_string_lossy().into_owned());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(fail(error)),
            }
        }
        for uid in uids {
            runtime.stop_sandbox(&uid).await?;
            let netns = config.pod_run_dir(&uid).join("netns");
            network
                .detach(&uid, &netns)
                .await
                .map_err(|source| Error::Network {
                    uid: uid.clone(),
                    source,
                })?;
            runtime.remove_sandbox(&uid).await?;
            let path = config.pod_data_dir(&uid);
            remove_tree_if_any(&path).map_err(|source| Error::Directory { path, source })?;
        }
        let path = config.log_dir.clone();
        remove_tree_if_any(&path).map_err(|source| Error::Directory { path, source })?;
        Mounts::discover()
            .and_then(|mounts| mounts.remove_node(&config.cgroup_prefix, &config.cgroup_v2))
            .map_err(Error::Cgroups)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.image_watch.abort();
        for entry in self.roster.get_mut().workers.values() {
            entry.task.abort();
        }
    }
}

/// Makes a directory that only root enters, or makes it so.
fn create_private(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn open_images(config: &Config) -> Result<Arc<ImageStore>, Error> {
    let dir = config.data_dir.join("store");
    let archives = config.data_dir.join("images");
    let step = config.shim_command.clone();
    ImageStore::open(archives, dir.clone(), step)
        .map(Arc::new)
        .map_err(|source| Error::Directory {
            path: dir.join(LAYERS_DIR),
            source,
        })
}

/// As much of a pod as its sandbox tells.
fn pod_of(sandbox: &Sandbox) -> Pod {
    Pod {
        metadata: ObjectMeta {
            namespace: Some(sandbox.namespace.clone()),
            name: Some(sandbox.name.clone()),
            uid: Some(sandbox.uid.clone()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}

async fn report_gone(reports: &mpsc::Sender<Report>, pod: &Pod) {
    let metadata = &pod.metadata;
    let report = Report::Gone {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
    };
    // The receiver is gone only when the agent ends; the next one reports it again.
    let _ = reports.send(report).await;
}
