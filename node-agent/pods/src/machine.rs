//! What the machine allows and offers: capabilities, memory, processors, versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Linux' capabilities in the order of their numbers (linux/capability.h).
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What of a container's wishes this machine can grant. What it cannot is left out rather than
/// failing the pod.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Bit n is capability number n.
    bounding_set: u64,
    /// The agent's own; without CAP_SYS_RESOURCE a container's cannot be lower.
    oom_score_adj: i32,
    pub(crate) memory_bytes: u64,
    cpu_count: u32,
}

impl Machine {
    /// Looks at the machine this process runs on.
    pub(crate) fn probe() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bounding_set = field(&status, "CapBnd")
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .unwrap_or(0);
        let oom_score_adj = fs::read_to_string("/proc/self/oom_score_adj")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_bytes = field(&memory, "MemTotal")
            .and_then(|text| text.trim_end_matches(" kB").trim().parse::<u64>().ok())
            .map_or(0, |kibibytes| kibibytes * 1024);
        let cpu_count = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        Self {
            bounding_set,
            oom_score_adj,
            memory_bytes,
            cpu_count,
        }
    }

    /// Whether a container may have the capability.
    pub(crate) fn grants(&self, capability: &str) -> bool {
        CAPABILITIES
            .iter()
            .position(|name| *name == capability)
            .is_some_and(|number| self.bounding_set & (1 << number) != 0)
    }

    fn missing(&self) -> Vec<&'static str> {
        CAPABILITIES
            .into_iter()
            .filter(|name| !self.grants(name))
            .collect()
    }

    /// Processors, in thousandths.
    pub(crate) fn cpu_milli(&self) -> i64 {
        i64::from(self.cpu_count) * 1000
    }

    /// The score nearest to the wanted one that may be set.
    pub(crate) fn clamp_oom_score_adj(&self, wanted: i32) -> i32 {
        if self.grants("CAP_SYS_RESOURCE") {
            wanted
        } else {
            wanted.max(self.oom_score_adj)
        }
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// What a node has to give: `status.capacity` (and, nothing being set aside, `allocatable`).
///
/// Keys are `cpu`, `memory`, `pods` and `ephemeral-storage`, the latter of the file system of
/// `data_dir`.
pub fn node_resources(data_dir: &Path, max_pods: u32) -> BTreeMap<String, Quantity> {
    let machine = Machine::probe();
    let storage_bytes = nix::sys::statvfs::statvfs(data_dir)
        .map_or(0, |system| system.blocks() * system.fragment_size());
    let kibibytes = |bytes: u64| Quantity(format!("{}Ki", bytes / 1024));
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(machine.cpu_count.to_string())),
        ("memory".to_owned(), kibibytes(machine.memory_bytes)),
        ("ephemeral-storage".to_owned(), kibibytes(storage_bytes)),
        ("pods".to_owned(), Quantity(max_pods.to_string())),
    ])
}

/// Linux' capabilities that no container of this machine can have, however it asks.
pub fn missing_capabilities() -> Vec<&'static str> {
    Machine::probe().missing()
}

/// `status.nodeInfo` of this machine.
pub fn node_info() -> NodeSystemInfo {
    let read = |path: &str| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let release = read("/etc/os-release");
    let os_image = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("Linux", |name| name.trim_matches('"'));
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let version = env!("CARGO_PKG_VERSION");
    NodeSystemInfo {
        architecture: architecture.to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("fairlead://{version}"),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kubelet_version: format!("v{version}-fairlead"),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: os_image.to_owned(),
        system_uuid: read("/sys/class/dmi/id/product_uuid"),
        ..NodeSystemInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_without_sys_resource_raises_low_oom_scores_to_its_own() {
        let machine = Machine {
            bounding_set: 1,
            oom_score_adj: 0,
            memory_bytes: 0,
            cpu_count: 1,
        };
        assert_eq!(machine.clamp_oom_score_adj(-997), 0);
        assert_eq!(machine.clamp_oom_score_adj(500), 500);
        assert!(machine.grants("CAP_CHOWN"));
        assert!(!machine.grants("CAP_KILL"));
        assert_eq!(machine.missing(), CAPABILITIES[1..]);
    }

    #[test]
    fn this_machine_has_something_to_give() {
        let resources = node_resources(Path::new("/"), 110);
        for name in ["cpu", "memory", "ephemeral-storage", "pods"] {
            assert!(
                crate::quantity::units_of(Some(&resources), name).unwrap() > 0,
                "{name}"
            );
        }
    }
}
