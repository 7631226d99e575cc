//! The same hosts, links and client without Fairlead: what one would build with nftables.
//!
//! Every node rewrites the destination of a flow to one of the pods, as kube-proxy does, and its
//! source to the node's own address, because the reply must come back through the node that knows
//! the flow. Pods on other nodes are reached by routes.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::layout::address;
use super::{Cluster, Host, Layout, Remains, Spec, network};
use crate::{Deadline, Launch, NetNs, Workspace};

/// The virtual address.
const VIP: &str = "198.18.100.1";

/// Three nodes with a pod each, and nftables.
#[derive(Debug)]
pub struct Baseline {
    layout: Layout,
    pods: Vec<NetNs>,
}

impl Baseline {
    /// Builds the network, starts hello in a pod on each node, and loads the rules for TCP port
    /// 80 and UDP port `udp_port`.
    ///
    /// # Errors
    /// Something is not built, or a step failed; what there is is removed.
    pub fn up(name: &str, workspace: &Workspace, udp_port: u16) -> Result<Self> {
        let spec = Spec::named(name);
        let layout = Cluster::layout_of(workspace, name)?;
        Remains::of(&layout).remove()?;
        let mut baseline = Self {
            layout,
            pods: Vec::new(),
        };
        std::fs::create_dir_all(baseline.layout.folder()).context("make the baseline's folder")?;
        network::build(&spec, &baseline.layout)?;
        for node in spec.node_hosts() {
            let pod = baseline.make_pod(&spec, node, workspace)?;
            baseline.pods.push(pod);
        }
        let rules = rules(&spec, udp_port);
        for node in spec.node_hosts() {
            baseline.load(node, &rules)?;
        }
        Ok(baseline)
    }

    /// The pods' network namespaces.
    pub fn pods(&self) -> &[NetNs] {
        &self.pods
    }

    /// The address that the rules rewrite.
    pub fn vip(&self) -> &'static str {
        VIP
    }

    /// A launch of a program on a host.
    ///
    /// # Errors
    /// There is no such host.
    pub fn launch(&self, host: Host, program: impl AsRef<std::ffi::OsStr>) -> Result<Launch> {
        let netns = NetNs::open(&self.layout.netns(host))?;
        Ok(Launch::new(program.as_ref()).netns(netns.file()?))
    }

    fn make_pod(&self, spec: &Spec, node: Host, workspace: &Workspace) -> Result<NetNs> {
        let netns = NetNs::open(&self.layout.netns(node))?;
        let pod = NetNs::unique("pod")?;
        let pod_ip = pod_address(node);
        let gateway = gateway(node);
        let mut lines = vec![
            format!("link add pod type veth peer name eth0 netns {}", pod.name()),
            format!("addr add {gateway}/24 dev pod"),
            "link set pod up".to_owned(),
        ];
        for other in spec.node_hosts().filter(|other| *other != node) {
            let via = address(other).context("a node has an address")?;
            lines.push(format!("route add {}/32 via {via}", pod_address(other)));
        }
        netns.ip_batch(&lines)?;
        netns.make_wire_like("pod")?;
        pod.ip_batch(&[
            format!("addr add {pod_ip}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {gateway}"),
        ])?;
        pod.make_wire_like("eth0")?;
        Launch::new(workspace.hello_program())
            .environment("POD_NAME", format!("pod-on-{node}"))
            .environment("NODE_NAME", node.to_string())
            .netns(pod.file()?)
            .cgroup(self.layout.process_cgroup(node))
            .start(&self.layout.folder().join(format!("{node}.log")))?;
        let listening = || pod.run(|| std::net::TcpStream::connect((pod_ip.as_str(), 8080)));
        Deadline::seconds(10).wait_for("hello's port", || Ok(listening()?.ok().map(drop)))?;
        Ok(pod)
    }

    fn load(&self, node: Host, rules: &str) -> Result<()> {
        let mut nft = self
            .launch(node, "nft")?
            .arguments(["-f", "-"])
            .command()?
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run nft")?;
        nft.stdin
            .take()
            .expect("its standard input is a pipe")
            .write_all(rules.as_bytes())
            .context("hand rules to nft")?;
        let done = nft.wait_with_output().context("wait for nft")?;
        ensure!(
            done.status.success(),
            "nft on {node}: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(())
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        if let Err(error) = Remains::of(&self.layout).remove() {
            eprintln!("{error:#}");
        }
    }
}

fn number(node: Host) -> u8 {
    match node {
        Host::Node(number) => number,
        Host::Switch | Host::Router | Host::Client | Host::Control(_) => 0,
    }
}

fn pod_address(node: Host) -> String {
    format!("10.244.{}.10", number(node))
}

fn gateway(node: Host) -> String {
    format!("10.244.{}.1", number(node))
}

/// One map lookup for each protocol, whatever the number of pods: nftables at its best.
fn rules(spec: &Spec, udp_port: u16) -> String {
    let pods: Vec<_> = spec.node_hosts().map(pod_address).collect();
    let choice = |port: u16| {
        let entries: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(index, ip)| format!("{index} : {ip} . {port}"))
            .collect();
        format!(
            "numgen inc mod {} map {{ {} }}",
            pods.len(),
            entries.join(", ")
        )
    };
    format!(
        "table ip baseline {{\n\
           chain prerouting {{\n\
             type nat hook prerouting priority dstnat;\n\
             ip daddr {VIP} tcp dport 80 dnat ip addr . port to {}\n\
             ip daddr {VIP} udp dport {udp_port} dnat ip addr . port to {}\n\
           }}\n\
           chain postrouting {{\n\
             type nat hook postrouting priority srcnat;\n\
             ct status dnat masquerade\n\
           }}\n\
         }}\n",
        choice(8080),
        choice(udp_port)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_choose_among_all_pods_with_one_lookup() {
        let rules = rules(&Spec::named("a").nodes(2), 9);
        assert!(
            rules.contains(
                "tcp dport 80 dnat ip addr . port to numgen inc mod 2 map { 0 : 10.244.1.10 . \
                 8080, 1 : 10.244.2.10 . 8080 }"
            ),
            "{rules}"
        );
    }

    #[test]
    fn requests_through_the_baseline_reach_every_pod_without_the_clients_address() {
        if crate::skip_without_root() {
            return;
        }
        let workspace = Workspace::locate().expect("the workspace");
        if !workspace.hello_program().exists() {
            assert!(std::env::var_os("CI").is_none(), "hello is not built");
            println!("SKIP: needs `cargo xtask image`");
            return;
        }
        let name = format!("nft-{}", std::process::id());
        let baseline = Baseline::up(&name, &workspace, 9).expect("build");
        let client = NetNs::open(&baseline.layout.netns(Host::Client)).expect("open the client");
        let load = crate::traffic::Load {
            target: format!("{VIP}:80").parse().expect("an address"),
            path: "/".to_owned(),
            requests: 30,
            clients: 2,
            keep_alive: false,
            per_second: None,
            timeout: std::time::Duration::from_secs(5),
        };
        // The threads of a load inherit the namespace of the thread that starts them.
        let report = client
            .run(|| load.run(&mut std::io::sink()))
            .expect("enter");
        assert_eq!((report.ok, report.failed), (30, 0), "{report:?}");
        assert_eq!(report.pods().len(), 3, "{report:?}");
        let client_seen = report
            .answers
            .iter()
            .any(|answer| answer.client == "198.18.1.10");
        assert!(!client_seen, "{report:?}");
    }
}
