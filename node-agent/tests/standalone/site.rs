//! Hosts made of namespaces: a client, a balancer and two servers on one segment, or the servers on one
//! of their own behind the balancer.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fairlead_dataplane::object;
use nix::sys::signal::Signal;
use testbed::{Deadline, Launch, NetNs, ProcessId, skip_without_programs};

use crate::client::Conversation;
use crate::server::Server;

pub(crate) const BALANCER: u8 = 11;
pub(crate) const CLIENT: u8 = 50;
pub(crate) const SERVERS: [u8; 2] = [21, 22];
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The last part of the VIPs' addresses.
const VIP: u8 = 200;

/// True, after printing why, when programs cannot be loaded. In CI that is a failure.
pub(crate) fn skip() -> bool {
    skip_without_programs(object::embedded().is_ok())
}

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The host of this number on a segment.
    pub(crate) fn host_on(self, segment: u8, number: u8) -> IpAddr {
        let text = match self {
            Self::V4 => format!("198.18.{segment}.{number}"),
            Self::V6 => format!("2001:db8:{segment}::{number}"),
        };
        text.parse().unwrap()
    }

    /// The host of this number on the client's segment.
    pub(crate) fn host(self, number: u8) -> IpAddr {
        self.host_on(0, number)
    }

    pub(crate) fn vip(self) -> IpAddr {
        self.host(VIP)
    }
}

/// Hosts on a switch: a client, a balancer, two servers.
pub(crate) struct Site {
    switch: NetNs,
    pub(crate) client: NetNs,
    balancer: NetNs,
    pub(crate) servers: [Server; 2],
    /// The servers' segment; the client's is 0.
    pub(crate) segment: u8,
    files: tempfile::TempDir,
    name: String,
    pub(crate) agent: Option<ProcessId>,
}

impl Site {
    /// All on one segment.
    pub(crate) fn new() -> Self {
        Self::with_servers_on(0)
    }

    /// The balancer between the client's segment and the servers'.
    pub(crate) fn with_servers_behind() -> Self {
        let site = Self::with_servers_on(1);
        attach(&site.switch, &site.balancer, 1, BALANCER);
        for server in &site.servers {
            for family in Family::BOTH {
                let (to, via) = (family.host(BALANCER), family.host_on(1, BALANCER));
                let route = format!("route add {to} via {via}");
                server.host.ip(&route).unwrap();
            }
        }
        site
    }

    fn with_servers_on(segment: u8) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("standalone-{}-{count}", std::process::id());
        testbed::mounts::ensure_bpffs().unwrap();
        let switch = NetNs::unique("lvs-switch").unwrap();
        for bridge in 0..=segment {
            switch
                .ip(&format!("link add br{bridge} type bridge"))
                .unwrap();
            switch.ip(&format!("link set br{bridge} up")).unwrap();
        }
        let host = |segment, number| {
            let host = NetNs::unique("lvs-host").unwrap();
            attach(&switch, &host, segment, number);
            host
        };
        let site = Self {
            client: host(0, CLIENT),
            balancer: host(0, BALANCER),
            servers: SERVERS.map(|number| Server::new(host(segment, number), segment, number)),
            switch,
            segment,
            files: tempfile::tempdir().unwrap(),
            name,
            agent: None,
        };
        fs::create_dir(site.cgroup()).unwrap();
        site
    }

    fn file(&self) -> PathBuf {
        self.files.path().join("services.yaml")
    }

    fn state_dir(&self) -> PathBuf {
        self.files.path().join("state")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }

    fn cgroup(&self) -> PathBuf {
        let cgroups = testbed::cgroup::Hierarchies::mounted().unwrap();
        cgroups.unified.join(&self.name)
    }

    /// Puts a file with these services in the place of the one before, as editors do.
    pub(crate) fn write(&self, services: &str) {
        let [address, other] = Family::BOTH.map(|family| family.host(BALANCER));
        let uplinks = if self.segment == 0 {
            "eth0"
        } else {
            "eth0, eth1"
        };
        let text = format!(
            "node:\n  name: lb\n  address: {address}\n  other_address: {other}\n  uplinks: \
             [{uplinks}]\n  bpffs: /sys/fs/bpf/{}\n  cgroup: {}\n  state_dir: \
             {}\nservices:\n{services}",
            self.name,
            self.cgroup().display(),
            self.state_dir().display(),
        );
        let beside = self.files.path().join("services.yaml.new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, self.file()).unwrap();
    }

    pub(crate) fn launch(&self, arguments: &[&str]) -> Launch {
        let file = self.file();
        let arguments = arguments.iter().map(Into::into);
        Launch::new(env!("CARGO_BIN_EXE_fairlead-agent"))
            .arguments(arguments.chain([file.into_os_string()]))
            .netns(self.balancer.file().unwrap())
    }

    pub(crate) fn start(&mut self) {
        let log = self.files.path().join("log");
        self.agent = Some(self.launch(&["--standalone"]).start(&log).unwrap());
    }

    /// Starts the agent, and waits until its file is in force.
    pub(crate) fn start_and_wait(&mut self) {
        let before = self.times_in_force();
        self.start();
        self.wait_for_log(IN_FORCE, before);
    }

    pub(crate) fn stop(&mut self, signal: Signal) {
        let agent = self.agent.take().unwrap();
        agent.signal(signal).unwrap();
        agent.wait_for_end(Deadline::after(PATIENCE)).unwrap();
    }

    fn times_in_force(&self) -> usize {
        self.log().matches(IN_FORCE).count()
    }

    /// Waits until the agent has logged this once more than `before`.
    pub(crate) fn wait_for_log(&self, text: &str, before: usize) {
        let deadline = Deadline::after(PATIENCE);
        let found = || self.log().matches(text).count() > before;
        let waited = deadline.until(text, found);
        waited.unwrap_or_else(|error| panic!("{error:#}; the log:\n{}", self.log()));
    }

    /// Replaces the file, and waits until it is in force.
    pub(crate) fn reload(&self, services: &str) {
        let before = self.times_in_force();
        self.write(services);
        self.wait_for_log(IN_FORCE, before);
    }

    /// A view as netctl gets it.
    pub(crate) fn view(&self, view: &str) -> serde_json::Value {
        let mut socket = UnixStream::connect(self.state_dir().join("agent.sock")).unwrap();
        let request = format!("GET /{view} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    /// Packets that were dropped for this reason.
    pub(crate) fn drops(&self, reason: &str) -> u64 {
        let rows = self.view("drops");
        let rows = rows.as_array().unwrap().iter();
        rows.filter(|row| row["reason"] == reason)
            .map(|row| row["packets"].as_u64().unwrap())
            .sum()
    }

    /// Connects to the IPv4 VIP's port 80.
    pub(crate) fn connect(&self) -> std::io::Result<Conversation> {
        self.connect_to((Family::V4.vip(), 80).into())
    }

    pub(crate) fn connect_to(&self, to: SocketAddr) -> std::io::Result<Conversation> {
        self.client.run(|| Conversation::open(to)).unwrap()
    }

    /// Waits until somebody answers at the IPv4 VIP's port 80.
    pub(crate) fn wait_for_answer(&self) -> String {
        self.wait_for_answer_at((Family::V4.vip(), 80).into())
    }

    pub(crate) fn wait_for_answer_at(&self, to: SocketAddr) -> String {
        let deadline = Deadline::after(PATIENCE);
        let answer = deadline.wait_for("an answer at the VIP", || Ok(self.connect_to(to).ok()));
        let answer = answer.unwrap_or_else(|error| {
            panic!(
                "{to}: {error:#}; {}; the log:\n{}",
                self.view("drops"),
                self.log()
            )
        });
        answer.server
    }

    /// Who answers a hundred connections: how many each of the servers.
    pub(crate) fn spread(&self) -> [usize; 2] {
        let answers: Vec<String> = (0..100).map(|_| self.connect().unwrap().server).collect();
        SERVERS.map(|server| {
            let name = format!("server {server}");
            answers.iter().filter(|answer| **answer == name).count()
        })
    }
}

const IN_FORCE: &str = "the file is in force";

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            let _ = agent.signal(Signal::SIGKILL);
            let _ = agent.wait_for_end(Deadline::after(PATIENCE));
        }
        let cleanup = self.launch(&["cleanup", "--standalone"]).command();
        let _ = cleanup.map(|mut command| command.output());
        let _ = fs::remove_dir(self.cgroup());
    }
}

/// Gives a host an interface on a segment of the switch, called as the segment is numbered.
fn attach(switch: &NetNs, host: &NetNs, segment: u8, number: u8) {
    let (port, device) = (format!("port{segment}-{number}"), device(host));
    switch
        .ip(&format!(
            "link add {port} type veth peer name {device} netns {}",
            host.name()
        ))
        .unwrap();
    switch.make_wire_like(&port).unwrap();
    switch.take_xdp_frames(&port).unwrap();
    switch
        .ip(&format!("link set {port} master br{segment} up"))
        .unwrap();
    host.make_wire_like(&device).unwrap();
    for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
        let own = family.host_on(segment, number);
        host.ip(&format!("address add {own}/{length} dev {device} nodad"))
            .unwrap();
    }
    host.ip(&format!("link set {device} up")).unwrap();
    for device in ["all", &device] {
        host.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")
            .unwrap();
    }
}

/// The name of a host's next interface.
fn device(host: &NetNs) -> String {
    let links = host.ip("-oneline link show").unwrap();
    let count = links.lines().filter(|line| line.contains(": eth")).count();
    format!("eth{count}")
}
