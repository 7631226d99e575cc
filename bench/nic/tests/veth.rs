//! The three roles on veth pairs: a generator's packets come back to it through a balancer, and a
//! sink counts what it is sent.

use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use testbed::{NetNs, skip_without_root};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_bench-nic");

struct Pair {
    near: NetNs,
    far: NetNs,
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
        Self { near, far }
    }

    fn mac(host: &NetNs) -> String {
        let shown = host.ip("-json link show eth0").expect("show the link");
        let links: Value = serde_json::from_str(&shown).expect("ip prints JSON");
        links[0]["address"].as_str().expect("an address").to_owned()
    }
}

/// The program on a host.
fn command(host: &NetNs, arguments: &[&str]) -> Command {
    let mut command = host.command(PROGRAM).expect("a command");
    command.args(["--iface", "eth0", "--json"]).args(arguments);
    command
}

/// The rows that a program printed which has ended well.
fn rows(output: Output) -> Vec<Value> {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("what it prints is JSON")
}

/// Each role's own time ends only after its end is reported, so the generator's is the shorter.
const LONG: &str = "8";
const SHORT: &str = "1";

/// Frames of two lengths, for what they come to and for how long they take.
fn generate(pair: &Pair) -> Vec<Value> {
    let to = Pair::mac(&pair.far);
    let arguments = [
        "--role",
        "gen",
        "--to",
        &to,
        "--rate",
        "20000",
        "--case",
        "frame_64,frame_1518",
        "--seconds",
        SHORT,
    ];
    let done = command(&pair.near, &arguments).output();
    let rows = rows(done.expect("run the generator"));
    let names = rows
        .iter()
        .map(|row| format!("{} {}", row["case"], row["part"]).replace('"', ""));
    assert_eq!(
        names.collect::<Vec<_>>(),
        [
            "frame_64 rates",
            "frame_64 latencies",
            "frame_1518 rates",
            "frame_1518 latencies"
        ]
    );
    rows
}

/// How many frames a row counted, by the name of their rate.
fn frames(row: &Value, rate: &str) -> f64 {
    row[rate].as_f64().expect("a rate") * row["seconds"].as_f64().expect("a time")
}

fn all_frames(rows: &[Value], rate: &str) -> f64 {
    rows.iter().map(|row| frames(row, rate)).sum()
}

/// A role at the far end, which ends with the test at the latest.
struct FarEnd(Option<Child>);

impl FarEnd {
    /// The one row of what it counted.
    fn finish(mut self) -> Value {
        let child = self.0.take().expect("it is finished once");
        let output = child.wait_with_output().expect("wait for the far end");
        let [row] = <[Value; 1]>::try_from(rows(output)).expect("one row");
        row
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It has ended already, or has to.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a role at the far end, and waits until its program is attached there.
fn start(pair: &Pair, arguments: &[&str]) -> FarEnd {
    let mut program = command(&pair.far, arguments);
    let child = program.stdout(Stdio::piped()).spawn();
    let child = FarEnd(Some(child.expect("start the far end")));
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
    let balancer = start(&pair, &arguments);
    let sent = generate(&pair);
    let balanced = balancer.finish();

    for row in &sent {
        let (sent, received) = (frames(row, "sent_pps"), frames(row, "received_pps"));
        assert!(sent > 10_000.0 && received > sent * 0.9, "{row}");
        let took = row["latency_ns"]["p50"].as_u64();
        if row["part"] == "latencies" {
            assert!(took.is_some_and(|ns| ns > 100), "{row}");
        } else {
            assert_eq!(took, None, "{row}");
        }
        let queues = row["by_queue_pps"].as_object();
        assert_eq!(queues.map(|queues| queues.len()), Some(1));
    }
    assert!(
        frames(&balanced, "sent_pps") > all_frames(&sent, "sent_pps") * 0.9,
        "{balanced}"
    );
    assert_eq!(balanced["dropped"], 0);
}

#[test]
fn sink_counts_what_a_generator_sends() {
    if skip_without_root() {
        return;
    }
    let pair = Pair::new();
    let sink = start(&pair, &["--role", "sink", "--seconds", LONG]);
    let sent = all_frames(&generate(&pair), "sent_pps");
    let counted = sink.finish();
    let received = frames(&counted, "received_pps");
    assert!(
        sent > 40_000.0 && received > sent * 0.9,
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
    let done = command(&pair.near, &["--role", "gen"]).output();
    let done = done.expect("run the generator");
    assert!(!done.status.success());
    assert!(String::from_utf8_lossy(&done.stderr).contains("--to"));
}
