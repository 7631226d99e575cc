//! Pods' links in real namespaces, without any program: the kernel's own forwarding carries them.

use std::time::Duration;

use testbed::{NetNs, NetNsHandle, skip_without_root};

use super::*;
use crate::examples::reaches;

/// A host with a node address and room for pods.
struct Host {
    netns: NetNs,
    files: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let netns = NetNs::unique("pods").unwrap();
        netns.ip("link set lo up").unwrap();
        for address in ["198.18.0.101/32", "2001:db8::101/128"] {
            netns.ip(&format!("address add {address} dev lo")).unwrap();
        }
        netns.sysctl("net.ipv4.ip_forward", "1").unwrap();
        Self {
            netns,
            files: tempfile::tempdir().unwrap(),
        }
    }

    fn namespace(&self, pod: &str) -> PathBuf {
        self.files.path().join("netns").join(pod)
    }

    /// One life of an agent on this host.
    fn agent<T: Send>(&self, work: impl AsyncFnOnce(PodNetwork) -> T + Send) -> T {
        let life = self.netns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let netlink = Netlink::open().unwrap();
                let addresses = ["198.18.0.101", "2001:db8::101"].map(|own| own.parse().unwrap());
                let pods = PodNetwork::open(netlink, addresses.to_vec(), 1450, self.files.path());
                let pods = pods.unwrap();
                let ranges = ["10.244.1.0/24", "2001:db8:a:1::/64"];
                pods.set_ranges(&ranges.map(|range| range.parse().unwrap()))
                    .unwrap();
                work(pods).await
            })
        });
        life.unwrap()
    }
}

async fn connect(pods: &PodNetwork, uid: &str, namespace: &Path) -> PodLink {
    let pod = pods.prepare(uid, namespace).await.unwrap();
    pods.raise(&pod).await.unwrap();
    pod
}

#[test]
fn pods_reach_their_host_and_each_other() {
    if skip_without_root() {
        return;
    }
    let host = Host::new();
    let (a, b) = (host.namespace("a"), host.namespace("b"));
    host.agent(async |pods| {
        let link = connect(&pods, "uid-a", &a).await;
        assert_eq!(
            connect(&pods, "uid-a", &a).await,
            link,
            "connecting again changes nothing"
        );
        assert_eq!(link.host.mtu, 1450);
        connect(&pods, "uid-b", &b).await;
        let inside = NetNsHandle::open(&a).unwrap();
        assert!(reaches(&inside, "127.0.0.1"));
        for (own, other, pod) in [
            ("198.18.0.101", "10.244.1.2", "10.244.1.1"),
            ("2001:db8::101", "2001:db8:a:1::2", "2001:db8:a:1::1"),
        ] {
            assert!(reaches(&inside, own), "{own}");
            assert!(reaches(&inside, other), "{other}");
            assert!(reaches(&host.netns, pod), "{pod}");
        }
        assert!(inside.ip("-o link show eth0").unwrap().contains("mtu 1450"));
        drop(inside);
        for (uid, namespace) in [("uid-a", &a), ("uid-b", &b), ("uid-b", &b)] {
            pods.remove(uid, namespace).await.unwrap();
            assert!(!namespace.exists());
        }
    });
    assert!(!host.netns.ip("-o link show").unwrap().contains(": fl"));
    assert_eq!(host.netns.ip("route").unwrap().trim(), "");
    let left = host.netns.ip("-6 route").unwrap();
    assert!(!left.contains("2001:db8:a:"), "{left}");
}

#[test]
fn pod_of_both_families_has_what_it_was_given_and_nothing_of_its_own_making() {
    if skip_without_root() {
        return;
    }
    let host = Host::new();
    let a = host.namespace("a");
    host.agent(async |pods| {
        connect(&pods, "uid-a", &a).await;
        let inside = NetNsHandle::open(&a).unwrap();
        let addresses = inside.ip("-o -6 address show dev eth0").unwrap();
        assert_eq!(addresses.lines().count(), 1, "{addresses}");
        assert!(addresses.contains("2001:db8:a:1::1/128"), "{addresses}");
        assert!(!addresses.contains("tentative"), "{addresses}");
        let neighbours = inside.ip("neighbour").unwrap();
        assert!(
            neighbours.lines().all(|line| line.contains("PERMANENT")),
            "{neighbours}"
        );
        pods.remove("uid-a", &a).await.unwrap();
    });
}

#[test]
fn host_that_begins_to_forward_still_believes_its_router() {
    if skip_without_root() {
        return;
    }
    let host = Host::new();
    host.netns
        .ip("link add eth0 type veth peer name eth1")
        .unwrap();
    host.netns
        .sysctl("net.ipv6.conf.eth0.accept_ra", "1")
        .unwrap();
    let a = host.namespace("a");
    host.agent(async |pods| {
        connect(&pods, "uid-a", &a).await;
        pods.remove("uid-a", &a).await.unwrap();
    });
    let read = |name: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/{name}");
        host.netns
            .run(|| fs::read_to_string(path).unwrap())
            .unwrap()
    };
    assert_eq!(read("all/forwarding").trim(), "1");
    assert_eq!(read("eth0/accept_ra").trim(), "2");
}

#[test]
fn pod_without_a_link_gives_its_address_back_at_the_next_start() {
    if skip_without_root() {
        return;
    }
    let host = Host::new();
    let (a, b) = (host.namespace("a"), host.namespace("b"));
    host.agent(async |pods| {
        let lost = connect(&pods, "uid-a", &a).await;
        connect(&pods, "uid-b", &b).await;
        pods.netlink.delete_link(lost.host.index).await.unwrap();
    });
    host.agent(async |pods| {
        let kept = pods.recover().await.unwrap();
        assert_eq!(
            kept.iter().map(|pod| pod.uid.as_str()).collect::<Vec<_>>(),
            ["uid-b"]
        );
        assert_eq!(pods.addresses("uid-a"), None);
        assert!(
            reaches(&host.netns, "10.244.1.2"),
            "the other pod was not touched"
        );
        remove_all(&pods.netlink, host.files.path()).await.unwrap();
    });
    assert!(!b.exists());
    netns::remove(&a).unwrap();
}

#[test]
fn namespace_made_anew_gets_a_link_anew() {
    if skip_without_root() {
        return;
    }
    let host = Host::new();
    let a = host.namespace("a");
    host.agent(async |pods| {
        let before = connect(&pods, "uid-a", &a).await;
        netns::remove(&a).unwrap();
        let after = connect(&pods, "uid-a", &a).await;
        assert_eq!(after.addresses, before.addresses);
        assert!(reaches(&host.netns, "10.244.1.1"));
        pods.remove("uid-a", &a).await.unwrap();
    });
}

#[test]
fn way_to_a_neighbour_is_found_and_followed() {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use crate::local::Way;
    use crate::neighbours;

    if skip_without_root() {
        return;
    }
    let host = NetNs::unique("near").unwrap();
    let peer = NetNs::unique("far").unwrap();
    host.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}",
        peer.name()
    ))
    .unwrap();
    for (side, address) in [(&host, "198.18.0.101/24"), (&peer, "198.18.0.102/24")] {
        side.ip(&format!("address add {address} dev eth0")).unwrap();
        side.ip("link set eth0 up").unwrap();
    }
    host.ip("route add default via 198.18.0.102").unwrap();
    peer.ip("link set eth0 address 02:00:00:00:00:02").unwrap();
    let life = host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            // One on the segment, and one behind it.
            let nodes: [IpAddr; 2] = [[198, 18, 0, 102].into(), [198, 18, 1, 7].into()];
            let (wanted, receiver) = tokio::sync::watch::channel(Arc::new(BTreeSet::from(nodes)));
            let (sender, mut found) = tokio::sync::mpsc::unbounded_channel::<(IpAddr, Way)>();
            let follow =
                neighbours::follow(Netlink::open().unwrap(), receiver, move |node, way| {
                    let _ = sender.send((node, way));
                });
            let follow = tokio::spawn(follow);
            let mut wait_for = async |mac: Mac| {
                let mut waiting = BTreeSet::from(nodes);
                while !waiting.is_empty() {
                    let next = tokio::time::timeout(Duration::from_secs(30), found.recv()).await;
                    let (node, way) = next.expect("a way within the deadline").unwrap();
                    assert_eq!(way.mtu, 1500);
                    if way.mac == Some(mac) {
                        waiting.remove(&node);
                    }
                }
            };
            wait_for([2, 0, 0, 0, 0, 2]).await;
            peer.ip("link set eth0 address 02:00:00:00:00:22").unwrap();
            host.ip("neighbour flush dev eth0").unwrap();
            assert!(reaches(&host, "198.18.0.102"));
            wait_for([2, 0, 0, 0, 0, 0x22]).await;
            drop(wanted);
            follow.await.unwrap().unwrap();
        });
    });
    life.unwrap();
}
