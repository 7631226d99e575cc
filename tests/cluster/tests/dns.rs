//! Names, asked for with `dig` from pods and from a node: every kind of record, every error, over
//! UDP and TCP, and what changes when the control plane or an agent is gone.

use std::fs;
use std::net::IpAddr;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use cluster_tests::{LARGE, NameServer, Scenario, Step, check_contains, netctl};
use testbed::cluster::{Cluster, Host, PodProcess, Remains, Spec, address};
use testbed::{Deadline, ProcessId, Progress};

#[test]
fn names_are_found_by_pods_whatever_happens_to_the_rest() {
    Scenario::new(Spec::named("dns").nodes(2), STEPS).run();
}

const STEPS: &[Step] = &[
    Step {
        name: "pod_is_told_to_ask_the_clusters_dns_and_finds_it",
        check: pod_asks_kube_dns,
    },
    Step {
        name: "every_record_and_error_over_udp_and_tcp",
        check: every_record,
    },
    Step {
        name: "plain_sockets_connected_or_not_are_answered_from_the_address_they_asked",
        check: plain_sockets,
    },
    Step {
        name: "headless_service_follows_its_pods",
        check: headless_follows,
    },
    Step {
        name: "other_names_are_asked_of_others_and_kept",
        check: others_are_asked,
    },
    Step {
        name: "node_and_strangers",
        check: node_and_strangers,
    },
    Step {
        name: "netctl_shows_what_is_known_and_asked",
        check: netctl_shows,
    },
    Step {
        name: "agent_killed_changes_nothing_and_its_successor_adopts_the_dns",
        check: agent_is_killed,
    },
    Step {
        name: "names_are_answered_without_a_control_plane_also_by_agents_that_restart",
        check: without_control_plane,
    },
];

const SERVER: &str = "10.96.0.10";
const SERVER_V6: &str = "2001:db8:b::a";

const MANIFEST: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: names}
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: names}
spec:
  clusterIP: 10.96.0.77
  ports: [{name: http, port: 80}, {name: talk, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: pods, namespace: hello}
spec:
  clusterIP: None
  selector: {app: hello}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: machines, namespace: names}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: machines-1, namespace: names, labels: {kubernetes.io/service-name: machines}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [192.0.2.11], hostname: first, conditions: {ready: true}}
- {addresses: [192.0.2.12], conditions: {ready: true}}
- {addresses: [192.0.2.13], hostname: third, conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: names}
spec: {type: ExternalName, externalName: www.example.org}
---
apiVersion: v1
kind: Service
metadata: {name: inside, namespace: names}
spec: {type: ExternalName, externalName: plain.names.svc.cluster.local}
"#;

static OUTSIDE: OnceLock<NameServer> = OnceLock::new();

/// Question, and the answer: status, the data of all answers in order.
type Case = (&'static str, &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    (
        "plain.names.svc.cluster.local A",
        "NOERROR",
        &["10.96.0.77"],
    ),
    (
        "PLAIN.Names.SVC.cluster.local A",
        "NOERROR",
        &["10.96.0.77"],
    ),
    ("plain.names.svc.cluster.local AAAA", "NOERROR", &[]),
    ("plain.names.svc.cluster.local MX", "NOERROR", &[]),
    ("none.names.svc.cluster.local A", "NXDOMAIN", &[]),
    ("plain.none.svc.cluster.local A", "NXDOMAIN", &[]),
    ("names.svc.cluster.local A", "NOERROR", &[]),
    ("svc.cluster.local A", "NOERROR", &[]),
    (
        "_http._tcp.plain.names.svc.cluster.local SRV",
        "NOERROR",
        &["0 100 80 plain.names.svc.cluster.local."],
    ),
    (
        "_talk._udp.plain.names.svc.cluster.local SRV",
        "NOERROR",
        &["0 100 53 plain.names.svc.cluster.local."],
    ),
    (
        "_talk._tcp.plain.names.svc.cluster.local SRV",
        "NXDOMAIN",
        &[],
    ),
    ("_tcp.plain.names.svc.cluster.local SRV", "NOERROR", &[]),
    (
        "machines.names.svc.cluster.local A",
        "NOERROR",
        &["192.0.2.11", "192.0.2.12"],
    ),
    (
        "first.machines.names.svc.cluster.local A",
        "NOERROR",
        &["192.0.2.11"],
    ),
    (
        "192-0-2-12.machines.names.svc.cluster.local A",
        "NOERROR",
        &["192.0.2.12"],
    ),
    ("third.machines.names.svc.cluster.local A", "NXDOMAIN", &[]),
    (
        "_http._tcp.machines.names.svc.cluster.local SRV",
        "NOERROR",
        &[
            "0 50 8080 192-0-2-12.machines.names.svc.cluster.local.",
            "0 50 8080 first.machines.names.svc.cluster.local.",
        ],
    ),
    (
        "outside.names.svc.cluster.local A",
        "NOERROR",
        &["www.example.org.", "192.0.2.80"],
    ),
    (
        "inside.names.svc.cluster.local A",
        "NOERROR",
        &["plain.names.svc.cluster.local.", "10.96.0.77"],
    ),
    (
        "inside.names.svc.cluster.local CNAME",
        "NOERROR",
        &["plain.names.svc.cluster.local."],
    ),
    (
        "10-244-0-99.names.pod.cluster.local A",
        "NOERROR",
        &["10.244.0.99"],
    ),
    (
        "2001-db8-a--99.names.pod.cluster.local AAAA",
        "NOERROR",
        &["2001:db8:a::99"],
    ),
    ("10-244-0-99.none.pod.cluster.local A", "NXDOMAIN", &[]),
    ("192-0-2-1.names.pod.cluster.local A", "NXDOMAIN", &[]),
    (
        "-x 10.96.0.77",
        "NOERROR",
        &["plain.names.svc.cluster.local."],
    ),
    (
        "-x 10.96.0.10",
        "NOERROR",
        &["kube-dns.kube-system.svc.cluster.local."],
    ),
    (
        "-x 192.0.2.11",
        "NOERROR",
        &["first.machines.names.svc.cluster.local."],
    ),
    ("-x 10.96.200.200", "NXDOMAIN", &[]),
    ("-x 10.244.200.200", "NXDOMAIN", &[]),
    ("-x 198.51.100.1", "SERVFAIL", &[]),
    ("cluster.local NS", "NOERROR", &["ns.dns.cluster.local."]),
    ("ns.dns.cluster.local A", "NOERROR", &[SERVER]),
    ("ns.dns.cluster.local AAAA", "NOERROR", &[SERVER_V6]),
    ("dns-version.cluster.local TXT", "NOERROR", &["\"1.1.0\""]),
    ("www.example.org A", "NOERROR", &["192.0.2.80"]),
    ("none.example.org A", "NXDOMAIN", &[]),
    ("www.example.net A", "SERVFAIL", &[]),
    ("-c CH version.bind TXT", "REFUSED", &[]),
    ("+opcode=notify cluster.local SOA", "NOTIMP", &[]),
    ("+edns=1 +noednsneg cluster.local SOA", "BADVERS", &[]),
    ("+norecurse www.example.com A", "REFUSED", &[]),
];

fn pod_asks_kube_dns(cluster: &mut Cluster) -> Result<()> {
    OUTSIDE.get_or_init(|| NameServer::start(cluster).expect("start the outside's name server"));
    cluster.apply_hello(&Progress::quiet())?;
    let kubectl = cluster.kubectl()?;
    let applied = kubectl.run_with("apply -f -", MANIFEST)?;
    ensure!(applied.success, "kubectl apply: {}", applied.stderr);
    let service = kubectl.json("get service kube-dns -n kube-system -o json")?;
    ensure!(
        service["spec"]["clusterIPs"] == serde_json::json!([SERVER, SERVER_V6]),
        "{service}"
    );
    let pod = pod(cluster)?;
    let path = format!("/proc/{}/root/etc/resolv.conf", pod.process.pid);
    let conf = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    ensure!(
        conf == format!(
            "nameserver {SERVER}\nsearch hello.svc.cluster.local svc.cluster.local \
             cluster.local\noptions ndots:5\n"
        ),
        "{conf}"
    );
    // The agents have been told of the names since the manifest was applied.
    wait_for(
        cluster,
        &pod,
        "plain.names.svc.cluster.local",
        &["10.96.0.77"],
    )
}

fn every_record(cluster: &mut Cluster) -> Result<()> {
    let pod = pod(cluster)?;
    for (question, status, data) in CASES {
        for way in ["+notcp", "+tcp"] {
            let answer = dig(cluster, &pod, &format!("@{SERVER} {way} {question}"))?;
            answer
                .check(status, data)
                .with_context(|| format!("{way} {question}"))?;
        }
    }
    let answer = dig(
        cluster,
        &pod,
        &format!("@{SERVER_V6} plain.names.svc.cluster.local"),
    )?;
    answer.check("NOERROR", &["10.96.0.77"])?;
    let start = dig(cluster, &pod, &format!("@{SERVER} cluster.local SOA"))?;
    ensure!(start.data[0].starts_with("ns.dns.cluster.local. hostmaster.cluster.local. "));
    let nothing = dig(
        cluster,
        &pod,
        &format!("@{SERVER} none.names.svc.cluster.local"),
    )?;
    check_contains(
        &nothing.text,
        &[
            "flags: qr aa rd ra",
            "cluster.local.\t\t5\tIN\tSOA",
            "udp: 1232",
        ],
    )?;
    // As a resolver completes short names.
    let search = "+search +ndots=5 +domain=hello.svc.cluster.local";
    let short = dig(cluster, &pod, &format!("@{SERVER} {search} hello"))?;
    let whole = dig(
        cluster,
        &pod,
        &format!("@{SERVER} hello.hello.svc.cluster.local"),
    )?;
    ensure!(
        short.data.len() == 1 && short.data == whole.data,
        "{}",
        short.text
    );
    Ok(())
}

fn plain_sockets(cluster: &mut Cluster) -> Result<()> {
    let pod = pod(cluster)?;
    // A question for plain.names.svc.cluster.local, type A.
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05plain\x05names\x03svc\x07cluster\x05local\0\0\x01\0\x01";
    let bytes: Vec<_> = question.iter().map(u8::to_string).collect();
    let question = format!("{SERVER}:53 {}", bytes.join(","));
    for way in ["", " --connect"] {
        let asked = cluster.ask_from_pod(&pod, &format!("{question}{way}"))?;
        let from = asked.from.to_string();
        ensure!(from == format!("{SERVER}:53"), "{from} answered{way}");
        ensure!(asked.bytes.ends_with(&[10, 96, 0, 77]), "{asked:?}");
    }
    Ok(())
}

fn headless_follows(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    for replicas in [5, 2, 3] {
        kubectl.ok(&format!(
            "scale deployment hello -n hello --replicas={replicas}"
        ))?;
        cluster.wait_published("hello", "hello", &Progress::quiet())?;
        let pods = kubectl.json("get pods -n hello -l app=hello -o json")?;
        let mut addresses: Vec<IpAddr> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|pod| pod["status"]["podIP"].as_str()?.parse().ok())
            .collect();
        addresses.sort();
        ensure!(addresses.len() == replicas, "{addresses:?}");
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let asking = pod(cluster)?;
        wait_for(cluster, &asking, "pods.hello.svc.cluster.local", &addresses)?;
    }
    Ok(())
}

fn others_are_asked(cluster: &mut Cluster) -> Result<()> {
    let outside = OUTSIDE.get().context("the outside has a name server")?;
    let pod = pod(cluster)?;
    dig(cluster, &pod, &format!("@{SERVER} www.example.org"))?.check("NOERROR", &["192.0.2.80"])?;
    let asked = outside.asked();
    for question in [
        "www.example.org A",
        "WWW.example.ORG A",
        "outside.names.svc.cluster.local A",
    ] {
        let answer = dig(cluster, &pod, &format!("@{SERVER} {question}"))?;
        ensure!(
            answer.data.last().is_some_and(|data| data == "192.0.2.80"),
            "{}",
            answer.text
        );
    }
    ensure!(outside.asked() == asked, "what is kept was asked for again");
    let large = dig(
        cluster,
        &pod,
        &format!("@{SERVER} +ignore large.example.org"),
    )?;
    check_contains(&large.text, &["flags: qr tc"])?;
    let large = dig(cluster, &pod, &format!("@{SERVER} large.example.org"))?;
    ensure!(large.data.len() == usize::from(LARGE), "{}", large.text);
    Ok(())
}

fn node_and_strangers(cluster: &mut Cluster) -> Result<()> {
    let node = cluster.launch(Host::Node(1), "dig")?;
    let arguments = format!("@{SERVER} +time=2 +tries=1 plain.names.svc.cluster.local");
    let output = node.arguments(arguments.split(' ')).command()?.output()?;
    Answer::read(&output.stdout)?.check("NOERROR", &["10.96.0.77"])?;
    // The address where nodes listen is open to pods and nodes alone.
    let at = address(Host::Node(1)).context("a node has an address")?;
    let client = cluster.launch(Host::Client, "dig")?;
    let arguments = format!("@{at} -p 6453 +time=1 +tries=1 plain.names.svc.cluster.local");
    let output = client.arguments(arguments.split(' ')).command()?.output()?;
    ensure!(
        !output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}

fn netctl_shows(cluster: &mut Cluster) -> Result<()> {
    let table = netctl(cluster, "dns")?;
    check_contains(&table, &["node-1", "node-2", "cluster.local", "QUERIES"])?;
    let table = netctl(
        cluster,
        "dns query plain.names.svc.cluster.local --node node-2",
    )?;
    check_contains(&table, &["node-2", "NOERROR", "10.96.0.77"])?;
    let table = netctl(cluster, "dns counters")?;
    check_contains(&table, &["responses_nxdomain", "strangers"])
}

fn agent_is_killed(cluster: &mut Cluster) -> Result<()> {
    let (pod, node) = pod_and_node(cluster)?;
    cluster.kill(node)?;
    let ask = format!("@{SERVER} plain.names.svc.cluster.local");
    let outcome =
        dig(cluster, &pod, &ask).and_then(|answer| answer.check("NOERROR", &["10.96.0.77"]));
    cluster.restart(node)?;
    outcome?;
    let log = fs::read_to_string(cluster.layout().log(node))?;
    let before = log.matches("started the DNS of this node").count();
    cluster.wait_for(Deadline::seconds(60), "the DNS adopted", || {
        let log = fs::read_to_string(cluster.layout().log(node))?;
        Ok(log.contains("adopted the DNS of this node").then_some(()))
    })?;
    let log = fs::read_to_string(cluster.layout().log(node))?;
    ensure!(
        log.matches("started the DNS of this node").count() == before,
        "{log}"
    );
    dig(cluster, &pod, &ask)?.check("NOERROR", &["10.96.0.77"])?;
    // News reach it again.
    let kubectl = cluster.kubectl()?;
    kubectl.ok("create service clusterip later -n names --tcp=80 --clusterip=10.96.0.78")?;
    wait_for(
        cluster,
        &pod,
        "later.names.svc.cluster.local",
        &["10.96.0.78"],
    )
}

/// Stays the last step.
fn without_control_plane(cluster: &mut Cluster) -> Result<()> {
    let (pod, node) = pod_and_node(cluster)?;
    cluster.kill(Host::Control(1))?;
    let outcome = check_without_control_plane(cluster, &pod, node);
    cluster.restart(Host::Control(1))?;
    outcome
}

fn check_without_control_plane(cluster: &mut Cluster, pod: &PodProcess, node: Host) -> Result<()> {
    let ask = format!("@{SERVER} later.names.svc.cluster.local");
    dig(cluster, pod, &ask)?.check("NOERROR", &["10.96.0.78"])?;
    dig(cluster, pod, &format!("@{SERVER} www.example.org"))?.check("NOERROR", &["192.0.2.80"])?;
    // Both processes of the node die, and nobody can tell them anything when they are back.
    let kept = cluster.layout().data(node).join("state/dns.bin");
    cluster.wait_for(Deadline::seconds(10), "names written down", || {
        let names = fs::read(&kept)?;
        Ok(names.windows(5).any(|part| part == b"later").then_some(()))
    })?;
    cluster.kill(node)?;
    for process in dns_processes(cluster, node)? {
        process.signal(nix::sys::signal::Signal::SIGKILL)?;
    }
    cluster.restart(node)?;
    wait_for(
        cluster,
        pod,
        "later.names.svc.cluster.local",
        &["10.96.0.78"],
    )
}

/// The processes in a node's network that answer for names.
fn dns_processes(cluster: &Cluster, node: Host) -> Result<Vec<ProcessId>> {
    let socket = cluster.layout().run(node).join("dns.sock");
    let socket = socket.to_string_lossy().into_owned();
    let found: Vec<_> = Remains::of(cluster.layout())
        .processes
        .into_iter()
        .filter(|process| {
            let command = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&socket)
        })
        .collect();
    ensure!(!found.is_empty(), "no process answers for names on {node}");
    Ok(found)
}

/// A pod of the example.
fn pod(cluster: &Cluster) -> Result<PodProcess> {
    Ok(pod_and_node(cluster)?.0)
}

fn pod_and_node(cluster: &Cluster) -> Result<(PodProcess, Host)> {
    let name = cluster.pods_of("hello", "app=hello")?;
    let name = name.first().context("the example has pods")?;
    let kubectl = cluster.kubectl()?;
    let node = kubectl.ok(&format!(
        "get pod {name} -n hello -o jsonpath={{.spec.nodeName}}"
    ))?;
    let pod = cluster.pod_process(name, Deadline::seconds(10))?;
    Ok((pod, node.trim().parse()?))
}

/// What `dig` printed.
struct Answer {
    status: String,
    /// The data of the answers, in order of their text; aliases as they came, before the rest.
    data: Vec<String>,
    text: String,
}

impl Answer {
    fn read(stdout: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(stdout).into_owned();
        let status = text
            .split_once("status: ")
            .and_then(|(_, rest)| Some(rest.split_once(',')?.0.to_owned()))
            .with_context(|| format!("no answer:\n{text}"))?;
        let section = text
            .split_once(";; ANSWER SECTION:\n")
            .map_or("", |(_, rest)| {
                rest.split_once("\n\n").map_or(rest, |(section, _)| section)
            });
        let mut aliases = Vec::new();
        let mut data = Vec::new();
        for line in section.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_name, _ttl, _class, kind, rest @ ..] = &fields[..] else {
                bail!("{line:?} is no record");
            };
            let list = if *kind == "CNAME" {
                &mut aliases
            } else {
                &mut data
            };
            list.push(rest.join(" "));
        }
        data.sort_by_key(|text| (text.parse::<IpAddr>().ok(), text.clone()));
        aliases.extend(data);
        Ok(Self {
            status,
            data: aliases,
            text,
        })
    }

    fn check(&self, status: &str, data: &[&str]) -> Result<()> {
        ensure!(
            self.status == status && self.data == data,
            "expected {status} {data:?}, got {} {:?}:\n{}",
            self.status,
            self.data,
            self.text
        );
        Ok(())
    }
}

fn dig(cluster: &Cluster, pod: &PodProcess, arguments: &str) -> Result<Answer> {
    let output = cluster
        .launch_in_pod(pod, "dig")?
        .arguments(["+time=6", "+tries=1"])
        .arguments(arguments.split_whitespace())
        .command()?
        .output()
        .context("run dig")?;
    Answer::read(&output.stdout).with_context(|| format!("dig {arguments}"))
}

/// Asks until the answer is this.
fn wait_for(cluster: &Cluster, pod: &PodProcess, name: &str, data: &[&str]) -> Result<()> {
    let what = format!("{name} as {data:?}");
    let ask = || dig(cluster, pod, &format!("@{SERVER} {name}"));
    let found = cluster.wait_for(Deadline::seconds(30), &what, || {
        Ok(ask().ok().filter(|answer| answer.data == data).map(drop))
    });
    found.with_context(|| match ask() {
        Ok(answer) => answer.text,
        Err(error) => format!("{error:#}"),
    })
}
