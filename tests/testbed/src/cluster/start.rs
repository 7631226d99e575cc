//! Bringing a cluster up, by the same commands that bring up one of real machines: init, token,
//! join, run.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use super::layout::{CLIENT, NODES_PORT, address, address_v6, node_endpoints};
use super::spec::{CLUSTER_RANGES, SERVICE_RANGES};
use super::{Cluster, Host, Remains, Spec, State, network};
use crate::{Deadline, Progress, Workspace, mounts};

/// How long a member of the control plane may take until it answers: it makes keys and elects.
const CONTROL_START_S: u64 = 60;

/// How long all nodes together may take until they are ready.
const NODES_READY_S: u64 = 120;

impl Cluster {
    /// Starts a cluster and waits until all its nodes are ready. What was started stays when this
    /// fails, for looking at, until [`Remains::remove`].
    ///
    /// # Errors
    /// A cluster of this name exists, something is not built or installed, or a step failed.
    pub fn up(spec: Spec, workspace: &Workspace, progress: &Progress) -> Result<Self> {
        spec.validate()?;
        ensure!(
            nix::unistd::geteuid().is_root(),
            "namespaces, cgroups and BPF need root"
        );
        for program in ["fairlead-control", "fairlead-agent", "netctl", "traffic"] {
            workspace.binary(program)?;
        }
        ensure!(
            workspace.hello_image().exists(),
            "{} is missing: run `cargo xtask image`",
            workspace.hello_image().display()
        );
        let layout = Self::layout_of(workspace, &spec.name)?;
        let remains = Remains::of(&layout);
        if !remains.is_empty() {
            bail!(
                "there is {remains} of a cluster {name:?} already: remove it with `cargo xtask \
                 down --name {name}`, or choose another `--name`",
                name = spec.name
            );
        }
        for host in spec.control_hosts().chain(spec.node_hosts()) {
            let folder = layout.data(host);
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let mut cluster = Self {
            workspace: workspace.clone(),
            state: State::new(spec),
            layout,
        };
        cluster.save()?;
        cluster.write_resolv_conf()?;
        mounts::ensure_bpffs()?;

        progress.step(format!(
            "hosts: switch, router, client, {} control, {} nodes",
            cluster.spec().controls,
            cluster.spec().nodes
        ));
        network::build(cluster.spec(), &cluster.layout)?;
        for control in cluster.spec().control_hosts() {
            progress.step(format!("{control}: start the control plane"));
            cluster.make_control(control)?;
        }
        for node in cluster.spec().node_hosts() {
            progress.step(format!("{node}: join, start the agent"));
            cluster.make_node(node)?;
        }
        cluster.wait_for_nodes(progress)?;
        cluster.route_pods()?;
        Ok(cluster)
    }

    /// The nodes ask the client's host for names that are not the cluster's; a test may answer there.
    fn write_resolv_conf(&self) -> Result<()> {
        let path = self.layout.resolv_conf();
        fs::write(&path, format!("nameserver {CLIENT}\n"))
            .with_context(|| format!("write {}", path.display()))
    }

    /// Tells the router which node has which pods, as the network of a real cluster is told or
    /// learns: pods' IPv6 addresses are not masqueraded.
    fn route_pods(&self) -> Result<()> {
        let router = self.netns(Host::Router)?;
        let nodes = self.kubectl()?.json("get nodes -o json")?;
        for node in nodes["items"].as_array().into_iter().flatten() {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let via = address_v6(name.parse()?).context("a node has an address")?;
            let ranges = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
            for range in ranges.filter_map(|range| range.as_str()) {
                if range.contains(':') {
                    router.ip(&format!("route replace {range} via {via}"))?;
                }
            }
        }
        Ok(())
    }

    /// Prints a token that lets one more host join.
    ///
    /// # Errors
    /// The first control host refuses.
    pub fn token(&self, role: &str) -> Result<String> {
        let data = self.layout.data(Host::Control(1));
        let token = self.exec(
            Host::Control(1),
            self.workspace.binary("fairlead-control")?,
            &[
                "token",
                "create",
                "--data-dir",
                &data.to_string_lossy(),
                "--role",
                role,
            ],
        )?;
        Ok(token.trim().to_owned())
    }

    /// Runs `fairlead-agent join` on a node, with any token and server.
    ///
    /// # Errors
    /// The control plane refuses, or the node has joined already.
    pub fn join_node(&self, node: Host, token: &str, server: &str) -> Result<()> {
        let layout = &self.layout;
        let v4 = address(node).context("a node has an address")?;
        let v6 = address_v6(node).context("a node has an address")?;
        let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        let options = [
            ("--data-dir", path(layout.data(node))),
            ("--node-name", node.to_string()),
            ("--address", format!("{v4},{v6}")),
            ("--uplink", "eth0".to_owned()),
            ("--token", token.to_owned()),
            ("--server", server.to_owned()),
            ("--bpffs", path(layout.node_pins(node))),
            ("--cgroup", path(layout.host_cgroup(node))),
            ("--run-dir", path(layout.run(node))),
            ("--log-dir", path(layout.pod_logs(node))),
            ("--resolv-conf", path(layout.resolv_conf())),
            ("--cgroup-prefix", layout.host_cgroup_name(node)),
        ];
        let mut arguments = vec!["join"];
        for (name, value) in &options {
            arguments.extend([*name, value.as_str()]);
        }
        self.exec(node, self.workspace.binary("fairlead-agent")?, &arguments)?;
        Ok(())
    }

    fn make_control(&mut self, control: Host) -> Result<()> {
        let data = self.layout.data(control).to_string_lossy().into_owned();
        let name = control.to_string();
        let ip = address(control)
            .context("a control host has an address")?
            .to_string();
        let program = self.workspace.binary("fairlead-control")?;
        let common = ["--data-dir", &data, "--name", &name, "--advertise", &ip];
        if control == Host::Control(1) {
            let mut arguments = vec!["init"];
            arguments.extend(common);
            arguments.extend(["--cluster-cidr", CLUSTER_RANGES]);
            arguments.extend(["--service-cidr", SERVICE_RANGES]);
            arguments.extend(["--vip-pool", &self.state.spec.vip_pool]);
            self.exec(control, &program, &arguments)?;
        } else {
            let token = self.token("control")?;
            let first = address(Host::Control(1)).expect("a control host has an address");
            let server = format!("{first}:{NODES_PORT}");
            let mut arguments = vec!["join"];
            arguments.extend(common);
            arguments.extend(["--token", &token, "--server", &server]);
            self.exec(control, &program, &arguments)?;
        }
        self.start_control(control)?;
        self.write_kubeconfig(control)?;
        let kubectl = self.kubectl_of(super::KUBECTL, control)?;
        self.wait_for(
            Deadline::seconds(CONTROL_START_S),
            &format!("answer from the API of {control}"),
            || kubectl.ok("get namespaces --request-timeout=5s").map(Some),
        )?;
        Ok(())
    }

    pub(super) fn start_control(&mut self, control: Host) -> Result<()> {
        let listener = self.api_listener(control)?;
        let process = self
            .launch(control, self.workspace.binary("fairlead-control")?)?
            .arguments(["run", "--data-dir"])
            .arguments([self.layout.data(control)])
            .listener(listener)
            .start(&self.layout.log(control))?;
        self.record(control, process)
    }

    /// The administrator's kubeconfig from `init`, with the server replaced by the port on
    /// 127.0.0.1 of this control host.
    fn write_kubeconfig(&self, control: Host) -> Result<()> {
        let original = self.layout.data(Host::Control(1)).join("admin.kubeconfig");
        let text = fs::read_to_string(&original)
            .with_context(|| format!("read {}", original.display()))?;
        let port = self.state.api_ports[&control.to_string()];
        let path = self.layout.kubeconfig_of(control);
        fs::write(
            &path,
            with_server(&text, &format!("https://127.0.0.1:{port}")),
        )
        .with_context(|| format!("write {}", path.display()))
    }

    fn make_node(&mut self, node: Host) -> Result<()> {
        let images = self.layout.data(node).join("images");
        fs::create_dir_all(&images).with_context(|| format!("make {}", images.display()))?;
        fs::copy(self.workspace.hello_image(), images.join("hello.tar"))
            .with_context(|| format!("copy the image to {}", images.display()))?;
        let token = self.token("node")?;
        self.join_node(node, &token, &node_endpoints(self.spec()))?;
        self.start_agent(node)
    }

    pub(super) fn start_agent(&mut self, node: Host) -> Result<()> {
        let process = self
            .launch(node, self.workspace.binary("fairlead-agent")?)?
            .arguments(["run", "--data-dir"])
            .arguments([self.layout.data(node)])
            .start(&self.layout.log(node))?;
        self.record(node, process)
    }

    /// Waits until every node says that it is ready.
    ///
    /// # Errors
    /// One is not in time.
    pub fn wait_for_nodes(&self, progress: &Progress) -> Result<()> {
        let kubectl = self.kubectl()?;
        let wanted = usize::from(self.spec().nodes);
        self.wait_for(Deadline::seconds(NODES_READY_S), "nodes ready", || {
            let nodes = kubectl.json("get nodes -o json")?;
            let ready = nodes["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|node| super::application::condition(node, "Ready"))
                .count();
            progress.state(format!("{ready} of {wanted} nodes ready"));
            Ok((ready == wanted).then_some(()))
        })?;
        progress.step(format!("{wanted} of {wanted} nodes ready"));
        Ok(())
    }
}

/// A kubeconfig with its one `server:` replaced.
fn with_server(kubeconfig: &str, server: &str) -> String {
    let mut text = String::with_capacity(kubeconfig.len());
    for line in kubeconfig.lines() {
        match line.find("server:") {
            Some(at) => text.push_str(&format!("{}server: {server}", &line[..at])),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_of_a_kubeconfig_is_replaced() {
        let text =
            "clusters:\n- cluster:\n    server: https://198.18.0.11:6443\n  name: fairlead\n";
        assert_eq!(
            with_server(text, "https://127.0.0.1:7"),
            "clusters:\n- cluster:\n    server: https://127.0.0.1:7\n  name: fairlead\n"
        );
    }
}
