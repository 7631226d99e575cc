//! From a pod's container to the OCI runtime spec it is started with.
//!
//! Pure but for reading `/etc/passwd` of the image. What the machine cannot grant (capabilities,
//! OOM scores) is clamped here, never a reason to fail.

mod environment;
mod fields;
mod user;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use crate::image::Image;
use crate::machine::{CAPABILITIES, Machine};
use crate::objects::{Objects, ReferenceError};
use crate::quantity;
use environment::Environment;
pub(crate) use fields::{field, resource};

/// The capabilities a container has unless it asks otherwise (as containerd's and Docker's).
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// The period of CPU quotas.
const CPU_PERIOD_US: u64 = 100_000;

/// What a pod may be told about where it runs.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) node_name: String,
    /// The one the node is reached at first.
    pub(crate) node_ips: Vec<IpAddr>,
    /// The primary family's first.
    pub(crate) pod_ips: Vec<IpAddr>,
    pub(crate) node_cpu_milli: i64,
    pub(crate) node_memory_bytes: u64,
}

#[cfg(test)]
impl Surroundings {
    pub(crate) fn for_tests() -> Self {
        Self {
            node_name: "node-1".to_owned(),
            node_ips: vec![IpAddr::from([198, 18, 0, 101])],
            pod_ips: vec![IpAddr::from([10, 244, 1, 2])],
            node_cpu_milli: 2000,
            node_memory_bytes: 1 << 30,
        }
    }
}

/// Why a container cannot be described: `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpecError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("no command specified: neither the container nor its image has one")]
    NoCommand,
    #[error("user {0:?} is neither a number nor in the image's /etc/passwd")]
    UnknownUser(String),
    #[error("group {0:?} is neither a number nor in the image's /etc/group")]
    UnknownGroup(String),
    #[error("container has runAsNonRoot and image will run as root")]
    Root,
}

/// A directory or file of the node that appears in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BindMount {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// Everything the spec of a container is made from.
pub(crate) struct Ingredients<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) image: &'a Image,
    pub(crate) layers_dir: &'a Path,
    pub(crate) objects: &'a Objects,
    pub(crate) surroundings: &'a Surroundings,
    pub(crate) machine: &'a Machine,
    pub(crate) hostname: &'a str,
    pub(crate) netns: Option<&'a Path>,
    pub(crate) cgroup: &'a Path,
    pub(crate) mounts: &'a [BindMount],
}

/// The OCI runtime spec.
pub(crate) fn build(from: &Ingredients<'_>) -> Result<Value, SpecError> {
    let container = from.container;
    let config = &from.image.config;
    let environment = Environment::of(
        container,
        from.pod,
        config.env.as_deref().unwrap_or_default(),
        from.hostname,
        from.objects,
        from.surroundings,
    )?;
    let args = arguments(container, from.image, &environment)?;
    let security = container.security_context.as_ref();
    let pod_security = from
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let privileged = security.and_then(|security| security.privileged) == Some(true);
    let user = user::resolve(from.pod, container, from.image, from.layers_dir)?;
    let capabilities = capabilities(container, from.machine, privileged);
    // An unprivileged user keeps no capability across exec but those of the bounding set.
    let effective = if user.uid == 0 {
        capabilities.clone()
    } else {
        Vec::new()
    };
    let cwd = container
        .working_dir
        .clone()
        .or_else(|| config.working_dir.clone())
        .filter(|dir| !dir.is_empty())
        .unwrap_or_else(|| "/".to_owned());
    let read_only = security.and_then(|security| security.read_only_root_filesystem) == Some(true);
    let sysctls: serde_json::Map<String, Value> = pod_security
        .and_then(|security| security.sysctls.as_ref())
        .into_iter()
        .flatten()
        .map(|sysctl| (sysctl.name.clone(), Value::from(sysctl.value.clone())))
        .collect();
    // The shim's own UTS and IPC namespaces are the pod's: they need no entry.
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "pid"})];
    if let Some(netns) = from.netns {
        namespaces.push(json!({"type": "network", "path": netns}));
    }
    let mut linux = json!({
        "cgroupsPath": from.cgroup,
        "namespaces": namespaces,
        "resources": resources(container, privileged),
        "sysctl": sysctls,
    });
    if !privileged {
        linux["maskedPaths"] = json!([
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
        ]);
        linux["readonlyPaths"] = json!([
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ]);
    }
    let no_new_privileges =
        security.and_then(|security| security.allow_privilege_escalation) == Some(false);
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": read_only},
        "process": {
            "terminal": false,
            "user": {
                "uid": user.uid,
                "gid": user.gid,
                "additionalGids": user.additional_gids,
            },
            "args": args,
            "env": environment.to_list(),
            "cwd": cwd,
            "capabilities": {
                "bounding": capabilities,
                "permitted": effective,
                "effective": effective,
            },
            "noNewPrivileges": no_new_privileges,
            "oomScoreAdj": oom_score_adj(from.pod, container, from.machine),
        },
        "mounts": mounts(from, privileged, &environment),
        "linux": linux,
    }))
}

/// `command` replaces the image's entrypoint and then its cmd counts no more; `args` replaces
/// cmd.
fn arguments(
    container: &Container,
    image: &Image,
    environment: &Environment,
) -> Result<Vec<String>, SpecError> {
    let expand = |texts: &Vec<String>| -> Vec<String> {
        texts.iter().map(|text| environment.expand(text)).collect()
    };
    let command = container
        .command
        .as_ref()
        .filter(|command| !command.is_empty());
    let args = container.args.as_ref().filter(|args| !args.is_empty());
    let mut arguments = match command {
        Some(command) => expand(command),
        None => image.config.entrypoint.clone().unwrap_or_default(),
    };
    match (args, command) {
        (Some(args), _) => arguments.extend(expand(args)),
        (None, None) => arguments.extend(image.config.cmd.clone().unwrap_or_default()),
        (None, Some(_)) => {}
    }
    if arguments.is_empty() {
        Err(SpecError::NoCommand)
    } else {
        Ok(arguments)
    }
}

fn capabilities(container: &Container, machine: &Machine, privileged: bool) -> Vec<String> {
    let granted = |names: &mut dyn Iterator<Item = &str>| -> Vec<String> {
        names
            .filter(|name| machine.grants(name))
            .map(str::to_owned)
            .collect()
    };
    if privileged {
        return granted(&mut CAPABILITIES.into_iter());
    }
    let wanted = container
        .security_context
        .as_ref()
        .and_then(|s| s.capabilities.as_ref());
    let complete = |name: &String| {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" || upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        }
    };
    let list = |names: Option<&Vec<String>>| -> Vec<String> {
        names.into_iter().flatten().map(complete).collect()
    };
    let add = list(wanted.and_then(|wanted| wanted.add.as_ref()));
    let drop = list(wanted.and_then(|wanted| wanted.drop.as_ref()));
    let has = |names: &[String], name: &str| names.iter().any(|entry| entry == name);
    granted(&mut CAPABILITIES.into_iter().filter(|name| {
        let by_default = DEFAULT_CAPABILITIES.contains(name) || has(&add, "ALL");
        let kept = by_default && !has(&drop, "ALL") && !has(&drop, name);
        kept || has(&add, name)
    }))
}

fn resources(container: &Container, privileged: bool) -> Value {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    // A limit without a request is also the request.
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let cpu_limit = quantity::milli_of(limits, "cpu").filter(|milli| *milli > 0);
    let cpu_request = quantity::milli_of(requests, "cpu")
        .or(cpu_limit)
        .unwrap_or(0);
    // The kernel's least is 2; a whole processor is 1024.
    let mut cpu = json!({"shares": (cpu_request * 1024 / 1000).clamp(2, 262_144)});
    if let Some(milli) = cpu_limit {
        cpu["period"] = CPU_PERIOD_US.into();
        // The kernel refuses quotas under a millisecond.
        cpu["quota"] = (milli * CPU_PERIOD_US as i64 / 1000).max(1000).into();
    }
    let mut value = json!({"cpu": cpu, "devices": [{"allow": privileged, "access": "rwm"}]});
    if let Some(bytes) = quantity::units_of(limits, "memory").filter(|bytes| *bytes > 0) {
        value["memory"] = json!({"limit": bytes});
    }
    value
}

/// A pod's class of service, from the requests and limits of its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    /// As `status.qosClass` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// That of a pod.
    pub(crate) fn of(pod: &Pod) -> Self {
        let containers = pod.spec.iter().flat_map(|spec| {
            spec.containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
        });
        let (mut any, mut all) = (false, true);
        for container in containers {
            let resources = container.resources.as_ref();
            let limits = resources.and_then(|resources| resources.limits.as_ref());
            let requests = resources.and_then(|resources| resources.requests.as_ref());
            for resource in ["cpu", "memory"] {
                let limit = quantity::milli_of(limits, resource).filter(|milli| *milli > 0);
                let request = quantity::milli_of(requests, resource).filter(|milli| *milli > 0);
                any |= limit.is_some() || request.is_some();
                all &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
            }
        }
        match (any, all) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }
}

/// Whom the kernel kills first when memory runs out (kubelet's qos/policy.go).
fn oom_score_adj(pod: &Pod, container: &Container, machine: &Machine) -> i32 {
    let wanted = match QosClass::of(pod) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let resources = container.resources.as_ref();
            let requests = resources.and_then(|resources| resources.requests.as_ref());
            let limits = resources.and_then(|resources| resources.limits.as_ref());
            let request = quantity::units_of(requests, "memory")
                .or_else(|| quantity::units_of(limits, "memory"))
                .unwrap_or(0);
            let share = 1000 * i128::from(request) / i128::from(machine.memory_bytes.max(1));
            (1000 - share as i32).clamp(3, 999)
        }
    };
    machine.clamp_oom_score_adj(wanted)
}

fn mounts(from: &Ingredients<'_>, privileged: bool, environment: &Environment) -> Vec<Value> {
    let sys_access = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc",
               "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
                           "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
               "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
               "options": ["nosuid", "noexec", "nodev", sys_access]}),
    ];
    mounts.extend(from.mounts.iter().map(|mount| {
        let access = if mount.read_only { "ro" } else { "rw" };
        json!({
            "destination": environment.expand(&mount.target),
            "type": "bind",
            "source": mount.source,
            "options": ["rbind", "rprivate", access],
        })
    }));
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageConfig;

    fn spec(container: Value) -> Result<Value, SpecError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [container]},
        }))
        .unwrap();
        let image = Image {
            id: "sha256:0".to_owned(),
            manifest_digest: None,
            names: Vec::new(),
            layers: Vec::new(),
            config: ImageConfig {
                entrypoint: Some(vec!["/entry".to_owned()]),
                cmd: Some(vec!["cmd".to_owned()]),
                ..ImageConfig::default()
            },
        };
        build(&Ingredients {
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            image: &image,
            layers_dir: Path::new("/nonexistent"),
            objects: &Objects::default(),
            surroundings: &Surroundings::for_tests(),
            machine: &Machine::probe(),
            hostname: "p",
            netns: Some(Path::new("/run/netns")),
            cgroup: Path::new("/a/b"),
            mounts: &[],
        })
    }

    #[test]
    fn spec_is_one_that_the_runtime_understands() {
        let spec = spec(json!({"name": "c"})).unwrap();
        let spec: libcontainer::oci_spec::runtime::Spec = serde_json::from_value(spec).unwrap();
        assert_eq!(spec.root().as_ref().unwrap().path(), Path::new("rootfs"));
        assert_eq!(
            spec.linux()
                .as_ref()
                .unwrap()
                .namespaces()
                .as_ref()
                .unwrap()
                .len(),
            3
        );
    }

    #[test]
    fn command_and_args_replace_the_images_as_in_kubernetes() {
        let check = |container: Value, expected: &[&str]| {
            assert_eq!(spec(container).unwrap()["process"]["args"], json!(expected));
        };
        check(json!({"name": "c"}), &["/entry", "cmd"]);
        check(json!({"name": "c", "args": ["x"]}), &["/entry", "x"]);
        check(json!({"name": "c", "command": ["/own"]}), &["/own"]);
        check(
            json!({"name": "c", "command": ["/own"], "args": ["x"]}),
            &["/own", "x"],
        );
    }

    #[test]
    fn limits_become_shares_and_quota() {
        let limits = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
        let spec = spec(json!({"name": "c", "resources": limits})).unwrap();
        let resources = &spec["linux"]["resources"];
        assert_eq!(
            resources["cpu"],
            json!({"shares": 512, "period": 100_000, "quota": 50_000})
        );
        assert_eq!(resources["memory"], json!({"limit": 64 << 20}));
    }

    #[test]
    fn dropping_all_leaves_only_what_is_added() {
        let security = json!({"capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}});
        let spec = spec(json!({"name": "c", "securityContext": security})).unwrap();
        assert_eq!(
            spec["process"]["capabilities"]["bounding"],
            json!(["CAP_CHOWN"])
        );
    }

    #[test]
    fn root_is_refused_where_the_pod_must_not_run_as_it() {
        let refused = spec(json!({"name": "c", "securityContext": {"runAsNonRoot": true}}));
        assert_eq!(refused, Err(SpecError::Root));
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let class = |resources: Value| {
            let pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
            QosClass::of(&serde_json::from_value(pod).unwrap())
        };
        assert_eq!(class(json!({})), QosClass::BestEffort);
        assert_eq!(
            class(json!({"requests": {"cpu": "1"}})),
            QosClass::Burstable
        );
        assert_eq!(
            class(json!({"limits": {"cpu": "1", "memory": "1Gi"}})),
            QosClass::Guaranteed
        );
    }
}
