//! An agent of another version of the maps' layouts takes a node over, under traffic.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;
use std::time::Instant;

use fairlead_dataplane_common::{FlowEntry, FlowKey, TrackEntry};
use fairlead_proto::node::Protocol;

use super::*;
use crate::links::{self, Attachment, Links};
use crate::sys::{self, Target};

const OLD: u32 = maps::SCHEMA_VERSION;
const NEW: u32 = OLD + 1;

type Attachments = BTreeMap<String, Attachment>;

/// Numbered datagrams that may be on their way at a time.
const ON_THE_WAY: usize = 16;

/// Where the pod is met.
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 100, 1));

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exchanges that show that a version serves.
const ENOUGH: usize = 500;

/// The pod's only service over TCP, and over UDP; the flows of the latter are noted.
fn one_pod() -> DataplaneState {
    let mut state = state();
    // Who is across the wire is a client here, and no node.
    state.nodes.truncate(1);
    state.routes.truncate(1);
    let over_tcp = &mut state.services[0];
    over_tcp.backends.truncate(1);
    let mut over_udp = over_tcp.clone();
    over_udp.id = 2;
    over_udp.name = "echo".to_owned();
    over_udp.protocol = Protocol::Udp.into();
    over_udp.backends[0].id = 21;
    state.services[1] = over_udp;
    state
}

/// A node whose pod answers a client across the wire.
struct Served {
    fixture: Fixture,
    /// How many questions were answered.
    answers: AtomicUsize,
}

impl Served {
    /// By an agent of the version [`OLD`], which has gone.
    fn new() -> Option<Self> {
        let fixture = Fixture::new()?;
        let peer = &fixture.peer;
        peer.ip("route add 198.18.100.0/24 via 198.18.0.101")
            .unwrap();
        peer.take_xdp_frames("eth0").unwrap();
        let netns = fixture.pod_netns();
        life(&fixture, OLD, async |dataplane| {
            let ranges = vec!["10.244.1.0/24".parse().unwrap()];
            dataplane.set_pod_cidrs(ranges).await.unwrap();
            dataplane.attach_pod("uid-a", &netns).await.unwrap();
            let applied = dataplane.apply(whole(&one_pod()), Generation(5)).await;
            applied.unwrap();
        });
        answer(&NetNsHandle::open(&netns).unwrap());
        Some(Self {
            fixture,
            answers: AtomicUsize::new(0),
        })
    }

    /// Does `work` while the client asks: every datagram is answered, the connection that was there
    /// before is there after, and new ones are made.
    fn under_traffic(&self, work: impl FnOnce()) {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ending = Ending(&is_over);
            let kept = self.connect();
            let datagrams = scope.spawn(|| self.exchange_datagrams(&is_over));
            let kept = scope.spawn(|| self.exchange_lines(kept, &is_over));
            let new = scope.spawn(|| self.connect_anew(&is_over));
            work();
            is_over.store(true, Ordering::Relaxed);
            let lost = datagrams.join().unwrap();
            assert!(lost.is_empty(), "lost: {lost:?}");
            kept.join().unwrap();
            new.join().unwrap();
        });
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let connected = self.fixture.peer.run(|| {
            let begun = Instant::now();
            let stream = TcpStream::connect_timeout(&(VIP, 80).into(), PATIENCE).unwrap();
            // A SYN is sent a second time after a second.
            assert!(begun.elapsed() < Duration::from_secs(1), "a SYN was lost");
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            BufReader::new(stream)
        });
        connected.unwrap()
    }

    /// Asks again and again on one connection.
    fn exchange_lines(&self, mut stream: BufReader<TcpStream>, is_over: &AtomicBool) {
        let mut line = String::new();
        for number in 0.. {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            writeln!(stream.get_mut(), "{number}").unwrap();
            line.clear();
            stream.read_line(&mut line).unwrap();
            assert_eq!(line, format!("{number}\n"));
        }
    }

    /// Asks on one connection after the other.
    fn connect_anew(&self, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            let mut stream = self.connect();
            writeln!(stream.get_mut(), "once").unwrap();
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            assert_eq!(line, "once\n");
        }
    }

    /// Sends numbers and waits for them to come back; those that do not.
    fn exchange_datagrams(&self, is_over: &AtomicBool) -> BTreeSet<u64> {
        let bound = self.fixture.peer.run(|| UdpSocket::bind("0.0.0.0:0"));
        let socket = bound.unwrap().unwrap();
        socket.connect((VIP, 80)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut on_the_way = BTreeSet::new();
        let mut numbers = 0_u64..;
        loop {
            while on_the_way.len() < ON_THE_WAY && !is_over.load(Ordering::Relaxed) {
                let number = numbers.next().unwrap();
                socket.send(&number.to_be_bytes()).unwrap();
                on_the_way.insert(number);
            }
            let mut number = [0; 8];
            if on_the_way.is_empty() || socket.recv(&mut number).is_err() {
                return on_the_way;
            }
            on_the_way.remove(&u64::from_be_bytes(number));
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until it is certain that questions are being answered.
    async fn is_served(&self) {
        let before = self.answers.load(Ordering::Relaxed);
        until("questions are answered", async || {
            self.answers.load(Ordering::Relaxed) > before + ENOUGH
        })
        .await;
    }

    /// The life of an agent of `version` that comes in while `serving` serves, and takes over.
    fn succeed(&self, version: u32, serving: u32, generation: u64) {
        let before = self.attachments(serving);
        life(&self.fixture, version, async |dataplane| {
            assert_eq!(dataplane.state().loaded.served_by(), Some(serving));
            assert_eq!(
                dataplane.view("status", &json!({})).unwrap()["servedByVersion"],
                serving
            );
            assert_eq!(dataplane.state().loaded.attachments().unwrap(), before);
            self.is_served().await;
            let applied = dataplane
                .apply(whole(&one_pod()), Generation(generation))
                .await;
            applied.unwrap();
            self.is_succeeded(&dataplane, &before);
            dataplane.settle().await.unwrap();
            self.is_served().await;
        });
        assert_eq!(self.versions(), [version]);
    }

    /// Asserts that every link is what it was `before`, with another program in it, and that nothing
    /// else of ours is at its hook.
    fn is_succeeded(&self, dataplane: &Dataplane, before: &Attachments) {
        let loaded = &dataplane.state().loaded;
        assert_eq!(loaded.served_by(), None);
        let after = loaded.attachments().unwrap();
        assert!(before.keys().eq(after.keys()), "{before:?} {after:?}");
        let old: BTreeSet<u32> = before.values().map(|hook| hook.program).collect();
        for (hook, is) in &after {
            assert_eq!(is.link, before[hook].link, "{hook} was detached");
            assert!(!old.contains(&is.program), "{hook} has its old program");
        }
        let uplink = links::interface_index("eth0").unwrap();
        for hook in [sys::TCX_INGRESS, sys::TCX_EGRESS] {
            let attached = sys::attached(Target::Interface(uplink), hook).unwrap();
            assert_eq!(attached.len(), 1, "one program of ours");
        }
    }

    fn folder(&self, version: u32) -> PathBuf {
        self.fixture.config.bpffs.join(format!("v{version}"))
    }

    fn attachments(&self, version: u32) -> Attachments {
        Links::new(self.folder(version).join("links"))
            .attachments()
            .unwrap()
    }

    /// The versions that have something pinned.
    fn versions(&self) -> Vec<u32> {
        [OLD, NEW]
            .into_iter()
            .filter(|version| self.folder(*version).exists())
            .collect()
    }

    /// The life of an agent of the version [`NEW`] that ends while it takes over from [`OLD`]: some
    /// links have gone over to its folder, and some have not.
    fn end_half_way(&self) {
        let [first, .., last] = &self.links_as_listed()[..] else {
            panic!("a node has links");
        };
        life(&self.fixture, NEW, async |dataplane| {
            let in_the_way = self.folder(NEW).join("links").join(last);
            fs::create_dir(&in_the_way).unwrap();
            let applied = dataplane.apply(whole(&one_pod()), Generation(6)).await;
            assert!(matches!(applied, Err(Error::Programs(_))), "{applied:?}");
            fs::remove_dir(&in_the_way).unwrap();
        });
        assert!(self.attachments(NEW).contains_key(first));
        assert!(self.attachments(OLD).contains_key(last));
    }

    /// The names of the old version's links, in the order in which they go over.
    fn links_as_listed(&self) -> Vec<String> {
        fs::read_dir(self.folder(OLD).join("links"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// Sets what it holds when it goes, also when a test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `work` as an agent of `version`.
fn life<T: Send>(
    fixture: &Fixture,
    version: u32,
    work: impl AsyncFnOnce(Dataplane) -> T + Send,
) -> T {
    fixture.agent(async |config| {
        let place = Place {
            version,
            ..config.place()
        };
        work(Dataplane::open_at(config, place).await.unwrap()).await
    })
}

/// Sends everything back that comes to a pod, for as long as the test runs.
fn answer(pod: &NetNsHandle) {
    let (listener, socket) = pod
        .run(|| {
            let any = "0.0.0.0:8080";
            (
                TcpListener::bind(any).unwrap(),
                UdpSocket::bind(any).unwrap(),
            )
        })
        .unwrap();
    thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, client)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], client);
        }
    });
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || {
                // A client that went away is its own affair.
                let _ = std::io::copy(&mut &stream, &mut &stream);
            });
        }
    });
}

#[test]
fn node_goes_over_to_a_newer_version_and_back_without_a_packet_lost() {
    let Some(served) = Served::new() else {
        return;
    };
    served.under_traffic(|| {
        served.succeed(NEW, OLD, 6);
        served.succeed(OLD, NEW, 6);
    });
}

#[test]
fn agent_that_is_told_nothing_leaves_the_node_to_the_version_before() {
    let Some(served) = Served::new() else {
        return;
    };
    let before = served.attachments(OLD);
    served.under_traffic(|| {
        for _ in 0..2 {
            life(&served.fixture, NEW, async |dataplane| {
                assert_eq!(dataplane.generation(), Generation(5), "what is in force");
                served.is_served().await;
            });
            assert_eq!(served.attachments(OLD), before);
        }
        life(&served.fixture, OLD, async |dataplane| {
            served.is_succeeded(&dataplane, &before);
            served.is_served().await;
        });
        assert_eq!(served.versions(), [OLD]);
    });
}

#[test]
fn takeover_cut_short_is_finished_by_the_next_agent_of_either_version() {
    for next in [NEW, OLD] {
        let Some(served) = Served::new() else {
            return;
        };
        let before = served.attachments(OLD);
        served.under_traffic(|| {
            served.end_half_way();
            life(&served.fixture, next, async |dataplane| {
                served.is_succeeded(&dataplane, &before);
                served.is_served().await;
                let applied = dataplane.apply(whole(&one_pod()), Generation(7)).await;
                applied.unwrap();
                served.is_served().await;
            });
            assert_eq!(served.versions(), [next]);
        });
    }
}

#[test]
fn maps_of_another_layout_begin_empty_and_backends_keep_their_slots() {
    /// Of an entry in `flows`.
    const KEY: u64 = 7;
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let flow = FlowKey {
        protocol: 17,
        ..FlowKey::default()
    };
    let second_only = || {
        let mut state = state();
        state.services.remove(0);
        whole(&state)
    };
    let slot = life(&fixture, OLD, async |dataplane| {
        let applied = dataplane.apply(whole(&state()), Generation(5)).await;
        applied.unwrap();
        let applied = dataplane.apply(second_only(), Generation(6)).await;
        applied.unwrap();
        dataplane.settle().await.unwrap();
        let mut state = dataplane.state();
        let slot = state.observed.backend_ids[&21];
        let noted = TrackEntry {
            backend: 21,
            backend_slot: slot,
            ..TrackEntry::default()
        };
        let tables = &mut state.loaded.tables;
        tables.flows.insert(KEY, noted, 0).unwrap();
        tables
            .replies
            .insert(flow, FlowEntry::default(), 0)
            .unwrap();
        slot
    });
    let folder = |version: u32| fixture.config.bpffs.join(format!("v{version}/maps"));
    let give_another_layout = |version: u32, name: &str, of: &str| {
        let other = sys::pinned(&folder(version).join(of)).unwrap().unwrap();
        fs::remove_file(folder(version).join(name)).unwrap();
        sys::pin(other.as_fd(), &folder(version).join(name)).unwrap();
    };
    let is_held = |dataplane: &Dataplane| {
        let tables = &dataplane.state().loaded.tables;
        let (noted, answered) = (tables.flows.get(&KEY, 0), tables.replies.get(&flow, 0));
        (noted.is_ok(), answered.is_ok())
    };

    give_another_layout(OLD, maps::BACKENDS, maps::NODES);
    life(&fixture, NEW, async |dataplane| {
        assert_eq!(is_held(&dataplane), (true, true));
        let applied = dataplane.apply(second_only(), Generation(7)).await;
        applied.unwrap();
        let state = dataplane.state();
        assert_eq!(state.observed.backend_ids[&21], slot);
        let backend = state.loaded.tables.backends.get(slot).unwrap();
        assert_eq!(backend.address, Ipv4Addr::new(10, 244, 1, 2).into());
    });

    give_another_layout(NEW, maps::BACKEND_IDS, maps::AFFINITY);
    life(&fixture, OLD, async |dataplane| {
        assert_eq!(
            is_held(&dataplane),
            (false, true),
            "a slot is another backend's"
        );
        let applied = dataplane.apply(second_only(), Generation(8)).await;
        applied.unwrap();
        assert_eq!(dataplane.state().loaded.served_by(), None);
    });
}
