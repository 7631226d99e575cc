//! The example application: applied with kubectl, waited for, and asked.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Cluster, Host};
use crate::{Deadline, Progress};

/// How long pods may take from being applied to being in every node's maps.
const AVAILABLE_S: u64 = 120;

/// An application that answers at a virtual address.
#[derive(Clone, Debug)]
pub struct Published {
    /// The Service's virtual address, of its first family.
    pub vip: String,
    /// All its virtual addresses, one a family.
    pub vips: Vec<IpAddr>,
    /// How many pods are behind it.
    pub pods: u64,
}

impl Cluster {
    /// Waits until a Deployment is available with all its pods, its Service of the same name has
    /// a virtual address, and every node has acknowledged both in its maps.
    ///
    /// # Errors
    /// Not in time; the error says what the pods are waiting for.
    pub fn wait_published(
        &self,
        namespace: &str,
        name: &str,
        progress: &Progress,
    ) -> Result<Published> {
        let deadline = Deadline::seconds(AVAILABLE_S);
        let outcome = self.wait_for(deadline, &format!("{namespace}/{name} available"), || {
            self.look_published(namespace, name, progress)
        });
        match outcome {
            Ok(published) => {
                progress.step(format!(
                    "{} pods available at {}, published to {} nodes",
                    published.pods,
                    published.vip,
                    self.spec().nodes
                ));
                Ok(published)
            }
            Err(error) => {
                let pods = self
                    .kubectl()?
                    .run(&format!("describe pods -n {namespace}"))?;
                Err(error.context(format!("the pods of {namespace}:\n{}", pods.stdout)))
            }
        }
    }

    fn look_published(
        &self,
        namespace: &str,
        name: &str,
        progress: &Progress,
    ) -> Result<Option<Published>> {
        let kubectl = self.kubectl()?;
        let deployment = kubectl.json(&format!("get deployment {name} -n {namespace} -o json"))?;
        let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        let available = deployment["status"]["availableReplicas"]
            .as_u64()
            .unwrap_or(0);
        let updated = deployment["status"]["updatedReplicas"]
            .as_u64()
            .unwrap_or(0);
        let total = deployment["status"]["replicas"].as_u64().unwrap_or(0);
        let observed =
            deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"];
        progress.state(format!("{available} of {wanted} pods available"));
        if !observed || available != wanted || updated != wanted || total != wanted {
            return Ok(None);
        }
        let service = kubectl.json(&format!("get service {name} -n {namespace} -o json"))?;
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
        let vips: Vec<IpAddr> = ingress
            .into_iter()
            .flatten()
            .filter_map(|ingress| ingress["ip"].as_str()?.parse().ok())
            .collect();
        let families = service["spec"]["ipFamilies"].as_array().map_or(1, Vec::len);
        let [vip, ..] = vips[..] else {
            progress.state("waiting for a virtual address");
            return Ok(None);
        };
        if vips.len() < families {
            progress.state("waiting for virtual addresses of all families");
            return Ok(None);
        }
        for vip in &vips {
            let behind = self.nodes_without(&vip.to_string(), wanted)?;
            if !behind.is_empty() {
                progress.state(format!("waiting for the maps of {}", behind.join(", ")));
                return Ok(None);
            }
        }
        Ok(Some(Published {
            vip: vip.to_string(),
            vips,
            pods: wanted,
        }))
    }

    /// The nodes whose maps do not hold a frontend at `vip` with exactly `backends` backends.
    ///
    /// # Errors
    /// The control plane does not answer.
    pub fn nodes_without(&self, vip: &str, backends: u64) -> Result<Vec<String>> {
        let mut behind = Vec::new();
        for node in self.spec().node_hosts() {
            let services = self.node_view(node, "services")?;
            if !holds(&services, vip, backends) {
                behind.push(node.to_string());
            }
        }
        Ok(behind)
    }

    /// What a node's dataplane answers for a view: `services`, `backends`, `flows`, `drops`,
    /// `routes`, `status`.
    ///
    /// # Errors
    /// The node is not connected or knows no such view.
    pub fn node_view(&self, node: Host, view: &str) -> Result<Value> {
        self.kubectl()?
            .json(&format!("get --raw /fairlead/v1/nodes/{node}/{view}"))
    }

    /// Applies the example with kubectl and waits until it is published.
    ///
    /// # Errors
    /// The API refuses it, or it is not available in time.
    pub fn apply_hello(&self, progress: &Progress) -> Result<Published> {
        let manifest = self.workspace.root().join("deploy/examples/hello.yaml");
        progress.step("kubectl apply -f deploy/examples/hello.yaml");
        let outcome = self
            .kubectl()?
            .run(&format!("apply -f {}", manifest.display()))?;
        ensure!(outcome.success, "kubectl apply: {}", outcome.stderr.trim());
        self.wait_published("hello", "hello", progress)
    }

    /// The names of the pods with these labels.
    ///
    /// # Errors
    /// The API does not answer.
    pub fn pods_of(&self, namespace: &str, labels: &str) -> Result<Vec<String>> {
        let names = self.kubectl()?.ok(&format!(
            "get pods -n {namespace} -l {labels} -o jsonpath={{.items[*].metadata.name}}"
        ))?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// Waits until a resource list is empty, such as `pods -n hello`.
    ///
    /// # Errors
    /// Something is still there at the deadline.
    pub fn wait_gone(&self, what: &str, deadline: Deadline) -> Result<()> {
        let kubectl = self.kubectl()?;
        self.wait_for(deadline, &format!("end of {what}"), || {
            let list = kubectl.json(&format!("get {what} -o json"))?;
            let items = list["items"].as_array().context("a list has items")?;
            Ok(items.is_empty().then_some(()))
        })
    }
}

/// Whether an object's status has the condition `kind` with status True.
pub(super) fn condition(object: &Value, kind: &str) -> bool {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// Whether a `services` view holds a frontend at `vip` with exactly `backends` backends that are
/// picked for new connections.
fn holds(services: &Value, vip: &str, backends: u64) -> bool {
    let entries = |value: &Value| value.as_array().cloned().unwrap_or_default();
    entries(services).iter().any(|service| {
        let at_vip = |frontend: &Value| frontend["address"] == vip;
        let picked = |backend: &&Value| {
            backend["state"] == "active" && backend["slots"].as_u64().unwrap_or(0) > 0
        };
        entries(&service["frontends"]).iter().any(at_vip)
            && entries(&service["backends"]).iter().filter(picked).count() as u64 == backends
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_backends_that_new_connections_reach_are_counted() {
        let view = json!([{
            "frontends": [{"address": "10.96.0.9"}, {"address": "198.18.100.1"}],
            "backends": [
                {"state": "active", "slots": 101},
                {"state": "active", "slots": 0},
                {"state": "draining", "slots": 100},
            ],
        }]);
        for (vip, backends, expect) in [
            ("198.18.100.1", 1, true),
            ("198.18.100.1", 2, false),
            ("198.18.100.2", 1, false),
        ] {
            assert_eq!(holds(&view, vip, backends), expect, "{vip} {backends}");
        }
        assert!(!holds(&json!({}), "198.18.100.1", 0));
    }
}
