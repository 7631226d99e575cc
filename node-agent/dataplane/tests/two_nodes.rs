//! Two nodes with real dataplanes on one segment, a client beside them, and TCP through it all, over
//! IPv4 and IPv6.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fairlead_api::{Generation, NodeName};
use fairlead_dataplane::{Changes, Config, Dataplane, FlowLimits, object};
use fairlead_proto::node::{
    Backend, BackendState, DataplaneState, Frontend, FrontendScope, NodeAddress, Parameters,
    Protocol, Route, RouteKey, Service,
};
use serde_json::{Value, json};
use testbed::{Deadline, NetNs, NetNsHandle, skip_without_root};

/// The number of the client's host.
const CLIENT: u8 = 10;

/// More than the buffers on the way hold, so that there are packets as large as they may be.
const PAYLOAD: usize = 1 << 18;

/// Which IP, of what goes through and of what it is encapsulated in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

use Family::{V4, V6};

impl Family {
    const BOTH: [Self; 2] = [V4, V6];

    fn pick<T>(self, v4: T, v6: T) -> T {
        match self {
            V4 => v4,
            V6 => v6,
        }
    }

    /// Of the host of this number, on the segment.
    fn host(self, number: u8) -> IpAddr {
        self.pick(
            IpAddr::from([198, 18, 0, number]),
            address(&format!("2001:db8::{number}")),
        )
    }

    fn pod_range(self, node: u8) -> String {
        self.pick(
            format!("10.244.{node}.0/24"),
            format!("2001:db8:a:{node}::/64"),
        )
    }

    fn pod(self, node: u8) -> IpAddr {
        self.pick(
            IpAddr::from([10, 244, node, 1]),
            address(&format!("2001:db8:a:{node}::1")),
        )
    }

    fn vip(self) -> IpAddr {
        address(self.pick("198.18.100.1", "2001:db8:100::1"))
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

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

    /// Lets the switch drop frames whose source is a node's mark and no port's own, or lets it no more.
    fn guard_ports(&self, guarded: bool) {
        if !guarded {
            self.nft("delete table bridge guard");
            return;
        }
        self.nft("add table bridge guard");
        self.nft("add chain bridge guard forward { type filter hook forward priority 0; }");
        self.nft(
            "add rule bridge guard forward \
             ether saddr & ff:ff:00:00:00:00 == 02:fb:00:00:00:00 counter drop",
        );
    }

    /// How many frames it has dropped for that.
    fn guarded(&self) -> u64 {
        let rules = self.nft("list table bridge guard");
        let (_, counted) = rules.split_once("counter packets ").unwrap();
        let packets = counted.split(' ').next().unwrap();
        packets.parse().unwrap()
    }

    fn nft(&self, command: &str) -> String {
        let mut nft = self.switch.command("nft").unwrap();
        let output = nft.arg(command).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "nft {command}: {errors}");
        String::from_utf8(output.stdout).unwrap()
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
        for (family, length) in [(V4, 24), (V6, 64)] {
            let own = family.host(number);
            host.ip(&format!("address add {own}/{length} dev eth0 nodad"))
                .unwrap();
        }
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
    underlay: Family,
}

impl Node {
    fn new(segment: &Segment, number: u8, underlay: Family) -> Self {
        let name = format!("two-nodes-{}-{number}", std::process::id());
        testbed::mounts::ensure_bpffs().unwrap();
        let cgroups = testbed::cgroup::Hierarchies::mounted().unwrap();
        let files = segment.files.path().join(&name);
        let config = Config {
            node_name: NodeName::new(format!("node-{number}")),
            address: underlay.host(100 + number),
            other_address: Some(underlay.pick(V6, V4).host(100 + number)),
            uplinks: vec!["eth0".to_owned()],
            bpffs: PathBuf::from("/sys/fs/bpf").join(&name),
            cgroup: cgroups.unified.join(&name),
            state_dir: files.join("state"),
            flow_limits: FlowLimits::default(),
        };
        fs::create_dir(&config.cgroup).unwrap();
        let host = segment.host(100 + number);
        for family in Family::BOTH {
            let router = family.host(CLIENT);
            host.ip(&format!("route add default via {router}")).unwrap();
        }
        Self {
            host,
            config,
            pod: files.join("netns"),
            underlay,
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
            let ranges = Family::BOTH.map(|family| family.pod_range(number).parse().unwrap());
            dataplane.set_pod_cidrs(ranges.to_vec()).await.unwrap();
            let addresses = dataplane.attach_pod("pod", &self.pod).await.unwrap();
            assert_eq!(addresses, Family::BOTH.map(|family| family.pod(number)));
            let whole = Arc::new(Changes::whole(state(self.underlay)));
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
            let found = deadline.until_async("the other node is found", async || resolved());
            found.await.unwrap();
        });
    }

    /// Another life of the agent, which changes the state.
    fn apply(&self, state: &DataplaneState, generation: u64) {
        self.agent(async |config| {
            let dataplane = Dataplane::open(config).await.unwrap();
            let whole = Arc::new(Changes::whole(state.clone()));
            dataplane
                .apply(whole, Generation(generation))
                .await
                .unwrap();
            dataplane.settle().await.unwrap();
        });
    }

    /// Another life of the agent, which lasts until frames are passed on to the other node or, unless
    /// `wanted`, are not any more. What netctl says of why.
    fn until_passed_on(&self, wanted: bool) -> String {
        self.agent(async |config| {
            let dataplane = Dataplane::open(config).await.unwrap();
            let whole = Arc::new(Changes::whole(state(self.underlay)));
            dataplane.apply(whole, Generation(1)).await.unwrap();
            let found = async || passed_on(&dataplane) == if wanted { "dr" } else { "tun" };
            let deadline = Deadline::seconds(60);
            deadline.until_async("the mode", found).await.unwrap();
            let backends = dataplane.view("backends", &json!({})).unwrap();
            elsewhere(&backends)["modeReason"]
                .as_str()
                .unwrap()
                .to_owned()
        })
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

    /// Answers every connection to the pod.
    fn serve(&self) {
        serve(&NetNsHandle::open(&self.pod).unwrap());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.agent(async |config| Dataplane::destroy(&config).await);
        let _ = fs::remove_dir(&self.config.cgroup);
    }
}

/// The first backend of a view that is on another node.
fn elsewhere(backends: &Value) -> &Value {
    let mut rows = backends.as_array().unwrap().iter();
    rows.find(|row| row["mode"] != "local").unwrap()
}

/// How packets for backends on the other node go.
fn passed_on(dataplane: &Dataplane) -> String {
    let backends = dataplane.view("backends", &json!({})).unwrap();
    elsewhere(&backends)["mode"].as_str().unwrap().to_owned()
}

/// Answers every connection in a namespace with the address it was made to, the one it came from,
/// and a payload.
fn serve(on: &NetNsHandle) {
    let listener = on.run(|| TcpListener::bind("[::]:8080").unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, client)) = listener.accept() {
            let own = stream.local_addr().unwrap().ip().to_canonical();
            let client = client.ip().to_canonical();
            // A client that went away is its own affair.
            let _ =
                write!(stream, "{own} {client} ").and_then(|()| stream.write_all(&[b'x'; PAYLOAD]));
        }
    });
}

fn state(underlay: Family) -> DataplaneState {
    let frontend = |address: IpAddr, scope: FrontendScope| Frontend {
        address: octets(address).into(),
        port: 80,
        scope: scope.into(),
    };
    let service = |(id, protocol, family): (u32, Protocol, Family)| Service {
        id,
        namespace: "demo".to_owned(),
        name: "hello".to_owned(),
        port_name: "http".to_owned(),
        protocol: protocol.into(),
        vpc: 0,
        frontends: vec![
            frontend(family.vip(), FrontendScope::External),
            frontend(
                address(family.pick("10.96.0.1", "2001:db8:b::1")),
                FrontendScope::Cluster,
            ),
        ],
        backends: (1..=2)
            .map(|node| Backend {
                id: 10 * id + u32::from(node),
                address: octets(family.pod(node)).into(),
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
    };
    let node = |number: u8| NodeAddress {
        name: format!("node-{number}"),
        id: number.into(),
        address: octets(underlay.host(100 + number)).into(),
        other_address: octets(underlay.pick(V6, V4).host(100 + number)).into(),
        silent: false,
    };
    let routes = (1..=2).flat_map(|number| {
        Family::BOTH.map(|family| Route {
            key: Some(RouteKey {
                vpc: 0,
                prefix: family.pod_range(number),
            }),
            node: format!("node-{number}"),
        })
    });
    DataplaneState {
        parameters: Some(Parameters {
            hash_seed: (0..16).collect(),
            cluster_cidrs: vec!["10.244.0.0/16".to_owned(), "2001:db8:a::/48".to_owned()],
            vxlan_port: 4789,
        }),
        services: vec![
            service((1, Protocol::Tcp, V4)),
            service((2, Protocol::Tcp, V6)),
            service((3, Protocol::Udp, V4)),
            service((4, Protocol::Udp, V6)),
        ],
        nodes: (1..=2).map(node).collect(),
        routes: routes.collect(),
        announcements: Vec::new(),
    }
}

/// Connects from a namespace, and gives what was answered: the server's own address, and the
/// client's.
fn ask(from: &NetNsHandle, to: IpAddr, port: u16) -> Result<(IpAddr, IpAddr), std::io::Error> {
    let asked = from.run(|| {
        let to = SocketAddr::from((to, port));
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asked.unwrap().map(|answer: String| {
        let words: Vec<&str> = answer.split(' ').collect();
        let [server, client, payload] = words[..] else {
            panic!("an answer of {} words", words.len());
        };
        assert_eq!(payload.len(), PAYLOAD);
        (address(server), address(client))
    })
}

/// Answers every datagram in a namespace with the address that answers, the one it came from, and what
/// it held.
fn echo_datagrams(on: &NetNsHandle, own: IpAddr) {
    let socket = on.run(|| UdpSocket::bind((own, 8080)).unwrap()).unwrap();
    std::thread::spawn(move || {
        let mut data = vec![0; 1 << 16];
        while let Ok((length, client)) = socket.recv_from(&mut data) {
            let greeting = format!("{own} {} ", client.ip());
            // A client that went away is its own affair.
            let _ = socket.send_to(&[greeting.as_bytes(), &data[..length]].concat(), client);
        }
    });
}

/// Answers every line of every connection in a namespace with the address it was made to.
fn echo(on: &NetNsHandle) {
    let listener = on.run(|| TcpListener::bind("[::]:8080").unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || answer_lines(stream));
        }
    });
}

fn answer_lines(stream: TcpStream) {
    let own = stream.local_addr().unwrap().ip().to_canonical();
    let mut answers = stream.try_clone().unwrap();
    // A client that went away is its own affair.
    for _ in BufReader::new(stream).lines().map_while(Result::ok) {
        if writeln!(answers, "{own}").is_err() {
            return;
        }
    }
}

/// A connection to a VIP that stays, and the pod that it is with.
struct Kept {
    stream: BufReader<TcpStream>,
    pod: IpAddr,
}

impl Kept {
    fn open(from: &NetNsHandle, vip: IpAddr) -> Self {
        let connected = from.run(|| {
            let stream = TcpStream::connect_timeout(&(vip, 80).into(), Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok::<_, std::io::Error>(BufReader::new(stream))
        });
        let mut kept = Self {
            stream: connected.unwrap().unwrap(),
            pod: vip,
        };
        kept.pod = kept.ask().unwrap();
        kept
    }

    /// Which pod answers.
    fn ask(&mut self) -> std::io::Result<IpAddr> {
        writeln!(self.stream.get_mut(), "who?")?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        let answer = answer.trim().parse();
        answer.map_err(|_| std::io::ErrorKind::UnexpectedEof.into())
    }
}

#[test]
fn connections_stay_with_their_pods_while_backends_drain_and_come_back() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let nodes = [1, 2].map(|number| Node::new(&segment, number, V4));
    let client = segment.host(CLIENT);
    for (number, node) in (1..).zip(&nodes) {
        node.bring_up(number);
        echo(&NetNsHandle::open(&node.pod).unwrap());
    }
    let router = V4.host(101);
    client
        .ip(&format!("route add 198.18.100.0/24 via {router}"))
        .unwrap();
    let pods = [1, 2].map(|node| V4.pod(node));
    let mut kept: Vec<Kept> = (0..20).map(|_| Kept::open(&client, V4.vip())).collect();
    // What the two backends become, and who gets new connections then.
    let (active, draining) = (BackendState::Active, BackendState::Draining);
    let steps: [([BackendState; 2], &[IpAddr]); 4] = [
        ([draining, active], &pods[1..]),
        ([active, active], &pods),
        ([draining, draining], &[]),
        ([active, active], &pods),
    ];
    for (generation, (backends, takers)) in (2..).zip(steps) {
        let mut state = state(V4);
        for (backend, wanted) in state.services[0].backends.iter_mut().zip(backends) {
            backend.state = wanted.into();
        }
        for node in &nodes {
            node.apply(&state, generation);
            // Also while one node knows of the change and the other does not.
            for (number, one) in kept.iter_mut().enumerate() {
                let answered = one.ask();
                assert_eq!(
                    answered.as_ref().ok(),
                    Some(&one.pod),
                    "connection {number} in {generation}: {answered:?}; drops {:?}",
                    nodes.each_ref().map(Node::drops)
                );
            }
        }
        let count = if takers.is_empty() { 0 } else { 20 };
        for _ in 0..count {
            let new = Kept::open(&client, V4.vip());
            assert!(takers.contains(&new.pod), "{} in {generation}", new.pod);
            kept.push(new);
        }
    }
    for pod in pods {
        assert!(
            kept.iter().any(|one| one.pod == pod),
            "nobody was with {pod}"
        );
    }
}

/// Two nodes that reach each other over `underlay`, and a client.
fn cluster(segment: &Segment, underlay: Family) -> ([Node; 2], NetNs) {
    let nodes = [1, 2].map(|number| Node::new(segment, number, underlay));
    let client = segment.host(CLIENT);
    // Agents come and go one after the other; what they leave in the kernel does the rest.
    for (number, node) in (1..).zip(&nodes) {
        node.bring_up(number);
        node.serve();
    }
    nodes[0].until_passed_on(true);
    for (family, vips) in [(V4, "198.18.100.0/24"), (V6, "2001:db8:100::/64")] {
        let router = family.host(101);
        client
            .ip(&format!("route add {vips} via {router}"))
            .unwrap();
    }
    (nodes, client)
}

/// Whether the client reaches both pods by each VIP, and is seen as itself.
fn check_vips(nodes: &[Node; 2], client: &NetNs) {
    for family in Family::BOTH {
        let mut answered = BTreeSet::new();
        for attempt in 0..40 {
            let (pod, seen) = ask(client, family.vip(), 80).unwrap_or_else(|error| {
                let drops = nodes.each_ref().map(Node::drops);
                panic!(
                    "{family:?} connection {attempt}, after {answered:?}: {error}; drops {drops:?}"
                )
            });
            assert_eq!(seen, family.host(CLIENT));
            answered.insert(pod);
        }
        assert_eq!(
            answered,
            [1, 2].map(|node| family.pod(node)).into(),
            "{family:?}"
        );
    }
}

/// Whether pods and nodes reach each other by their own addresses.
fn check_pods(nodes: &[Node; 2]) {
    let pod = NetNsHandle::open(&nodes[0].pod).unwrap();
    for family in Family::BOTH {
        let own = family.pod(1);
        for (from, source, to) in [
            (&pod, own, family.pod(2)),
            (&pod, own, family.host(101)),
            (&pod, own, family.host(102)),
            (&nodes[0].host, family.host(101), family.pod(1)),
            (&nodes[0].host, family.host(101), family.pod(2)),
        ] {
            let (_, seen) = ask(from, to, 8080).unwrap_or_else(|error| {
                let drops = nodes.each_ref().map(Node::drops);
                panic!("from {source} to {to}: {error}; drops {drops:?}")
            });
            assert_eq!(seen, source, "to {to}");
        }
    }
    let drops = nodes.each_ref().map(Node::drops);
    assert_eq!(drops, [vec![], vec![]]);
}

#[test]
fn client_of_a_vip_reaches_pods_on_both_nodes_by_its_own_address() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let (nodes, client) = cluster(&segment, V4);
    check_vips(&nodes, &client);
}

#[test]
fn nodes_pass_frames_on_while_nothing_between_them_drops_foreign_sources() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let (nodes, client) = cluster(&segment, V4);
    let reason = nodes[0].until_passed_on(true);
    assert!(reason.starts_with("a probe was answered"), "{reason}");
    check_vips(&nodes, &client);

    segment.guard_ports(true);
    let reason = nodes[0].until_passed_on(false);
    assert!(
        reason.starts_with("no probe has been answered:"),
        "{reason}"
    );
    check_vips(&nodes, &client);
    assert!(segment.guarded() >= 3, "the questions were dropped");

    segment.guard_ports(false);
    nodes[0].until_passed_on(true);
    check_vips(&nodes, &client);
    // An agent that is restarted goes on with what was proved.
    let adopted = nodes[0].agent(async |config| {
        let dataplane = Dataplane::open(config).await.unwrap();
        dataplane.view("nodes", &json!({})).unwrap()
    });
    assert_eq!(adopted[0]["adjacent"], true, "{adopted}");
    let known = adopted[0]["passedOn"].as_str().unwrap();
    assert!(known.starts_with("a probe was answered"), "{known}");
}

#[test]
fn nodes_that_reach_each_other_over_ipv6_carry_both_families() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let (nodes, client) = cluster(&segment, V6);
    nodes.iter().for_each(|node| serve(&node.host));
    check_pods(&nodes);
    check_vips(&nodes, &client);
}

#[test]
fn pods_of_two_nodes_reach_each_other_and_the_outside() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let (nodes, client) = cluster(&segment, V4);
    nodes.iter().for_each(|node| serve(&node.host));
    check_pods(&nodes);

    serve(&client);
    let pod = NetNsHandle::open(&nodes[0].pod).unwrap();
    let (_, seen) = ask(&pod, V4.host(CLIENT), 8080).unwrap();
    assert_eq!(seen, V4.host(101), "the outside sees the node's address");
    // What leads to the pods of a node is the network's to know, as their addresses are its.
    let (range, node) = (V6.pod_range(1), V6.host(101));
    client.ip(&format!("route add {range} via {node}")).unwrap();
    let (_, seen) = ask(&pod, V6.host(CLIENT), 8080).unwrap();
    assert_eq!(seen, V6.pod(1), "in IPv6 it sees the pod's own");
    let (_, seen) = ask(&client, V6.pod(1), 8080).unwrap();
    assert_eq!(seen, V6.host(CLIENT), "and may ask the pod itself");
}

/// Sends a datagram and hears it again: which pod answered, and whom it thought to talk to. Tried until
/// the client's kernel has learned what fits the way.
fn exchange(from: &NetNs, to: SocketAddr, data: &[u8]) -> (IpAddr, IpAddr) {
    let own: SocketAddr = match to {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = from.run(|| UdpSocket::bind(own).unwrap()).unwrap();
    socket.connect(to).unwrap();
    let patience = Some(Duration::from_secs(1));
    socket.set_read_timeout(patience).unwrap();
    let mut answer = vec![0; 1 << 16];
    let asked = Deadline::seconds(30).wait_for("an answer", || {
        let heard = socket.send(data).and_then(|_| socket.recv(&mut answer));
        Ok(heard.ok())
    });
    let answer = &answer[..asked.unwrap()];
    let (greeting, rest) = answer.split_at(answer.len() - data.len());
    assert_eq!(rest, data);
    let words: Vec<&str> = std::str::from_utf8(greeting).unwrap().split(' ').collect();
    (address(words[0]), address(words[1]))
}

#[test]
fn datagrams_of_several_fragments_reach_pods_on_both_nodes_and_come_back_whole() {
    if skip() {
        return;
    }
    let segment = Segment::new();
    let (nodes, client) = cluster(&segment, V4);
    for (number, node) in (1..).zip(&nodes) {
        let pod = NetNsHandle::open(&node.pod).unwrap();
        for family in Family::BOTH {
            echo_datagrams(&pod, family.pod(number));
        }
    }
    let data: Vec<u8> = (0..4_000_u32).map(|byte| (byte % 251) as u8).collect();
    for family in Family::BOTH {
        let mut answered = BTreeSet::new();
        for _ in 0..20 {
            let (pod, seen) = exchange(&client, (family.vip(), 80).into(), &data);
            assert_eq!(seen, family.host(CLIENT));
            answered.insert(pod);
        }
        let pods = [1, 2].map(|node| family.pod(node));
        assert_eq!(answered, pods.into(), "{family:?}");
    }
}
