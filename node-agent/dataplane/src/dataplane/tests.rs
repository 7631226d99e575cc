//! The real dataplane in network namespaces: programs loaded, maps written, pods connected. Each
//! test is a node of its own, with a neighbour on its wire, a bpffs directory and a cgroup.

mod announcing;
mod flows;
mod loads;
mod servers;
mod succession;
mod views;

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};

use fairlead_proto::node::DataplaneState;
use serde_json::{Value, json};
use testbed::{Deadline, NetNs, NetNsHandle, skip_without_programs};

use super::*;
use crate::examples::{backend, own, reaches, service, state};
use crate::netns;
use crate::view;

/// True, after printing why, when a test cannot load programs. In CI that is a failure.
fn skip() -> bool {
    skip_without_programs(crate::object::embedded().is_ok())
}

/// A node, node-2 across its wire, and what is removed with them.
struct Fixture {
    host: NetNs,
    peer: NetNs,
    config: Config,
    files: tempfile::TempDir,
}

impl Fixture {
    /// Nothing, after printing why, where programs cannot be loaded.
    fn new() -> Option<Self> {
        if skip() {
            return None;
        }
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("dataplane-test-{}-{count}", std::process::id());
        testbed::mounts::ensure_bpffs().unwrap();
        let cgroups = testbed::cgroup::Hierarchies::mounted().unwrap();
        let files = tempfile::tempdir().unwrap();
        let config = Config {
            node_name: own(),
            address: [198, 18, 0, 101].into(),
            other_address: None,
            uplinks: vec!["eth0".to_owned()],
            bpffs: PathBuf::from("/sys/fs/bpf").join(&name),
            cgroup: cgroups.unified.join(&name),
            state_dir: files.path().join("state"),
            flow_limits: FlowLimits::default(),
        };
        fs::create_dir(&config.cgroup).unwrap();
        let host = NetNs::unique("dp-host").unwrap();
        let peer = NetNs::unique("dp-peer").unwrap();
        host.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}",
            peer.name()
        ))
        .unwrap();
        for (side, address) in [(&host, "198.18.0.101/24"), (&peer, "198.18.0.102/24")] {
            side.make_wire_like("eth0").unwrap();
            side.ip(&format!("address add {address} dev eth0")).unwrap();
            side.ip("link set eth0 up").unwrap();
        }
        host.sysctl("net.ipv4.ip_forward", "1").unwrap();
        Some(Self {
            host,
            peer,
            config,
            files,
        })
    }

    /// Runs `work` in the node's namespace, on a runtime of its own: each call is one life of the
    /// agent.
    fn agent<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce(Config) -> F + Send) -> T {
        let config = self.config.clone();
        let life = self.host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(work(config))
        });
        life.unwrap()
    }

    /// Does `work` with the node's dataplane, opened for it.
    fn open<T: Send>(&self, work: impl AsyncFnOnce(Dataplane) -> T + Send) -> T {
        self.agent(async |config| work(Dataplane::open(config).await.unwrap()).await)
    }

    /// The same, once the example's state is in force as generation 5.
    fn open_with_example<T: Send>(&self, work: impl AsyncFnOnce(Dataplane) -> T + Send) -> T {
        self.open(async |dataplane| {
            let applied = dataplane.apply(whole(&state()), Generation(5)).await;
            applied.unwrap();
            work(dataplane).await
        })
    }

    fn pod_netns(&self) -> PathBuf {
        self.files.path().join("netns/pod-a")
    }

    fn links(&self) -> String {
        self.host.ip("-o link show").unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let config = self.config.clone();
        // After a test that destroyed it already this finds nothing.
        let _ = self.host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.map(|runtime| runtime.block_on(Dataplane::destroy(&config)))
        });
        let _ = fs::remove_dir(&self.config.cgroup);
    }
}

fn whole(state: &DataplaneState) -> Arc<Changes> {
    Arc::new(Changes::whole(state.clone()))
}

/// Waits until `holds`, while the dataplane works.
async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    Deadline::seconds(60)
        .until_async(what, holds)
        .await
        .unwrap();
}

fn names(view: &Value) -> Vec<&str> {
    view.as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["name"].as_str())
        .collect()
}

fn rows(dataplane: &Dataplane, view: &str) -> Vec<Value> {
    dataplane
        .view(view, &json!({}))
        .unwrap()
        .as_array()
        .unwrap()
        .clone()
}

#[test]
fn reopened_dataplane_adopts_what_the_maps_hold() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open(async |dataplane| {
        assert_eq!(dataplane.generation(), Generation(0));
        let applied = dataplane
            .apply(whole(&state()), Generation(5))
            .await
            .unwrap();
        assert_eq!(applied.generation, Generation(5));
        assert!(applied.actions > 20);
        let services = dataplane.view("services", &json!({})).unwrap();
        assert_eq!(names(&services), ["demo/hello:http", "demo/dns:http"]);
        let backends = services[0]["backends"].as_array().unwrap();
        assert_eq!(backends.len(), 3);
        for backend in backends {
            let share = backend["share"].as_f64().unwrap();
            assert!((share - 1.0 / 3.0).abs() < 0.01, "{backend}");
        }
        assert_eq!(services[0]["frontends"].as_array().unwrap().len(), 2);
    });
    fixture.open(async |dataplane| {
        assert_eq!(dataplane.generation(), Generation(5));
        assert_eq!(
            rows(&dataplane, "services").len(),
            2,
            "before anything is applied"
        );
        let again = dataplane
            .apply(whole(&state()), Generation(5))
            .await
            .unwrap();
        assert_eq!(again.actions, 0, "the maps held the state");
        let older = dataplane.apply(whole(&state()), Generation(4)).await;
        assert!(matches!(older, Err(Error::Older { .. })), "{older:?}");
    });
}

#[test]
fn stale_entries_vanish_with_the_first_state_after_a_restart() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open_with_example(async |_| {});
    fixture.open(async |dataplane| {
        assert_eq!(
            rows(&dataplane, "nodes").len(),
            2,
            "nothing is removed before"
        );
        let mut smaller = state();
        smaller.services.truncate(1);
        smaller.services[0].backends.truncate(2);
        smaller.nodes.truncate(2);
        smaller.routes.truncate(2);
        dataplane
            .apply(whole(&smaller), Generation(6))
            .await
            .unwrap();
        dataplane.settle().await.unwrap();
        assert_eq!(rows(&dataplane, "services").len(), 1);
        assert_eq!(rows(&dataplane, "backends").len(), 2);
        assert_eq!(rows(&dataplane, "nodes").len(), 1);
        let read = dataplane.state().loaded.tables.observe().unwrap();
        let mut held = dataplane.state().observed.clone();
        // What is read back cannot know whom a table was built for, nor what waits in it.
        held.tables.clone_from(&read.tables);
        held.moving.clone_from(&read.moving);
        assert_eq!(held, read, "what is recorded is what the maps hold");
    });
}

#[test]
fn invalid_state_is_refused_whole() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open_with_example(async |dataplane| {
        dataplane.settle().await.unwrap();
        let before = dataplane.state().loaded.tables.observe().unwrap();
        let mut bad = state();
        bad.services.remove(0);
        bad.services[0].frontends[0].port = 0;
        let refused = dataplane
            .apply(whole(&bad), Generation(6))
            .await
            .unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("services[2].frontends[0].port"),
            "{refused}"
        );
        let mut after = dataplane.state().loaded.tables.observe().unwrap();
        // The way to a neighbour may be found meanwhile.
        after.nodes = before.nodes.clone();
        assert_eq!(after, before);
        assert_eq!(dataplane.generation(), Generation(5));
    });
}

#[test]
fn pod_is_connected_once_and_disconnected_without_a_trace() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let netns = fixture.pod_netns();
    fixture.open(async |dataplane| {
        let early = dataplane.attach_pod("uid-a", &netns).await.unwrap_err();
        assert!(matches!(early, Error::Pod(_)), "{early:?}");
        dataplane
            .set_pod_cidrs(vec!["10.244.1.0/24".parse().unwrap()])
            .await
            .unwrap();
        dataplane
            .apply(whole(&state()), Generation(5))
            .await
            .unwrap();
        let addresses = dataplane.attach_pod("uid-a", &netns).await.unwrap();
        assert_eq!(addresses, [IpAddr::from([10, 244, 1, 1])]);
        assert_eq!(
            dataplane.attach_pod("uid-a", &netns).await.unwrap(),
            addresses
        );
        assert_eq!(rows(&dataplane, "endpoints").len(), 1);
    });
    let pod = NetNsHandle::open(&netns).unwrap();
    let link = pod.ip("-o address show dev eth0").unwrap();
    assert!(link.contains("inet 10.244.1.1/32"), "{link}");
    assert!(
        pod.ip("-o link show dev eth0")
            .unwrap()
            .contains("mtu 1450")
    );
    assert!(pod.ip("route").unwrap().contains("default via 169.254.1.1"));
    // The agent is gone; the pod reaches its host, and the host the pod.
    assert!(reaches(&pod, "198.18.0.101"));
    assert!(reaches(&fixture.host, "10.244.1.1"));
    drop(pod);
    fixture.open(async |dataplane| {
        assert_eq!(rows(&dataplane, "endpoints").len(), 1, "adopted");
        dataplane.detach_pod("uid-a", &netns).await.unwrap();
        dataplane.detach_pod("uid-a", &netns).await.unwrap();
        assert_eq!(rows(&dataplane, "endpoints").len(), 0);
    });
    assert!(!netns.exists());
    assert!(!fixture.links().contains(": fl"), "{}", fixture.links());
}

#[test]
fn leftovers_of_pods_nobody_knows_are_removed_at_the_next_start() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let netns = fixture.pod_netns();
    fixture.open(async |dataplane| {
        dataplane
            .set_pod_cidrs(vec!["10.244.1.0/24".parse().unwrap()])
            .await
            .unwrap();
        dataplane.attach_pod("uid-a", &netns).await.unwrap();
    });
    fs::remove_file(fixture.config.state_dir.join("addresses.json")).unwrap();
    assert!(fixture.links().contains(": fl"));
    fixture.open(async |dataplane| {
        assert_eq!(rows(&dataplane, "endpoints").len(), 0);
    });
    assert!(!fixture.links().contains(": fl"));
    netns::remove(&netns).unwrap();
}

#[test]
fn link_that_was_lost_comes_back_with_the_same_address() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let netns = fixture.pod_netns();
    fixture.open(async |dataplane| {
        dataplane
            .set_pod_cidrs(vec!["10.244.1.0/24".parse().unwrap()])
            .await
            .unwrap();
        let addresses = dataplane.attach_pod("uid-a", &netns).await.unwrap();
        let pod = NetNsHandle::open(&netns).unwrap();
        pod.ip("link delete eth0").unwrap();
        assert_eq!(
            dataplane.attach_pod("uid-a", &netns).await.unwrap(),
            addresses
        );
        assert!(
            pod.ip("-o address show dev eth0")
                .unwrap()
                .contains(&addresses[0].to_string())
        );
        let endpoints = rows(&dataplane, "endpoints");
        assert_eq!(endpoints.len(), 1);
        drop(pod);
        dataplane.detach_pod("uid-a", &netns).await.unwrap();
    });
}

#[test]
fn way_to_a_node_is_resolved_and_follows_its_address() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let mac_is = |dataplane: &Dataplane, mac: &str| {
        rows(dataplane, "nodes")
            .iter()
            .any(|node| node["name"] == "node-2" && node["mac"] == mac)
    };
    fixture.open_with_example(async |dataplane| {
        for (mac, change) in [("02:00:00:00:00:02", false), ("02:00:00:00:00:22", true)] {
            fixture
                .peer
                .ip(&format!("link set eth0 address {mac}"))
                .unwrap();
            if change {
                // What a machine does when its address moves: it tells (RFC 5227 §3).
                reaches(&fixture.peer, "198.18.0.101");
                fixture.host.ip("neighbour flush dev eth0").unwrap();
                assert!(reaches(&fixture.host, "198.18.0.102"));
            }
            until(mac, async || mac_is(&dataplane, mac)).await;
        }
    });
}

#[test]
fn destroyed_dataplane_leaves_nothing() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let netns = fixture.pod_netns();
    fixture.agent(async |config| {
        let dataplane = Dataplane::open(config.clone()).await.unwrap();
        dataplane
            .set_pod_cidrs(vec!["10.244.1.0/24".parse().unwrap()])
            .await
            .unwrap();
        dataplane
            .apply(whole(&state()), Generation(5))
            .await
            .unwrap();
        dataplane.attach_pod("uid-a", &netns).await.unwrap();
        drop(dataplane);
        assert!(fixture.links().contains("xdp"), "{}", fixture.links());
        Dataplane::destroy(&config).await.unwrap();
        Dataplane::destroy(&config).await.unwrap();
    });
    let links = fixture.links();
    assert!(!links.contains(": fl") && !links.contains("xdp"), "{links}");
    assert!(!fixture.config.bpffs.exists());
    assert!(!netns.exists());
    assert!(!fixture.config.state_dir.join("addresses.json").exists());
    fs::remove_dir(&fixture.config.cgroup).unwrap();
    fs::create_dir(&fixture.config.cgroup).unwrap();
}

#[test]
fn unknown_view_is_refused_with_the_names_of_those_there_are() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open(async |dataplane| {
        for name in view::NAMES {
            dataplane
                .view(name, &json!({}))
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let refused = dataplane
            .view("nonsense", &json!({}))
            .unwrap_err()
            .to_string();
        assert!(refused.contains("services, backends"), "{refused}");
    });
}

#[test]
fn one_change_among_ten_thousand_services_is_a_handful_of_actions() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let mut state = state();
    state.services = (1..=10_000_u32)
        .map(|id| {
            let [_, _, high, low] = id.to_be_bytes();
            let mut service = service(id, &format!("s{id}"), [10, 96, high, low], None);
            service.backends = (0..10)
                .map(|index| {
                    let mut backend = backend(1, index % 3 + 1);
                    backend.id = 10 * id + index;
                    backend.port = 1000 + index;
                    backend.address = vec![10, 244, high, low].into();
                    backend
                })
                .collect();
            service
        })
        .collect();
    fixture.open(async |dataplane| {
        dataplane.apply(whole(&state), Generation(1)).await.unwrap();
        for generation in 2..=4 {
            let service = &mut state.services[4_999];
            service.backends.pop();
            let changes = Changes {
                services: BTreeMap::from([(service.id, Some(service.clone()))]),
                ..Changes::default()
            };
            let change = dataplane.apply(Arc::new(changes), Generation(generation));
            let change = change.await.unwrap();
            assert!(change.actions < 10, "{} actions", change.actions);
        }
        dataplane.settle().await.unwrap();
        assert_eq!(dataplane.state().observed.level(), []);
        let resynced = dataplane.resync().await.unwrap();
        assert_eq!(resynced, 0, "the maps hold what was written");
    });
}

#[test]
fn changes_before_any_whole_state_are_refused() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open(async |dataplane| {
        let early = dataplane.apply(Arc::default(), Generation(1)).await;
        assert!(matches!(early, Err(Error::Incomplete)), "{early:?}");
    });
}

#[test]
fn what_somebody_else_wrote_is_put_right_by_the_next_resync() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open_with_example(async |dataplane| {
        dataplane.settle().await.unwrap();
        let good = dataplane.state().loaded.tables.observe().unwrap();
        {
            let mut state = dataplane.state();
            let (slot, _) = state.observed.backends.iter().next().unwrap();
            let tables = &mut state.loaded.tables;
            tables.backends.set(slot, Default::default()).unwrap();
            tables.backend_ids.remove(&21).unwrap();
        }
        assert!(dataplane.resync().await.unwrap() > 0);
        dataplane.settle().await.unwrap();
        let read = dataplane.state().loaded.tables.observe().unwrap();
        assert_eq!(read.backends.count(), good.backends.count());
        assert_eq!(dataplane.resync().await.unwrap(), 0);
    });
}
