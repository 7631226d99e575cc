//! The three roles on veth pairs: a generator's packets come back to it through a balancer, and a
//! sink counts what it is sent.

use std::process::{Child, Command};

use serde_json::Value;
use testbed::{NetNs, skip_without_root};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_bench-nic");

struct Pair {
    near: NetNs,
    far: NetNs,
    folder: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        let near = NetNs::unique("nic-near").expect("make a namespace");
        let far = NetNs::unique("nic-far").expect("make a namespace");
        let peer = far.name();
        near.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {peer}"
        ))
        .expect("join them");
        for host in [&near, &far] {
            host.ip("link set eth0 up").expect("bring the link up");
            host.make_wire_like("eth0").expect("set offloads");
        }
        let folder = tempfile::tempdir().expect("make a folder");
        Self { near, far, folder }
    }

    fn mac(host: &NetNs) -> String {
        let shown = host.ip("-json link show eth0").expect("show the link");
        let links: Value = serde_json::from_str(&shown).expect("ip prints JSON");
        links[0]["address"].as_str().expect("an address").to_owned()
    }

    /// The program in a namespace; its report goes to the file of this name.
    fn command(&self, host: &NetNs, report: &str, arguments: &[&str]) -> Command {
        let mut command = host.command(PROGRAM).expect("a command");
        command
            .args(["--iface", "eth0", "--json"])
            .arg(self.folder.path().join(report))
            .args(arguments);
        command
    }

    fn report(&self, name: &str) -> Value {
        let text = std::fs::read(self.folder.path().join(name)).expect("a report");
        serde_json::from_slice(&text).expect("a report is JSON")
    }
}

/// Each role's own time ends only after its end is reported, so the generator's is the shorter.
const LONG: &str = "6";
const SHORT: &str = "2";

fn generate(pair: &Pair) -> Value {
    let to = Pair::mac(&pair.far);
    let mut generator = pair.command(
        &pair.near,
        "gen",
        &[
            "--role",
            "gen",
            "--to",
            &to,
            "--rate",
            "20000",
            "--timed",
            "--seconds",
            SHORT,
        ],
    );
    let done = generator.output().expect("run the generator");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    pair.report("gen")
}

/// A role at the far end, which ends with the test at the latest.
struct FarEnd(Child);

impl FarEnd {
    fn finish(mut self) {
        assert!(self.0.wait().expect("wait for the far end").success());
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        // It has ended already, or has to.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a role at the far end, and waits until its program is attached there.
fn start(pair: &Pair, report: &str, arguments: &[&str]) -> FarEnd {
    let child = pair.command(&pair.far, report, arguments).spawn();
    let child = FarEnd(child.expect("start the far end"));
    testbed::Deadline::seconds(60)
        .until("a program at the far end", || {
            let shown = pair.far.ip("link show eth0");
            shown.is_ok_and(|shown| shown.contains("prog/xdp"))
        })
        .expect("attached");
    child
}

#[test]
fn balanced_packets_come_back_and_tell_how_long_they_took() {
    if skip_without_root() {
        return;
    }
    let pair = Pair::new();
    let back = Pair::mac(&pair.near);
    let arguments = ["--role", "lb", "--backend", &back, "--seconds", LONG];
    let balancer = start(&pair, "lb", &arguments);
    let sent = generate(&pair);
    balancer.finish();
    let balanced = pair.report("lb");

    let rate = |report: &Value, name: &str| report[name].as_f64().expect("a rate");
    let sent_frames = rate(&sent, "sent_pps") * rate(&sent, "seconds");
    let received_frames = rate(&sent, "received_pps") * rate(&sent, "seconds");
    let balanced_frames = rate(&balanced, "sent_pps") * rate(&balanced, "seconds");
    assert!(sent_frames > 10_000.0, "{sent}");
    assert!(received_frames > sent_frames * 0.9, "{sent}");
    assert!(balanced_frames > sent_frames * 0.9, "{balanced}");
    assert!(
        sent["latency_ns"]["p50"]
            .as_u64()
            .is_some_and(|ns| ns > 100),
        "{sent}"
    );
    assert_eq!(
        sent["by_queue_pps"].as_object().map(|queues| queues.len()),
        Some(1)
    );
    assert_eq!(balanced["dropped"], 0);
}

#[test]
fn sink_counts_what_a_generator_sends() {
    if skip_without_root() {
        return;
    }
    let pair = Pair::new();
    let sink = start(&pair, "sink", &["--role", "sink", "--seconds", LONG]);
    let sent = generate(&pair);
    sink.finish();
    let counted = pair.report("sink");
    let frames = |report: &Value, name: &str| {
        report[name].as_f64().expect("a rate") * report["seconds"].as_f64().expect("a time")
    };
    let (sent, received) = (frames(&sent, "sent_pps"), frames(&counted, "received_pps"));
    assert!(
        sent > 10_000.0 && received > sent * 0.9,
        "{received} of {sent}"
    );
    assert!(counted["latency_ns"]["p99"].is_u64(), "{counted}");
}

#[test]
fn generator_without_a_destination_is_told_what_is_missing() {
    if skip_without_root() {
        return;
    }
    let pair = Pair::new();
    let done = pair.command(&pair.near, "gen", &["--role", "gen"]).output();
    let done = done.expect("run the generator");
    assert!(!done.status.success());
    assert!(String::from_utf8_lossy(&done.stderr).contains("--to"));
}
