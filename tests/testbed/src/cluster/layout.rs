//! Every name, address and path of a cluster, computed from its [`Spec`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::spec::{Host, Spec};
use crate::cgroup::Hierarchies;

/// The router's address on the cluster's segment, which is everyone's default route there.
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// The router's address on the client's segment.
pub(super) const ROUTER_OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);

/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 10);

/// The router's IPv6 addresses on both segments.
pub(super) const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(super) const ROUTER_OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

/// The client's IPv6 address.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);

/// The lengths of the prefixes of both segments.
pub(super) const PREFIX_LENGTH: u8 = 24;
pub(super) const PREFIX_LENGTH_V6: u8 = 64;

/// The port that agents dial on a control host.
pub(super) const NODES_PORT: u16 = 6444;

/// Where things of a cluster are.
#[derive(Clone, Debug)]
pub struct Layout {
    name: String,
    /// The cluster's name on the machine, where those of other work trees are too.
    machine_name: String,
    folder: PathBuf,
    hierarchies: Hierarchies,
}

impl Layout {
    /// The layout of the cluster `name` with its files below `clusters`.
    pub fn new(name: &str, clusters: &Path, hierarchies: Hierarchies) -> Self {
        Self {
            name: name.to_owned(),
            machine_name: format!("{}-{name}", tree(clusters)),
            folder: clusters.join(name),
            hierarchies,
        }
    }

    /// Whom the nodes ask for names that are not the cluster's.
    pub fn resolv_conf(&self) -> PathBuf {
        self.folder.join("resolv.conf")
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster of the work tree with the folder `clusters` whose switch is the network namespace
    /// `netns`, if there can be one.
    pub fn cluster_of_switch<'a>(clusters: &Path, netns: &'a str) -> Option<&'a str> {
        netns
            .strip_prefix("fl-")?
            .strip_prefix(&tree(clusters))?
            .strip_prefix('-')?
            .strip_suffix("-switch")
    }

    /// The folder of all its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that says what runs.
    pub fn state_file(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    /// The administrator's kubeconfig. The default cluster's is easier to find than others'.
    pub fn kubeconfig(&self) -> PathBuf {
        match self.name.as_str() {
            super::DEFAULT_NAME => self
                .folder
                .parent()
                .expect("the folder was joined to another")
                .join("kubeconfig"),
            _ => self.folder.join("kubeconfig"),
        }
    }

    /// The kubeconfig that reaches the API of one control host.
    pub fn kubeconfig_of(&self, control: Host) -> PathBuf {
        match control {
            Host::Control(1) => self.kubeconfig(),
            _ => self.host_folder(control).join("kubeconfig"),
        }
    }

    /// The folder of all files of a host.
    pub fn host_folder(&self, host: Host) -> PathBuf {
        self.folder.join(host.to_string())
    }

    /// The data folder of the program on a host.
    pub fn data(&self, host: Host) -> PathBuf {
        self.host_folder(host).join("data")
    }

    /// The runtime folder of the agent on a host.
    pub fn run(&self, host: Host) -> PathBuf {
        self.host_folder(host).join("run")
    }

    /// The folder of the pods' logs on a host.
    pub fn pod_logs(&self, host: Host) -> PathBuf {
        self.host_folder(host).join("pod-logs")
    }

    /// What the program on a host prints.
    pub fn log(&self, host: Host) -> PathBuf {
        self.host_folder(host).join("log")
    }

    /// The network namespace that is a host.
    pub fn netns(&self, host: Host) -> String {
        format!("fl-{}-{host}", self.machine_name)
    }

    /// The host that the network namespace `netns` is, if it is one of this cluster's.
    pub fn host_of_netns(&self, netns: &str) -> Option<Host> {
        netns
            .strip_prefix("fl-")?
            .strip_prefix(&self.machine_name)?
            .strip_prefix('-')?
            .parse()
            .ok()
    }

    /// The folder in the BPF file system for everything the cluster pins.
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/fairlead").join(&self.machine_name)
    }

    /// The folder in the BPF file system for what a node pins.
    pub fn node_pins(&self, node: Host) -> PathBuf {
        self.pins().join(node.to_string())
    }

    /// The name of the cluster's cgroup on every hierarchy.
    pub fn cgroup_name(&self) -> String {
        format!("fairlead/{}", self.machine_name)
    }

    /// The name of a host's cgroup on every hierarchy.
    pub fn host_cgroup_name(&self, host: Host) -> String {
        format!("{}/{host}", self.cgroup_name())
    }

    /// A host's cgroup on the v2 hierarchy.
    pub fn host_cgroup(&self, host: Host) -> PathBuf {
        self.hierarchies.unified.join(self.host_cgroup_name(host))
    }

    /// The cgroup for a host's own processes. It is below the host's, because a v2 group with
    /// controllers has processes or groups in it, not both.
    pub fn process_cgroup(&self, host: Host) -> PathBuf {
        self.host_cgroup(host).join("host")
    }

    /// The cgroup hierarchies of the machine.
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }
}

/// Four digits that stand for a work tree: clusters of the same name in two trees share a machine.
fn tree(clusters: &Path) -> String {
    let bytes = clusters.as_os_str().as_bytes();
    // FNV-1a, as the standard library's hash may be another in the next release.
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    format!("{:04x}", hash >> 16)
}

/// The address of a host on the segment it is reached on; the switch has none.
pub fn address(host: Host) -> Option<Ipv4Addr> {
    match host {
        Host::Switch => None,
        Host::Router => Some(ROUTER),
        Host::Client => Some(CLIENT),
        Host::Control(number) => Some(Ipv4Addr::new(198, 18, 0, 10 + number)),
        Host::Node(number) => Some(Ipv4Addr::new(198, 18, 0, 100 + number)),
    }
}

/// The IPv6 address of a host: of the same number as its IPv4 address on the same segment.
pub fn address_v6(host: Host) -> Option<Ipv6Addr> {
    let number = |number: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number);
    match host {
        Host::Switch => None,
        Host::Router => Some(ROUTER_V6),
        Host::Client => Some(CLIENT_V6),
        Host::Control(control) => Some(number(0x10 + u16::from(control))),
        Host::Node(node) => Some(number(0x100 + u16::from(node))),
    }
}

/// The client's address of the family of `other`.
pub fn client_of(other: IpAddr) -> IpAddr {
    match other {
        IpAddr::V4(_) => CLIENT.into(),
        IpAddr::V6(_) => CLIENT_V6.into(),
    }
}

/// The endpoints that agents and joining control hosts dial: `IP:6444,IP:6444`.
pub(super) fn node_endpoints(spec: &Spec) -> String {
    spec.control_hosts()
        .filter_map(address)
        .map(|ip| format!("{ip}:{NODES_PORT}"))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn layout(name: &str) -> Layout {
        let hierarchies = Hierarchies {
            unified: PathBuf::from("/sys/fs/cgroup/unified"),
            legacy: vec![PathBuf::from("/sys/fs/cgroup/cpu")],
        };
        Layout::new(name, Path::new("/t/cluster"), hierarchies)
    }

    #[test]
    fn addresses_follow_from_the_host() {
        for (host, expect) in [
            (Host::Switch, None),
            (Host::Router, Some("198.18.0.1")),
            (Host::Client, Some("198.18.1.10")),
            (Host::Control(1), Some("198.18.0.11")),
            (Host::Control(5), Some("198.18.0.15")),
            (Host::Node(1), Some("198.18.0.101")),
            (Host::Node(99), Some("198.18.0.199")),
        ] {
            let got = address(host).map(|ip| ip.to_string());
            assert_eq!(got.as_deref(), expect, "{host}");
        }
    }

    #[test]
    fn no_two_hosts_of_the_largest_cluster_share_an_address() {
        let spec = Spec::named("a").nodes(99).controls(5);
        let hosts = spec.hosts();
        let addresses: BTreeSet<_> = hosts.iter().copied().filter_map(address).collect();
        assert_eq!(addresses.len(), hosts.len() - 1);
        let addresses: BTreeSet<_> = hosts.iter().copied().filter_map(address_v6).collect();
        assert_eq!(addresses.len(), hosts.len() - 1);
    }

    #[test]
    fn names_and_paths_hold_the_clusters_name() {
        let layout = layout("a");
        let node = Host::Node(2);
        assert_eq!(layout.netns(node), "fl-fa04-a-node-2");
        assert_eq!(layout.host_cgroup_name(node), "fairlead/fa04-a/node-2");
        for (path, expect) in [
            (layout.data(node), "/t/cluster/a/node-2/data"),
            (layout.node_pins(node), "/sys/fs/bpf/fairlead/fa04-a/node-2"),
            (
                layout.host_cgroup(node),
                "/sys/fs/cgroup/unified/fairlead/fa04-a/node-2",
            ),
            (layout.kubeconfig(), "/t/cluster/a/kubeconfig"),
            (
                layout.kubeconfig_of(Host::Control(2)),
                "/t/cluster/a/control-2/kubeconfig",
            ),
        ] {
            assert_eq!(path, Path::new(expect));
        }
    }

    #[test]
    fn the_default_clusters_kubeconfig_is_beside_the_clusters() {
        assert_eq!(
            layout("default").kubeconfig(),
            Path::new("/t/cluster/kubeconfig")
        );
    }

    #[test]
    fn a_namespace_belongs_to_the_cluster_that_would_name_it_so() {
        for (cluster, netns, expect) in [
            ("a", "fl-fa04-a-node-1", Some(Host::Node(1))),
            ("a", "fl-0000-a-node-1", None),
            ("a", "fl-fa04-a-b-node-1", None),
            ("a-b", "fl-fa04-a-b-node-1", Some(Host::Node(1))),
            ("a", "fl-fa04-ab-node-1", None),
            ("a", "fl-fa04-a-switch", Some(Host::Switch)),
            ("a", "fl-command-1-1", None),
            ("a", "other", None),
        ] {
            assert_eq!(
                layout(cluster).host_of_netns(netns),
                expect,
                "{cluster} {netns}"
            );
        }
    }

    #[test]
    fn clusters_of_another_work_tree_are_not_ours() {
        let found =
            |clusters: &str| Layout::cluster_of_switch(Path::new(clusters), "fl-fa04-a-b-switch");
        assert_eq!(found("/t/cluster"), Some("a-b"));
        assert_eq!(found("/u/cluster"), None);
    }

    #[test]
    fn agents_dial_every_control_host() {
        let spec = Spec::named("a").controls(3);
        assert_eq!(
            node_endpoints(&spec),
            "198.18.0.11:6444,198.18.0.12:6444,198.18.0.13:6444"
        );
    }
}
