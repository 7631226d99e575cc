//! A balancer without a control plane between a client and two real servers that have the VIP on
//! their loopback: the real agent, real TCP, hosts made of namespaces.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fairlead_dataplane::object;
use nix::sys::signal::Signal;
use testbed::{Deadline, Launch, NetNs, ProcessId, skip_without_root};

const VIP: [u8; 4] = [198, 18, 0, 200];
const BALANCER: u8 = 11;
const CLIENT: u8 = 50;
const SERVERS: [u8; 2] = [21, 22];
const PATIENCE: Duration = Duration::from_secs(60);

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

/// Hosts on a switch: a client, a balancer, two servers.
struct Site {
    _switch: NetNs,
    client: NetNs,
    balancer: NetNs,
    servers: [Server; 2],
    files: tempfile::TempDir,
    name: String,
    agent: Option<ProcessId>,
}

impl Site {
    fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("standalone-{}-{count}", std::process::id());
        testbed::mounts::ensure_bpffs().unwrap();
        let switch = NetNs::unique("lvs-switch").unwrap();
        switch.ip("link add br0 type bridge").unwrap();
        switch.ip("link set br0 up").unwrap();
        let client = host(&switch, CLIENT);
        let balancer = host(&switch, BALANCER);
        let servers = SERVERS.map(|number| Server::new(host(&switch, number), number));
        let site = Self {
            _switch: switch,
            client,
            balancer,
            servers,
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

    fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }

    fn cgroup(&self) -> PathBuf {
        let cgroups = testbed::cgroup::Hierarchies::mounted().unwrap();
        cgroups.unified.join(&self.name)
    }

    /// Puts a file with these services in the place of the one before, as editors do.
    fn write(&self, services: &str) {
        let text = format!(
            "node:\n  name: lb\n  address: 198.18.0.{BALANCER}\n  uplinks: [eth0]\n  bpffs: \
             /sys/fs/bpf/{}\n  cgroup: {}\n  state_dir: {}\nservices:\n{services}",
            self.name,
            self.cgroup().display(),
            self.state_dir().display(),
        );
        let beside = self.files.path().join("services.yaml.new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, self.file()).unwrap();
    }

    fn launch(&self, arguments: &[&str]) -> Launch {
        let file = self.file();
        let arguments = arguments.iter().map(Into::into);
        Launch::new(env!("CARGO_BIN_EXE_fairlead-agent"))
            .arguments(arguments.chain([file.into_os_string()]))
            .netns(self.balancer.file().unwrap())
    }

    fn start(&mut self) {
        let log = self.files.path().join("log");
        self.agent = Some(self.launch(&["--standalone"]).start(&log).unwrap());
    }

    fn stop(&mut self, signal: Signal) {
        let agent = self.agent.take().unwrap();
        agent.signal(signal).unwrap();
        agent.wait_for_end(Deadline::after(PATIENCE)).unwrap();
    }

    /// Waits until the agent has logged this once more than `before`.
    fn wait_for_log(&self, text: &str, before: usize) {
        let deadline = Deadline::after(PATIENCE);
        let found = || self.log().matches(text).count() > before;
        let waited = deadline.until(text, found);
        waited.unwrap_or_else(|error| panic!("{error:#}; the log:\n{}", self.log()));
    }

    /// Replaces the file, and waits until it is in force.
    fn reload(&self, services: &str) {
        let before = self.log().matches("the file is in force").count();
        self.write(services);
        self.wait_for_log("the file is in force", before);
    }

    /// A view as netctl gets it.
    fn view(&self, view: &str) -> serde_json::Value {
        let mut socket = UnixStream::connect(self.state_dir().join("agent.sock")).unwrap();
        let request = format!("GET /{view} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    fn connect(&self) -> std::io::Result<Conversation> {
        self.client.run(Conversation::open).unwrap()
    }

    /// Waits until somebody answers at the VIP.
    fn wait_for_answer(&self) -> String {
        let deadline = Deadline::after(PATIENCE);
        let answer = deadline.wait_for("an answer at the VIP", || Ok(self.connect().ok()));
        let answer = answer.unwrap_or_else(|error| panic!("{error:#}; the log:\n{}", self.log()));
        answer.server
    }

    /// Who answers a hundred connections: how many each of the servers.
    fn spread(&self) -> [usize; 2] {
        let answers: Vec<String> = (0..100).map(|_| self.connect().unwrap().server).collect();
        SERVERS.map(|server| {
            let name = format!("server {server}");
            answers.iter().filter(|answer| **answer == name).count()
        })
    }
}

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

/// A host on the switch at 198.18.0.`number`.
fn host(switch: &NetNs, number: u8) -> NetNs {
    let host = NetNs::unique("lvs-host").unwrap();
    let port = format!("port{number}");
    switch
        .ip(&format!(
            "link add {port} type veth peer name eth0 netns {}",
            host.name()
        ))
        .unwrap();
    switch.make_wire_like(&port).unwrap();
    switch.take_xdp_frames(&port).unwrap();
    switch
        .ip(&format!("link set {port} master br0 up"))
        .unwrap();
    host.make_wire_like("eth0").unwrap();
    host.ip(&format!("address add 198.18.0.{number}/24 dev eth0"))
        .unwrap();
    host.ip("link set eth0 up").unwrap();
    for device in ["all", "eth0"] {
        host.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")
            .unwrap();
    }
    host
}

/// A real server, as LVS-DR wants it: it has the VIP, and does not answer ARP for it.
struct Server {
    host: NetNs,
    number: u8,
}

impl Server {
    fn new(host: NetNs, number: u8) -> Self {
        let vip = IpAddr::from(VIP);
        for (setting, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            host.sysctl(&format!("net.ipv4.conf.all.{setting}"), value)
                .unwrap();
        }
        host.ip(&format!("address add {vip}/32 dev lo")).unwrap();
        Self { host, number }
    }

    /// Serves until the value is dropped: says its name, then repeats what it hears.
    fn serve(&self) -> Serving {
        let listener = self.host.run(|| TcpListener::bind("0.0.0.0:80")).unwrap();
        let listener = listener.unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let name = format!("server {}\n", self.number);
        let over = Arc::clone(&is_over);
        let address = SocketAddr::from(([198, 18, 0, self.number], 80));
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let name = name.clone();
                thread::spawn(move || repeat(stream, &name));
            }
        });
        Serving {
            is_over,
            wake: Box::new({
                let handle = testbed::NetNsHandle::open(self.host.path()).unwrap();
                move || drop(handle.run(|| TcpStream::connect(address)))
            }),
            thread: Some(thread),
        }
    }
}

fn repeat(mut stream: TcpStream, name: &str) -> Option<()> {
    stream.write_all(name.as_bytes()).ok()?;
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    while let Some(Ok(line)) = lines.next() {
        stream.write_all(format!("{line}\n").as_bytes()).ok()?;
    }
    Some(())
}

struct Serving {
    is_over: Arc<AtomicBool>,
    wake: Box<dyn Fn()>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        (self.wake)();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A connection to the VIP, and who answered.
struct Conversation {
    stream: BufReader<TcpStream>,
    server: String,
}

impl Conversation {
    fn open() -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&(VIP, 80).into(), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut conversation = Self {
            stream: BufReader::new(stream),
            server: String::new(),
        };
        conversation.server = conversation.hear()?;
        Ok(conversation)
    }

    fn hear(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Says something and hears it again.
    fn ask(&mut self) -> std::io::Result<()> {
        self.stream.get_mut().write_all(b"hello\n")?;
        self.hear().map(drop)
    }
}

/// Load of short connections, one after the other, and of one that stays: what went wrong.
struct Load {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<(u32, Vec<String>)>,
}

impl Load {
    fn start(site: &Site) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let client = testbed::NetNsHandle::open(site.client.path()).unwrap();
        let thread = thread::spawn(move || {
            let load = client.run(|| {
                let mut failures = Vec::new();
                let mut count = 0;
                let mut long = Conversation::open().unwrap();
                while !over.load(Ordering::Relaxed) {
                    count += 1;
                    if let Err(error) = Conversation::open() {
                        failures.push(format!("connection {count}: {error}"));
                    }
                    if let Err(error) = long.ask() {
                        failures.push(format!("the long one at {count}: {error}"));
                        return (count, failures);
                    }
                }
                (count, failures)
            });
            load.unwrap()
        });
        Self { is_over, thread }
    }

    /// How many connections there were; none may have failed.
    fn finish(self, site: &Site) -> u32 {
        self.is_over.store(true, Ordering::Relaxed);
        let (count, failures) = self.thread.join().unwrap();
        let drops = site.view("drops");
        assert!(
            failures.is_empty(),
            "{count} connections, {failures:?}; {drops}; the log:\n{}",
            site.log()
        );
        count
    }
}

/// The service, with these weights of its servers, and what else is said of it.
fn web(weights: [u16; 2], more: &str) -> String {
    let vip = IpAddr::from(VIP);
    let [first, second] = SERVERS;
    format!(
        "- name: web\n  vips: [{vip}]\n  ports: [80]\n  forwarding: dr\n  announce: true\n{more}  \
         backends:\n  - {{address: 198.18.0.{first}, weight: {}}}\n  - {{address: \
         198.18.0.{second}, weight: {}}}\n",
        weights[0], weights[1]
    )
}

const OTHER: &str = "- {name: other, vips: [198.18.0.201], ports: [80, 81], backends: [{address: \
                     198.18.0.21}]}\n";

#[test]
fn reloads_and_restarts_under_load_lose_no_connection() {
    if skip() {
        return;
    }
    let mut site = Site::new();
    let _serving = site.servers.each_ref().map(Server::serve);
    site.write(&web([1, 1], ""));
    site.start();
    site.wait_for_answer();
    let spread = site.spread();
    assert!(spread.iter().all(|count| *count > 20), "{spread:?}");

    let load = Load::start(&site);
    for round in 0..5 {
        site.reload(&(web([1, 1], "") + OTHER));
        site.reload(&web([1 + round, 1], "  timeouts: {established: 60s}\n"));
    }
    assert!(load.finish(&site) > 10);

    let load = Load::start(&site);
    site.stop(Signal::SIGKILL);
    site.connect().unwrap();
    let before = site.log().matches("the file is in force").count();
    site.start();
    site.wait_for_log("the file is in force", before);
    assert!(load.finish(&site) > 10);
    site.stop(Signal::SIGTERM);
    site.connect().unwrap();

    let cleanup = site.launch(&["cleanup", "--standalone"]).command();
    assert!(cleanup.unwrap().output().unwrap().status.success());
    assert!(site.connect().is_err(), "nothing is left that forwards");
}

#[test]
fn bad_file_is_refused_by_line_and_the_one_before_stays_in_force() {
    if skip() {
        return;
    }
    let mut site = Site::new();
    let _serving = site.servers.each_ref().map(Server::serve);
    site.write(&web([1, 0], ""));
    site.start();
    assert_eq!(site.wait_for_answer(), "server 21");
    site.write(&web([1, 0], "  scheduler: fastest\n"));
    site.wait_for_log(
        "services.yaml:14: services[0].scheduler: unknown variant",
        0,
    );
    site.write(
        &(web([0, 1], "") + "- {name: web, vips: [198.18.0.9], ports: [1], backends: []}\n"),
    );
    site.wait_for_log("another service is called", 0);
    site.write("- {name: [\n");
    site.wait_for_log("services.yaml:9: services: unclosed bracket", 0);
    assert_eq!(site.spread(), [100, 0]);
    assert!(site.agent.unwrap().is_running());
    site.reload(&web([0, 1], ""));
    assert_eq!(site.spread(), [0, 100]);
}

#[test]
fn server_that_does_not_answer_gets_no_connections_until_it_does() {
    if skip() {
        return;
    }
    let mut site = Site::new();
    let health = "  health: {check: tcp, interval: 100ms, timeout: 500ms, rise: 2, fall: 2}\n";
    let _first = site.servers[0].serve();
    let second = site.servers[1].serve();
    site.write(&web([1, 1], health));
    site.start();
    site.wait_for_answer();
    assert!(site.spread().iter().all(|count| *count > 20));
    drop(second);
    site.wait_for_log("a server does not answer", 0);
    let states = || {
        let rows = site.view("backends");
        let rows = rows.as_array().unwrap().iter();
        let mut states: Vec<(u64, String)> = rows
            .map(|row| (row["slots"].as_u64().unwrap(), row["state"].to_string()))
            .collect();
        states.sort();
        states
    };
    let deadline = Deadline::after(PATIENCE);
    let is_out = || states()[0] == (0, "\"unhealthy\"".to_owned());
    deadline.until("the server is out", is_out).unwrap();
    assert_eq!(site.spread(), [100, 0]);
    // Known to the next agent too.
    site.agent.unwrap().signal(Signal::SIGHUP).unwrap();
    let _second = site.servers[1].serve();
    site.wait_for_log("a server answers again", 0);
    deadline
        .until("the server is in", || states()[0].0 > 0)
        .unwrap();
    assert!(site.spread().iter().all(|count| *count > 20));
}
