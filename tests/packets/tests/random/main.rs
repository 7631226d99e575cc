//! Random packets through the loaded programs: valid ones of every kind, changed at random, and
//! noise; for services of pods and of real servers, and in tunnels of others. Some that were translated
//! are answered. Whatever goes in, the verdict is one of those that a program may give; what is sent has
//! right checksums if it came with right ones, fits the MTU, and goes to a backend of the service
//! it was for. What is expected is reckoned without any of the programs' code.
//!
//! A failure prints the packet and the seed, which gives the same packets again:
//! `FAIRLEAD_RANDOM_SEED=7 FAIRLEAD_RANDOM_PACKETS=1000000 cargo nextest run -p packet-tests random`.

mod generate;
mod judge;
mod packet;
mod rng;
mod services;

use std::collections::BTreeMap;
use std::env;
use std::process::{self, Command};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aya::programs::{Program, TestRun, TestRunOptions};
use fairlead_dataplane_common::mac;
use nix::sched::{CloneFlags, unshare};
use packet_tests::World;

use crate::generate::Generator;
use crate::judge::{Fate, Place, judge};
use crate::services::Services;

/// Packets that go through the programs of each of the two tests: together more than ten million.
const PACKETS: u64 = 5_500_000;

/// How far the programs are apart in the verdicts they may give.
struct Hook {
    programs: &'static [&'static str],
    drop: u32,
    pass: u32,
    /// Back out, or to another interface.
    send: &'static [u32],
}

/// `enum xdp_action` of linux/bpf.h, without `XDP_ABORTED`.
const XDP: Hook = Hook {
    programs: &["xdp_ingress"],
    drop: 1,
    pass: 2,
    send: &[3],
};

/// `TC_ACT_*` of linux/pkt_cls.h.
const TC: Hook = Hook {
    programs: &["tc_uplink_in", "tc_uplink_out", "tc_from_pod"],
    drop: 2,
    pass: 0,
    send: &[7],
};

#[test]
fn random_packets_through_xdp_do_no_harm() {
    run(&XDP);
}

#[test]
fn random_packets_through_tc_do_no_harm() {
    run(&TC);
}

fn run(hook: &Hook) {
    if packet_tests::is_root_missing() {
        return;
    }
    // What test runs pretend packets came in by is the loopback of the namespace; as an uplink has,
    // it gets an MTU.
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of our own");
    let status = Command::new("ip")
        .args(["link", "set", "lo", "mtu", &generate::MTU.to_string(), "up"])
        .status();
    assert!(status.expect("run ip").success(), "set the loopback's MTU");

    let seed = number("FAIRLEAD_RANDOM_SEED").unwrap_or_else(fresh_seed);
    let packets = number("FAIRLEAD_RANDOM_PACKETS").unwrap_or(PACKETS);
    println!("FAIRLEAD_RANDOM_SEED={seed} FAIRLEAD_RANDOM_PACKETS={packets}");
    let mut world = World::open().expect("run as root");
    let services = Services::fill(&mut world);
    let mut generator = Generator::new(seed, &services);
    let mut frame = Vec::new();
    let mut out = vec![0; 4096];
    let mut fates: BTreeMap<(&str, Fate), u64> = BTreeMap::new();
    let drops_before: u64 = world.drops().iter().sum();
    let begun = Instant::now();
    for index in 0..packets / hook.programs.len() as u64 {
        generator.next(&mut frame);
        for name in hook.programs {
            let Some((verdict, length)) = test_run(&mut world, name, &frame, &mut out) else {
                *fates.entry((name, Fate::Untouched)).or_default() += 1;
                continue;
            };
            let output = &out[..length];
            let fate = if verdict == hook.drop {
                Ok(Fate::Dropped)
            } else if verdict == hook.pass || hook.send.contains(&verdict) {
                judge(&services, &frame, output, verdict != hook.pass, place(name))
            } else {
                Err("no verdict that the program may give".to_owned())
            };
            let fate = fate.unwrap_or_else(|fault| {
                panic!(
                    "packet {index} of seed {seed} through {name}, verdict {verdict}: {fault}\n \
                     in: {}\nout: {}",
                    hex(&frame),
                    hex(output)
                )
            });
            *fates.entry((name, fate)).or_default() += 1;
            if fate == Fate::Translated {
                generator.answer(output);
            }
            if fate == Fate::Unwrapped && *name == "xdp_ingress" {
                let inner = output.to_vec();
                let fate = deliver(&mut world, &services, &inner, &mut out);
                let fate = fate.unwrap_or_else(|fault| {
                    panic!(
                        "packet {index} of seed {seed}, out of its tunnel: {fault}\n in: {}",
                        hex(&frame)
                    )
                });
                *fates.entry((INSIDE, fate)).or_default() += 1;
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{packets} packets in {seconds:.0} s");
    for ((name, fate), count) in &fates {
        println!("{name:>14} {fate:<14?} {count:>9}");
    }
    let dropped: u64 = fates
        .iter()
        .filter(|((_, fate), _)| *fate == Fate::Dropped)
        .map(|(_, count)| count)
        .sum();
    let counted = world.drops().iter().sum::<u64>() - drops_before;
    assert_eq!(counted, dropped, "drops are counted, each once");
}

/// What `fates` call that which XDP has taken out of a tunnel, and TC gets then.
const INSIDE: &str = "taken out";

/// Gives TC what XDP has taken out of somebody else's tunnel: it stays on this node, or is dropped.
fn deliver(
    world: &mut World,
    services: &Services,
    inner: &[u8],
    out: &mut [u8],
) -> Result<Fate, String> {
    let Some((verdict, length)) = test_run(world, "tc_uplink_in", inner, out) else {
        return Ok(Fate::Untouched);
    };
    if verdict == TC.drop {
        return Ok(Fate::Dropped);
    }
    let is_sent = verdict != TC.pass;
    let output = &out[..length];
    let fate = judge(services, inner, output, is_sent, Place::EntryOfStack)?;
    // Unless it goes to who may know its connection: that is marked.
    let is_second_chance = packet::layers(output).get(1).is_some_and(|inside| {
        let source = &output[inside.start - 8..inside.start - 2];
        (0..mac::SECOND_CHANCES_MAX).any(|left| source == mac::of_second_chance(1, left))
    });
    match fate {
        Fate::Encapsulated if is_second_chance => Ok(fate),
        Fate::PassedOn | Fate::Encapsulated => Err(format!("sent on, {fate:?}: {}", hex(output))),
        fate => Ok(fate),
    }
}

fn place(program: &str) -> Place {
    match program {
        "xdp_ingress" => Place::Entry,
        "tc_uplink_in" => Place::EntryOfStack,
        _ => Place::Elsewhere,
    }
}

/// The verdict, and the length of what is in `out` then. Nothing if the kernel does not take the frame:
/// test runs of skbs want an IP header to be whole.
fn test_run(
    world: &mut World,
    name: &'static str,
    frame: &[u8],
    out: &mut [u8],
) -> Option<(u32, usize)> {
    const WHOLE: usize = 14 + 40;
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(out),
        ..TestRunOptions::default()
    };
    let program = world.programs_mut().get_mut(name).expect("it is loaded");
    let result = match program {
        Program::Xdp(program) => program.test_run(options),
        Program::SchedClassifier(program) => program.test_run(options),
        other => panic!("{other:?} does not run on packets"),
    };
    match result {
        Ok(result) => Some((result.return_value, result.data_size_out as usize)),
        Err(_) if name != "xdp_ingress" && frame.len() < WHOLE => None,
        Err(error) => panic!("{name} does not run on {}: {error}", hex(frame)),
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64) ^ u64::from(process::id())
}

/// The headers of a frame, and how long it is.
fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    let shown = &bytes[..bytes.len().min(SHOWN)];
    let digits: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes: {digits}", bytes.len())
}
