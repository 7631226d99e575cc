//! Starting a container: its image, its spec, its record.

use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;
use sha2::{Digest, Sha256};

use super::sandbox::host_network;
use super::{Desired, Worker};
use crate::image::{Image, Missing, hex};
use crate::pod::{Wait, next_backoff_s, roles};
use crate::shim::protocol::ContainerRecord;
use crate::spec::{self, BindMount, Ingredients};

/// How long the shim may take to show a container it has been told to start.
const SHOWN_WAIT_MAX: Duration = Duration::from_secs(5);
/// Where a container leaves its last words, unless it says otherwise.
const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

/// Why a container cannot be started now.
struct Obstacle {
    reason: &'static str,
    message: String,
}

impl Worker {
    /// Starts the next run of a container, or notes why not and when it is tried again.
    pub(super) async fn start(
        &mut self,
        desired: &Desired,
        name: &str,
        attempt: u32,
        backoff_s: u32,
    ) {
        let Some(container) = roles(&desired.pod)
            .map(|(_, container)| container)
            .find(|entry| entry.name == name)
        else {
            return;
        };
        match self.try_start(desired, container, attempt, backoff_s).await {
            Ok(()) => {
                self.waits.remove(name);
            }
            Err(obstacle) => self.wait(name, obstacle).await,
        }
    }

    async fn wait(&mut self, name: &str, obstacle: Obstacle) {
        let now = Timestamp::now();
        let before = self
            .waits
            .get(name)
            .filter(|wait| wait.reason == obstacle.reason);
        let delay_s = next_backoff_s(before.map_or(0, |wait| wait.delay_s));
        let failed_at = before.map_or(now, |wait| wait.failed_at);
        let news = before.is_none_or(|wait| wait.message != obstacle.message);
        if news {
            self.events
                .warning("Failed", format!("Error: {}", obstacle.message))
                .await;
        }
        if obstacle.reason == "ErrImagePull" {
            let image = roles(&self.desired.borrow().pod)
                .find(|(_, container)| container.name == name)
                .and_then(|(_, container)| container.image.clone())
                .unwrap_or_default();
            let message = format!("Back-off pulling image {image:?}");
            self.events.normal("BackOff", message).await;
        }
        let wait = Wait {
            reason: obstacle.reason,
            message: obstacle.message,
            failed_at,
            retry_at: now + SignedDuration::from_secs(delay_s.into()),
            delay_s,
        };
        self.waits.insert(name.to_owned(), wait);
    }

    async fn try_start(
        &mut self,
        desired: &Desired,
        container: &Container,
        attempt: u32,
        backoff_s: u32,
    ) -> Result<(), Obstacle> {
        let image = self.find_image(container).await?;
        let id = hex(&Sha256::digest(format!(
            "{}/{}/{attempt}",
            self.uid, container.name
        )));
        let data_dir = self.data_dir();
        let run = format!("{}-{attempt}", container.name);
        let log_dir = self
            .shared
            .config
            .pod_log_dir(&self.namespace, &self.name, &self.uid);
        let record = ContainerRecord {
            id: id.clone(),
            name: container.name.clone(),
            attempt,
            backoff_s,
            image: container.image.clone().unwrap_or_default(),
            image_id: image.id.clone(),
            layers: image.layers.clone(),
            writable_dir: data_dir.join("containers").join(&run),
            log_path: log_dir.join(&container.name).join(format!("{attempt}.log")),
            termination_message: data_dir.join("termination").join(&run),
            stop_signal: stop_signal(&image),
            created_at: Timestamp::now(),
        };
        let spec = self.describe(desired, container, &image, &record)?;
        self.shared
            .runtime
            .start_container(&self.uid, &record, &spec)
            .await
            .map_err(|error| Obstacle {
                reason: "CreateContainerError",
                message: error.to_string(),
            })?;
        self.events
            .normal("Created", format!("Container created: {}", container.name))
            .await;
        // Until it is seen the plan would ask for it again.
        let shown = self.state.wait_for(|state| {
            !state.alive
                || state
                    .containers
                    .iter()
                    .any(|container| container.record.id == id)
        });
        let _ = tokio::time::timeout(SHOWN_WAIT_MAX, shown).await;
        Ok(())
    }

    async fn find_image(&self, container: &Container) -> Result<Image, Obstacle> {
        let name = container.image.as_deref().unwrap_or_default();
        match self.shared.runtime.image(name).await {
            Ok(image) => {
                let message = format!("Container image {name:?} already present on machine");
                self.events.normal("Pulled", message).await;
                Ok(image)
            }
            Err(Missing::InvalidName) => Err(Obstacle {
                reason: "InvalidImageName",
                message: format!("Failed to apply default image tag {name:?}: invalid image name"),
            }),
            Err(Missing::NotFound(_))
                if container.image_pull_policy.as_deref() == Some("Never") =>
            {
                Err(Obstacle {
                    reason: "ErrImageNeverPull",
                    message: format!(
                        "Container image {name:?} is not present with pull policy of Never"
                    ),
                })
            }
            Err(Missing::NotFound(advice)) => Err(Obstacle {
                reason: "ErrImagePull",
                message: advice,
            }),
        }
    }

    /// Prepares the files of a run and makes its OCI spec.
    fn describe(
        &self,
        desired: &Desired,
        container: &Container,
        image: &Image,
        record: &ContainerRecord,
    ) -> Result<serde_json::Value, Obstacle> {
        let unusable = |error: &dyn std::fmt::Display| Obstacle {
            reason: "CreateContainerConfigError",
            message: error.to_string(),
        };
        let surroundings = self.surroundings();
        let volumes = self.volumes(desired, &surroundings);
        volumes.prepare().map_err(|error| unusable(&error))?;
        let mut mounts = volumes
            .mounts(container)
            .map_err(|error| unusable(&error))?;
        let message = &record.termination_message;
        make_empty_file(message).map_err(|error| unusable(&error))?;
        let message_path = container
            .termination_message_path
            .as_deref()
            .unwrap_or(TERMINATION_MESSAGE_PATH);
        let own = [
            (self.data_dir().join("hosts"), "/etc/hosts"),
            (self.data_dir().join("hostname"), "/etc/hostname"),
            (self.data_dir().join("resolv.conf"), "/etc/resolv.conf"),
            (self.data_dir().join("shm"), "/dev/shm"),
            (message.clone(), message_path),
        ];
        for (source, target) in own {
            // What the pod mounts itself goes before what it would find there.
            if !mounts.iter().any(|mount| mount.target == target) {
                mounts.push(BindMount {
                    source,
                    target: target.to_owned(),
                    read_only: false,
                });
            }
        }
        // A parent must be mounted before what lies below it.
        mounts.sort_by_key(|mount| mount.target.matches('/').count());
        let netns = (!host_network(desired)).then(|| self.netns());
        let hostname = self.hostname(desired);
        let cgroup = self.cgroups().oci_path(&record.id);
        spec::build(&Ingredients {
            pod: &desired.pod,
            container,
            image,
            layers_dir: &self.shared.layers_dir,
            objects: &desired.objects,
            surroundings: &surroundings,
            machine: &self.shared.machine,
            hostname: &hostname,
            netns: netns.as_deref(),
            cgroup: &cgroup,
            mounts: &mounts,
        })
        .map_err(|error| unusable(&error))
    }
}

fn make_empty_file(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::File::create(path)?;
    // Whoever the container runs as writes its last words there.
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))
}

fn stop_signal(image: &Image) -> i32 {
    let text = image.config.stop_signal.as_deref().unwrap_or_default();
    let complete = if text.starts_with("SIG") {
        text.to_owned()
    } else {
        format!("SIG{text}")
    };
    text.parse::<i32>()
        .ok()
        .filter(|number| (1..=64).contains(number))
        .or_else(|| {
            complete
                .parse::<nix::sys::signal::Signal>()
                .ok()
                .map(|signal| signal as i32)
        })
        .unwrap_or(libc::SIGTERM)
}
