//! A node with a real dataplane, whose agent lives when it is needed.

use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use fairlead_api::{Generation, NodeName};
use fairlead_dataplane::{Changes, Config, Dataplane, FlowLimits};
use fairlead_proto::node::DataplaneState;
use serde_json::{Value, json};
use testbed::{Deadline, NetNs, NetNsHandle};

use crate::CLIENT;
use crate::family::{Family, V4, V6};
use crate::segment::Segment;
use crate::state::state;
use crate::traffic::serve;

/// A node, and the pod on it.
pub(crate) struct Node {
    pub(crate) host: NetNs,
    config: Config,
    pub(crate) pod: PathBuf,
    underlay: Family,
}

impl Node {
    pub(crate) fn new(segment: &Segment, number: u8, underlay: Family) -> Self {
        let name = format!("two-nodes-{}-{number}", std::process::id());
        testbed::mounts::ensure_bpffs().unwrap();
        let cgroups = testbed::cgroup::Hierarchies::mounted().unwrap();
        let files = segment.files.path().join(&name);
        let config = Config {
            node_name: NodeName::new(format!("node-{number}")),
            address: underlay.host(100 + number),
            other_address: Some(underlay.pick(V6, V4).host(100 + number)),
            uplinks: vec!["eth0".to_owned()],
            bpffs: PathBuf::from("/sys/fs/bpf").join(&name),
            cgroup: cgroups.unified.join(&name),
            state_dir: files.join("state"),
            flow_limits: FlowLimits::default(),
        };
        fs::create_dir(&config.cgroup).unwrap();
        let host = segment.host(100 + number);
        for family in Family::BOTH {
            let router = family.host(CLIENT);
            host.ip(&format!("route add default via {router}")).unwrap();
        }
        Self {
            host,
            config,
            pod: files.join("netns"),
            underlay,
        }
    }

    pub(crate) fn agent<T: Send, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(Config) -> F + Send,
    ) -> T {
        let life = self.host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(work(self.config.clone()))
        });
        life.unwrap()
    }

    /// One life of the agent: long enough to connect the pod, apply the state and find the ways.
    pub(crate) fn bring_up(&self, number: u8) {
        self.agent(async |config| {
            let dataplane = Dataplane::open(config).await.unwrap();
            let ranges = Family::BOTH.map(|family| family.pod_range(number).parse().unwrap());
            dataplane.set_pod_cidrs(ranges.to_vec()).await.unwrap();
            let addresses = dataplane.attach_pod("pod", &self.pod).await.unwrap();
            assert_eq!(addresses, Family::BOTH.map(|family| family.pod(number)));
            let whole = Arc::new(Changes::whole(state(self.underlay)));
            dataplane.apply(whole, Generation(1)).await.unwrap();
            let deadline = Deadline::seconds(30);
            let resolved = || {
                let nodes = dataplane.view("nodes", &json!({})).unwrap();
                nodes
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|node| node["resolved"] == true)
            };
            let found = deadline.until_async("the other node is found", async || resolved());
            found.await.unwrap();
        });
    }

    /// Another life of the agent, which changes the state.
    pub(crate) fn apply(&self, state: &DataplaneState, generation: u64) {
        self.agent(async |config| {
            let dataplane = Dataplane::open(config).await.unwrap();
            let whole = Arc::new(Changes::whole(state.clone()));
            dataplane
                .apply(whole, Generation(generation))
                .await
                .unwrap();
            dataplane.settle().await.unwrap();
        });
    }

    /// Another life of the agent, which lasts until frames are passed on to the other node or, unless
    /// `wanted`, are not any more. What netctl says of why.
    pub(crate) fn until_passed_on(&self, wanted: bool) -> String {
        self.agent(async |config| {
            let dataplane = Dataplane::open(config).await.unwrap();
            let whole = Arc::new(Changes::whole(state(self.underlay)));
            dataplane.apply(whole, Generation(1)).await.unwrap();
            let found = async || passed_on(&dataplane) == if wanted { "dr" } else { "tun" };
            let deadline = Deadline::seconds(60);
            deadline.until_async("the mode", found).await.unwrap();
            let backends = dataplane.view("backends", &json!({})).unwrap();
            elsewhere(&backends)["modeReason"]
                .as_str()
                .unwrap()
                .to_owned()
        })
    }

    /// What was dropped, by reason.
    pub(crate) fn drops(&self) -> Vec<(String, u64)> {
        let view = self.agent(async |config| {
            let dataplane = Dataplane::open(config).await.unwrap();
            dataplane.view("drops", &json!({})).unwrap()
        });
        let rows = view.as_array().unwrap().iter();
        rows.filter_map(|row| Some((row["reason"].as_str()?.to_owned(), row["packets"].as_u64()?)))
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }

    /// Answers every connection to the pod.
    pub(crate) fn serve(&self) {
        serve(&NetNsHandle::open(&self.pod).unwrap());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.agent(async |config| Dataplane::destroy(&config).await);
        let _ = fs::remove_dir(&self.config.cgroup);
    }
}

/// The first backend of a view that is on another node.
fn elsewhere(backends: &Value) -> &Value {
    let mut rows = backends.as_array().unwrap().iter();
    rows.find(|row| row["mode"] != "local").unwrap()
}

/// How packets for backends on the other node go.
fn passed_on(dataplane: &Dataplane) -> String {
    let backends = dataplane.view("backends", &json!({})).unwrap();
    elsewhere(&backends)["mode"].as_str().unwrap().to_owned()
}
