//! Controllers and scheduler on a real store of one member: what is asked for comes about.

use std::{future::Future, time::Duration};

use fairlead_api::k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
    core::v1::{Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::{Endpoint, EndpointSlice},
};
use fairlead_api::resource;
use fairlead_controllers::Config;
use fairlead_objects::{Grace, Object, ObjectName, WriteError, Writer};
use fairlead_store::{Key, MemberId, Store};
use serde_json::{Value, json};

/// How long anything may take to come about on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

struct Cluster {
    writer: Writer,
    running: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(fairlead_store::Config {
            data_dir: directory.path().to_owned(),
            member: MemberId(1),
            cluster_id: "test".to_owned(),
            endpoint: "https://198.18.0.11:6445".to_owned(),
            tls: None,
            timing: fairlead_store::Timing::default(),
            limits: fairlead_store::Limits::default(),
        })
        .await
        .unwrap();
        store.initialize().await.unwrap();
        let mut config = Config::new(
            "10.244.0.0/16".parse().unwrap(),
            "10.96.0.0/16".parse().unwrap(),
            vec!["198.18.100.1/32".parse().unwrap()],
        );
        config.node_grace = Duration::from_secs(3600);
        let running = tokio::spawn(fairlead_controllers::run(
            store.clone(),
            config,
            std::future::pending(),
        ));
        let cluster = Self {
            writer: Writer::new(store),
            running,
            _directory: directory,
        };
        cluster
            .exists::<Namespace>(&ObjectName::cluster("default"))
            .await;
        cluster
    }

    async fn create<K: Object>(&self, value: Value) -> K {
        self.writer
            .create(serde_json::from_value::<K>(value).unwrap())
            .await
            .unwrap()
            .object
    }

    fn list<K: Object>(&self) -> Vec<K> {
        let resource = K::resource();
        let prefix = Key::prefix(resource.group, resource.plural, None);
        let snapshot = self.writer.store().snapshot();
        snapshot
            .range(&prefix, None)
            .map(|entry| serde_json::from_slice(&entry.value).unwrap())
            .collect()
    }

    /// Waits until `check` finds what it looks for.
    async fn until<T>(&self, what: &str, check: impl Fn() -> Option<T>) -> T {
        let mut watch = self
            .writer
            .store()
            .watch("/registry/", self.writer.store().snapshot().revision())
            .unwrap();
        let found = async {
            loop {
                if let Some(found) = check() {
                    return found;
                }
                watch.next().await.unwrap();
            }
        };
        within(what, found).await
    }

    async fn exists<K: Object>(&self, name: &ObjectName) -> K {
        self.until(&format!("{name} exists"), || {
            self.writer.get::<K>(name).unwrap()
        })
        .await
    }

    /// A node as its agent registers it, with room for `pods` pods.
    async fn node(&self, name: &str, pods: &str) {
        self.exists::<Namespace>(&ObjectName::cluster("kube-node-lease"))
            .await;
        self.create::<Lease>(json!({
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"},
        }))
        .await;
        self.create::<Node>(json!({
            "metadata": {"name": name},
            "status": {
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": pods},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .await;
    }

    /// Reports every bound pod ready, and every pod that is to go gone, as agents do.
    async fn agents(&self) {
        for pod in self.list::<Pod>() {
            let name = pod.object_name();
            if pod.spec.as_ref().unwrap().node_name.is_none() {
                continue;
            }
            if pod.is_terminating() {
                self.writer
                    .delete(&resource::POD, &name, Some(pod.uid()), Grace::Immediate)
                    .await
                    .unwrap();
                continue;
            }
            let octet = pod.uid().bytes().fold(7_u8, u8::wrapping_add);
            let ready = |pod: &mut Pod| {
                let status = pod.status.get_or_insert_default();
                if status.phase.as_deref() == Some("Running") {
                    return;
                }
                let conditions = status.conditions.take().unwrap_or_default();
                *status = serde_json::from_value(json!({
                    "phase": "Running", "podIP": format!("10.244.0.{octet}"),
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                }))
                .unwrap();
                status.conditions.get_or_insert_default().extend(conditions);
            };
            match self
                .writer
                .update::<Pod>(&name, Some(pod.uid()), ready)
                .await
            {
                Ok(_) | Err(WriteError::Missing(_)) => {}
                Err(cause) => panic!("{cause:?}"),
            }
        }
    }

    /// Plays the agents until `check` finds what it looks for.
    async fn until_with_agents<T>(&self, what: &str, check: impl Fn() -> Option<T>) -> T {
        let mut watch = self
            .writer
            .store()
            .watch("/registry/", self.writer.store().snapshot().revision())
            .unwrap();
        let found = async {
            loop {
                self.agents().await;
                if let Some(found) = check() {
                    return found;
                }
                watch.next().await.unwrap();
            }
        };
        within(what, found).await
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"))
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image, "ports": [{"containerPort": 8080}]}]},
            },
        },
    })
}

fn web() -> ObjectName {
    ObjectName::new("default", "web")
}

fn is_rolled_out(cluster: &Cluster, replicas: i32) -> Option<Deployment> {
    let deployment = cluster.writer.get::<Deployment>(&web()).unwrap()?;
    let status = deployment.status.clone().unwrap_or_default();
    let is_done = status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == Some(replicas)
        && status.replicas == Some(replicas)
        && status.available_replicas == Some(replicas);
    is_done.then_some(deployment)
}

#[tokio::test(flavor = "multi_thread")]
async fn new_cluster_has_namespaces_accounts_and_the_service_kubernetes() {
    let cluster = Cluster::start().await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        cluster
            .exists::<Namespace>(&ObjectName::cluster(name))
            .await;
        cluster
            .exists::<ServiceAccount>(&ObjectName::new(name, "default"))
            .await;
    }
    let kubernetes = ObjectName::new("default", "kubernetes");
    let service: Service = cluster.exists(&kubernetes).await;
    assert_eq!(
        service.spec.unwrap().cluster_ip.as_deref(),
        Some("10.96.0.1")
    );
    let slice: EndpointSlice = cluster.exists(&kubernetes).await;
    assert_eq!(slice.endpoints.unwrap()[0].addresses, ["198.18.0.11"]);
    cluster.exists::<Endpoints>(&kubernetes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deployment_is_scheduled_published_rolled_and_collected() {
    let cluster = Cluster::start().await;
    for node in ["n1", "n2", "n3"] {
        cluster.node(node, "10").await;
    }
    cluster
        .create::<Service>(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }))
        .await;
    let created: Deployment = cluster.create(deployment(3, "v1")).await;
    cluster
        .until_with_agents("rollout of v1", || is_rolled_out(&cluster, 3))
        .await;

    let nodes: std::collections::BTreeSet<_> = cluster
        .list::<Pod>()
        .into_iter()
        .filter_map(|pod| pod.spec?.node_name)
        .collect();
    assert_eq!(nodes.len(), 3, "one pod a node");
    let ranges: std::collections::BTreeSet<_> = cluster
        .list::<Node>()
        .into_iter()
        .filter_map(|node| node.spec?.pod_cidr)
        .collect();
    assert_eq!(ranges.len(), 3, "each node has its own range: {ranges:?}");
    cluster
        .until("three ready endpoints", || {
            let slices = cluster.list::<EndpointSlice>();
            let slice = slices
                .into_iter()
                .find(|slice| slice.object_name().name.starts_with("web-"))?;
            let is_ready = |one: &&Endpoint| {
                one.conditions
                    .as_ref()
                    .is_some_and(|state| state.ready == Some(true))
            };
            (slice.endpoints?.iter().filter(is_ready).count() == 3).then_some(())
        })
        .await;
    let service: Service = cluster
        .until("address", || {
            let service = cluster.writer.get::<Service>(&web()).unwrap()?;
            service
                .status
                .clone()?
                .load_balancer?
                .ingress?
                .first()?
                .ip
                .clone()
                .map(|_| service)
        })
        .await;
    assert_eq!(
        service
            .status
            .unwrap()
            .load_balancer
            .unwrap()
            .ingress
            .unwrap()[0]
            .ip
            .as_deref(),
        Some("198.18.100.1")
    );

    let roll = |deployment: &mut Deployment| {
        let spec = deployment.spec.template.spec.as_mut().unwrap();
        spec.containers[0].image = Some("v2".to_owned());
    };
    cluster
        .writer
        .update::<Deployment>(&web(), Some(created.uid()), roll)
        .await
        .unwrap();
    let rolled = cluster
        .until_with_agents("rollout of v2", || is_rolled_out(&cluster, 3))
        .await;
    assert_eq!(
        rolled.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"],
        "2"
    );
    assert_eq!(
        cluster.list::<ReplicaSet>().len(),
        2,
        "the old set stays for a rollback"
    );

    cluster
        .writer
        .delete(
            &resource::DEPLOYMENT,
            &web(),
            Some(created.uid()),
            Grace::Pod,
        )
        .await
        .unwrap();
    cluster
        .until_with_agents("everything owned is gone", || {
            (cluster.list::<ReplicaSet>().is_empty() && cluster.list::<Pod>().is_empty())
                .then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_fits_nowhere_says_why_and_is_bound_when_a_node_comes() {
    let cluster = Cluster::start().await;
    cluster.node("n1", "0").await;
    let pod: Pod = cluster
        .create(json!({
            "metadata": {"name": "one", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }))
        .await;
    let name = pod.object_name();
    let condition = cluster
        .until("refusal", || {
            let conditions = cluster
                .writer
                .get::<Pod>(&name)
                .unwrap()?
                .status?
                .conditions?;
            conditions
                .into_iter()
                .find(|condition| condition.type_ == "PodScheduled")
        })
        .await;
    assert_eq!(condition.reason.as_deref(), Some("Unschedulable"));
    let message = "0/1 nodes are available: 1 Too many pods.";
    assert_eq!(condition.message.as_deref(), Some(message));
    cluster
        .until("event", || {
            let mut events = cluster.list::<Event>().into_iter();
            events.find(|event| {
                event.reason.as_deref() == Some("FailedScheduling")
                    && event.message.as_deref() == Some(message)
            })
        })
        .await;
    cluster.node("n2", "10").await;
    cluster
        .until("binding", || {
            let pod = cluster.writer.get::<Pod>(&name).unwrap()?;
            (pod.spec?.node_name.as_deref() == Some("n2")).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_service_waits_for_the_only_address_until_it_is_freed() {
    let cluster = Cluster::start().await;
    let service = |name: &str| {
        json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        })
    };
    let address = |name: &str| {
        let service = cluster
            .writer
            .get::<Service>(&ObjectName::new("default", name))
            .unwrap()?;
        service.status?.load_balancer?.ingress?.first()?.ip.clone()
    };
    cluster.create::<Service>(service("first")).await;
    cluster.until("the first has it", || address("first")).await;
    cluster.create::<Service>(service("second")).await;
    cluster
        .until("the second is told", || {
            let mut events = cluster.list::<Event>().into_iter();
            events.find(|event| event.reason.as_deref() == Some("AllocationFailed"))
        })
        .await;
    assert_eq!(address("second"), None);
    let first = ObjectName::new("default", "first");
    cluster
        .writer
        .delete(&resource::SERVICE, &first, None, Grace::Pod)
        .await
        .unwrap();
    let freed = cluster
        .until("the second has it", || address("second"))
        .await;
    assert_eq!(freed, "198.18.100.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_namespace_is_emptied_before_it_goes() {
    let cluster = Cluster::start().await;
    cluster.node("n1", "10").await;
    cluster
        .create::<Namespace>(json!({
            "metadata": {"name": "shop"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        }))
        .await;
    let mut value = deployment(2, "v1");
    value["metadata"]["namespace"] = json!("shop");
    cluster.create::<Deployment>(value).await;
    cluster
        .until_with_agents("pods run", || {
            let pods = cluster.list::<Pod>();
            let running = pods.iter().filter(|pod| {
                pod.status
                    .as_ref()
                    .is_some_and(|status| status.pod_ip.is_some())
            });
            (running.count() == 2).then_some(())
        })
        .await;
    let shop = ObjectName::cluster("shop");
    cluster
        .writer
        .delete(&resource::NAMESPACE, &shop, None, Grace::Pod)
        .await
        .unwrap();
    cluster
        .until_with_agents("namespace is gone", || {
            cluster
                .writer
                .get::<Namespace>(&shop)
                .unwrap()
                .is_none()
                .then_some(())
        })
        .await;
    assert!(cluster.list::<Pod>().is_empty() && cluster.list::<Deployment>().is_empty());
}
