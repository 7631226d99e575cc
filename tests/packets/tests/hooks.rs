//! The programs at their hooks: attached, replaced, adopted. Each test runs in a process of its own
//! (nextest), in a network namespace that vanishes with it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use fairlead_dataplane::loader::{Loaded, Place};
use fairlead_dataplane_common::{Config, Meta};
use packet_tests::node::{Node, ip};

fn link_names(place: &Place) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(place.pins().join("links"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn second_loader_adopts_maps_and_replaces_programs_in_their_links() {
    let Some(node) = Node::new() else { return };
    let mut first = Loaded::open(&node.place).expect("load and attach");
    let meta = Meta {
        generation: 7,
        ..Meta::default()
    };
    first.tables.meta.set(0, meta, 0).unwrap();
    let config = Config {
        node_id: 3,
        ..Config::default()
    };
    first.tables.config.set(0, config, 0).unwrap();
    let before = first.attachments().expect("what is attached");
    assert_eq!(before.len(), 3 + 8, "{before:?}");
    drop(first);

    let second = Loaded::open(&node.place).expect("adopt and replace");
    assert_eq!(second.tables.meta.get(&0, 0).unwrap(), meta);
    assert_eq!(second.tables.config.get(&0, 0).unwrap(), config);
    let after = second.attachments().expect("what is attached");
    assert!(before.keys().eq(after.keys()), "{before:?} {after:?}");
    let old: BTreeSet<u32> = before.values().map(|hook| hook.program).collect();
    for (hook, is) in &after {
        assert_eq!(is.link, before[hook].link, "{hook} was detached");
        assert!(!old.contains(&is.program), "{hook} has its old program");
    }
}

#[test]
fn programs_stay_attached_without_a_loader_and_go_with_their_pins() {
    let Some(node) = Node::new() else { return };
    drop(Loaded::open(&node.place).expect("load and attach"));
    let shown = || {
        let output = Command::new("ip")
            .args(["link", "show", "uplink"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown().contains("prog/xdp"), "{}", shown());
    Loaded::remove(&node.place).expect("remove everything");
    assert!(!node.place.bpffs.exists());
    // The kernel lets go of a link whose last pin went in its own time.
    let deadline = Instant::now() + Duration::from_secs(10);
    while shown().contains("prog/xdp") {
        assert!(Instant::now() < deadline, "still attached: {}", shown());
    }
}

#[test]
fn pod_link_is_made_once_and_forgotten_with_its_veth() {
    let Some(node) = Node::new() else { return };
    let loaded = Loaded::open(&node.place).expect("load and attach");
    ip("link add pod type veth peer name inside");
    let ifindex = nix::net::if_::if_nametoindex("pod").unwrap();
    loaded.attach_pod_veth(ifindex).expect("attach");
    loaded.attach_pod_veth(ifindex).expect("attach again");
    let pin = format!("pod-{ifindex}");
    assert!(link_names(&node.place).contains(&pin));

    ip("link del pod");
    drop(loaded);
    let loaded = Loaded::open(&node.place).expect("adopt");
    assert!(
        !link_names(&node.place).contains(&pin),
        "the dead link was removed"
    );
    loaded
        .detach_pod_veth(ifindex)
        .expect("detaching what has gone is no error");
}
