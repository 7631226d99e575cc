//! A cluster of both families: Services, pods and the way outside over IPv4 and IPv6.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use cluster_tests::{Scenario, Step, check_answers, check_client_seen};
use testbed::cluster::{Cluster, Host, Spec, client_of};
use testbed::{Deadline, Progress};

#[test]
fn a_cluster_of_both_families_serves_both() {
    Scenario::new(Spec::named("dual-stack").nodes(2), STEPS).run();
}

const STEPS: &[Step] = &[
    Step {
        name: "service_answers_at_a_vip_of_each_family_and_sees_the_clients_own_address",
        check: vips_answer,
    },
    Step {
        name: "cluster_ips_of_both_families_answer_on_nodes_and_in_pods",
        check: cluster_ips_answer,
    },
    Step {
        name: "pods_have_addresses_of_both_families_and_reach_each_other_at_all",
        check: pods_reach_each_other,
    },
    Step {
        name: "pods_reach_the_outside_over_ipv6_in_their_own_names",
        check: pods_reach_outside,
    },
];

fn vips_answer(cluster: &mut Cluster) -> Result<()> {
    let published = cluster.apply_hello(&Progress::start())?;
    let families: Vec<bool> = published.vips.iter().map(IpAddr::is_ipv6).collect();
    ensure!(families == [false, true], "{:?}", published.vips);
    for vip in published.vips {
        let target = SocketAddr::from((vip, 80));
        let report = cluster.traffic(Host::Client, &format!("{target} --requests 100"))?;
        check_answers(&report, 100, 3).with_context(|| target.to_string())?;
        check_client_seen(&report, &client_of(vip).to_string())?;
    }
    Ok(())
}

fn cluster_ips_answer(cluster: &mut Cluster) -> Result<()> {
    let service = cluster
        .kubectl()?
        .json("get service hello -n hello -o json")?;
    let cluster_ips = addresses(&service["spec"]["clusterIPs"], |ip| ip)?;
    ensure!(cluster_ips.len() == 2, "{cluster_ips:?}");
    for ip in cluster_ips {
        let arguments = format!("{} --requests 60", SocketAddr::from((ip, 80)));
        for node in cluster.spec().node_hosts() {
            let report = cluster.traffic(node, &arguments)?;
            check_answers(&report, 60, 3).with_context(|| format!("{ip} from {node}"))?;
        }
        for pod in pods(cluster)? {
            let process = cluster.pod_process(&pod.name, Deadline::seconds(10))?;
            let report = cluster.traffic_from_pod(&process, &arguments)?;
            check_answers(&report, 60, 3).with_context(|| format!("{ip} from {}", pod.name))?;
        }
    }
    Ok(())
}

fn pods_reach_each_other(cluster: &mut Cluster) -> Result<()> {
    let pods = pods(cluster)?;
    for from in &pods {
        ensure!(from.ips.len() == 2, "{} has {:?}", from.name, from.ips);
        let process = cluster.pod_process(&from.name, Deadline::seconds(10))?;
        for to in pods.iter().filter(|to| to.name != from.name) {
            for (own, other) in from.ips.iter().zip(&to.ips) {
                let target = SocketAddr::from((*other, 8080));
                let arguments = format!("{target} --requests 10");
                let report = cluster.traffic_from_pod(&process, &arguments)?;
                check_answers(&report, 10, 1).with_context(|| format!("{own} to {other}"))?;
                check_client_seen(&report, &own.to_string())?;
            }
        }
    }
    Ok(())
}

fn pods_reach_outside(cluster: &mut Cluster) -> Result<()> {
    for pod in pods(cluster)? {
        let own = pod.ips.into_iter().find(IpAddr::is_ipv6);
        let own = own.context("a pod has an IPv6 address")?;
        // The outside asks the pod, and gets its answer: both directions are routed.
        let target = SocketAddr::from((own, 8080));
        let report = cluster.traffic(Host::Client, &format!("{target} --requests 10"))?;
        check_answers(&report, 10, 1).with_context(|| format!("the client to {own}"))?;
        check_client_seen(&report, &client_of(own).to_string())?;
    }
    Ok(())
}

/// A pod of the example.
struct Pod {
    name: String,
    ips: Vec<IpAddr>,
}

fn pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let list = cluster
        .kubectl()?
        .json("get pods -n hello -l app=hello -o json")?;
    let items = list["items"].as_array().context("a list has items")?;
    let pod = |pod: &serde_json::Value| {
        Ok(Pod {
            name: pod["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            ips: addresses(&pod["status"]["podIPs"], |listed| &listed["ip"])?,
        })
    };
    items.iter().map(pod).collect()
}

/// The addresses in a list of an object.
fn addresses(
    list: &serde_json::Value,
    address: impl Fn(&serde_json::Value) -> &serde_json::Value,
) -> Result<Vec<IpAddr>> {
    let items = list.as_array().context("addresses are a list")?;
    items
        .iter()
        .map(|item| {
            let text = address(item).as_str().context("an address is a text")?;
            text.parse().with_context(|| format!("{text:?}"))
        })
        .collect()
}
