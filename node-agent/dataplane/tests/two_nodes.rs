//! Two nodes with real dataplanes on one segment, a client beside them, and TCP through it all.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fairlead_api::{Generation, NodeName};
use fairlead_dataplane::{Changes, Config, Dataplane, object};
use fairlead_proto::node::{
    Backend, BackendState, DataplaneState, Frontend, FrontendScope, NodeAddress, Parameters,
    Protocol, Route, RouteKey, Service,
};
use serde_json::json;
use testbed::{Deadline, NetNs, NetNsHandle, skip_without_root};

const VIP: [u8; 4] = [198, 18, 100, 1];
const CLIENT: [u8; 4] = [198, 18, 0, 10];

/// True, after printing why, when programs cannot be loaded. In CI that is a failure.
fn skip() -> bool {
    if skip_without_root() {
        return true;
    }
    let missing = object::embedded().is_err();
    if missing {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI builds the eBPF object first"
        );
        println!("SKIP: needs the eBPF object: run cargo xtask build-ebpf");
    }
    missing
}

/// Hosts on a switch, and what is removed with them.
struct Segment {
    switch: NetNs,
    files: tempfile::TempDir,
}

impl Segment {
    fn new() -> Self {
        let switch = NetNs::unique("two-switch").unwrap();
        switch.ip("link add br0 type bridge").unwrap();
        switch.ip("link set br0 up").unwrap();
        Self {
            switch,
            files: tempfile::tempdir().unwrap(),
        }
    }

    fn host(&self, number: u8) -> NetNs {
        let host = NetNs::unique("two-host").unwrap();
        let port = format!("port{number}");
        let peer = host.name();
        self.switch
            .ip(&format!(
                "link add {port} type veth peer name eth0 netns {peer}"
            ))
            .unwrap();
        self.switch.make_wire_like(&port).unwrap();
        self.switch.take_xdp_frames(&port).unwrap();
        self.switch
            .ip(&format!("link set {port} master br0 up"))
            .unwrap();
        host.make_wire_like("eth0").unwrap();
        host.ip(&format!("address add 198.18.0.{number}/24 dev eth0"))
            .unwrap();
        host.ip("link set eth0 up").unwrap();
        host.sysctl("net.ipv4.ip_forward", "1").unwrap();
        for device in ["all", "eth0"] {
            host.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")
                .unwrap();
        }
        host
    }
}

/// A node, and the pod on it.
struct Node {
    host: NetNs,
    config: Config,
    pod: PathBuf,
}

impl Node {
    fn new(segment: &Segment, number: u8) -> Self {
        let name = format!("two-nodes-{}-{number}", std::process::id());
        testbed::mounts::ensure_bpffs().unwrap();
        let cgroups = testbed::cgroup::Hierarchies::mounted().unwrap();
        let files = segment.files.path().join(&name);
        let config = Config {
            node_name: NodeName::new(format!("node-{number}")),
            address: [198, 18, 0, 100 + number].into(),
            uplinks: vec!["eth0".to_owned()],
            bpffs: PathBuf::from("/sys/fs/bpf").join(&name),
            cgroup: cgroups.unified.join(&name),
            state_dir: files.join("state"),
        };
        fs::create_dir(&config.cgroup).unwrap();
        let host = segment.host(100 + number);
        Self {
            host,
            config,
            pod: files.join("netns"),
        }
    }

    fn agent<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce(Config) -> F + Send) -> T {
        let life = self.host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(work(self.config.clone()))
        });
        life.unwrap()
    }

    /// One life of the agent: long enough to connect the pod, apply the state and find the ways.
    fn bring_up(&self, number: u8) {
        self.agent(async |config| {
            let dataplane = Dataplane::open(config).await.unwrap();
            let range = format!("10.244.{number}.0/24").parse().unwrap();
            dataplane.set_pod_cidr(range).await.unwrap();
            let address = dataplane.attach_pod("pod", &self.pod).await.unwrap();
            assert_eq!(address, IpAddr::from([10, 244, number, 1]));
            let whole = Arc::new(Changes::whole(state()));
            dataplane.apply(whole, Generation(1)).await.unwrap();
            let deadline = Deadline::seconds(30);
            let resolved = || {
                let nodes = dataplane.view("nodes", &json!({})).unwrap();
                nodes
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|node| node["resolved"] == true)
            };
            while !resolved() {
                assert!(
                    !deadline.has_passed(),
                    "the other node's address is not found"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    /// What was dropped, by reason.
    fn drops(&self) -> Vec<(String, u64)> {
        let view = self.agent(async |config| {
            let dataplane = Dataplane::open(config).await.unwrap();
            dataplane.view("drops", &json!({})).unwrap()
        });
        let rows = view.as_array().unwrap().iter();
        rows.filter_map(|row| Some((row["reason"].as_str()?.to_owned(), row["packets"].as_u64()?)))
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }

    /// Answers every connection to the pod with the pod's address and the client's.
    fn serve(&self) {
        let pod = NetNsHandle::open(&self.pod).unwrap();
        let listener = pod
            .run(|| TcpListener::bind("0.0.0.0:8080").unwrap())
            .unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, client)) = listener.accept() {
                let own = stream.local_addr().unwrap();
                // A client that went away is its own affair.
                let _ = write!(stream, "{} {}", own.ip(), client.ip());
            }
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.agent(async |config| Dataplane::destroy(&config).await);
        let _ = fs::remove_dir(&self.config.cgroup);
    }
}

fn state() -> DataplaneState {
    let frontend = |address: [u8; 4], scope: FrontendScope| Frontend {
        address: address.to_vec().into(),
        port: 80,
        scope: scope.into(),
    };
    DataplaneState {
        parameters: Some(Parameters {
            hash_seed: (0..16).collect(),
            cluster_cidrs: vec!["10.244.0.0/16".to_owned()],
            vxlan_port: 4789,
        }),
        services: vec![Service {
            id: 1,
            namespace: "demo".to_owned(),
            name: "hello".to_owned(),
            port_name: "http".to_owned(),
            protocol: Protocol::Tcp.into(),
            vpc: 0,
            frontends: vec![
                frontend(VIP, FrontendScope::External),
                frontend([10, 96, 0, 1], FrontendScope::Cluster),
            ],
            backends: (1..=2)
                .map(|node| Backend {
                    id: node,
                    address: vec![10, 244, node as u8, 1].into(),
                    port: 8080,
                    node: format!("node-{node}"),
                    weight: 1,
                    state: BackendState::Active.into(),
                    name: format!("pod-{node}"),
                })
                .collect(),
            scheduler: "maglev".to_owned(),
            forwarding: "auto".to_owned(),
            ..Service::default()
        }],
        nodes: (1..=2)
            .map(|id| NodeAddress {
                name: format!("node-{id}"),
                id,
                address: vec![198, 18, 0, 100 + id as u8].into(),
                ..NodeAddress::default()
            })
            .collect(),
        routes: (1..=2)
            .map(|id| Route {
                key: Some(RouteKey {
                    vpc: 0,
                    prefix: format!("10.244.{id}.0/24"),
                }),
                node: format!("node-{id}"),
            })
            .collect(),
        announcements: Vec::new(),
    }
}

/// Connects from a namespace, and gives what the pod answered: its own address, and the client's.
fn ask(from: &NetNsHandle, to: SocketAddr) -> Result<(String, String), std::io::Error> {
    let asked = from.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asked.unwrap().map(|answer: String| {
        let (pod, client) = answer.split_once(' ').expect("two addresses");
        (pod.to_owned(), client.to_owned())
    })
}

#[test]
fn client_of_a_vip_reaches_pods_on_both_nodes_by_its_own_address() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let nodes = [1, 2].map(|number| Node::new(&segment, number));
    let client = segment.host(CLIENT[3]);
    client
        .ip("route add 198.18.100.0/24 via 198.18.0.101")
        .unwrap();
    // Agents come and go one after the other; what they leave in the kernel does the rest.
    for (number, node) in (1..).zip(&nodes) {
        node.bring_up(number);
        node.serve();
    }
    let mut answered = BTreeSet::new();
    for attempt in 0..40 {
        let (pod, seen) = ask(&client, (VIP, 80).into()).unwrap_or_else(|error| {
            let drops = nodes.each_ref().map(Node::drops);
            panic!("connection {attempt}, after {answered:?}: {error}; drops {drops:?}")
        });
        assert_eq!(seen, IpAddr::from(CLIENT).to_string());
        answered.insert(pod);
    }
    assert_eq!(answered.len(), 2, "{answered:?}");
}

#[test]
fn pods_of_two_nodes_reach_each_other_and_the_outside() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let nodes = [1, 2].map(|number| Node::new(&segment, number));
    let client = segment.host(CLIENT[3]);
    for (number, node) in (1..).zip(&nodes) {
        node.bring_up(number);
        node.serve();
    }
    let pod = NetNsHandle::open(&nodes[0].pod).unwrap();
    let (_, seen) = ask(&pod, ([10, 244, 2, 1], 8080).into()).unwrap();
    assert_eq!(seen, "10.244.1.1", "pods see each other's own addresses");
    let listener = client
        .run(|| TcpListener::bind("0.0.0.0:8080").unwrap())
        .unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let _ = write!(stream, "client {}", from.ip());
        }
    });
    let (_, seen) = ask(&pod, (CLIENT, 8080).into()).unwrap();
    assert_eq!(seen, "198.18.0.101", "the outside sees the node's address");
}
