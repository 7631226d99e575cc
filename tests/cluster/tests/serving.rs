//! One cluster of three nodes serves the example through everything that is done to it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster_tests::{
    Scenario, Step, check_answers, check_client_seen, check_clients_own_address, check_contains,
    check_netctl, hello_vip,
};
use nix::sys::signal::Signal;
use testbed::cluster::{CLIENT, Cluster, Host, Spec, address};
use testbed::traffic::Report;
use testbed::{Deadline, NetNs, Progress, mounts};

#[test]
fn a_cluster_serves_the_example_through_everything_done_to_it() {
    Scenario::new(Spec::named("serving"), STEPS).run();
}

const STEPS: &[Step] = &[
    Step {
        name: "applied_example_answers_every_request_from_three_pods_with_the_clients_own_address",
        check: example_answers,
    },
    Step {
        name: "kept_connections_answer_like_new_ones",
        check: kept_connections_answer,
    },
    Step {
        name: "netctl_shows_what_went_through_and_what_would_become_of_a_packet",
        check: check_netctl,
    },
    Step {
        name: "cluster_ip_and_vip_answer_on_nodes_and_in_pods",
        check: services_answer_inside,
    },
    Step {
        name: "pods_reach_each_other_across_nodes_with_their_own_addresses",
        check: pods_reach_each_other,
    },
    Step {
        name: "pods_reach_the_outside_with_their_nodes_address",
        check: pods_reach_outside,
    },
    Step {
        name: "agent_killed_and_restarted_under_traffic_fails_no_request",
        check: agent_killed_under_traffic,
    },
    Step {
        name: "scaled_deployment_is_in_all_nodes_maps_within_seconds",
        check: scale_is_published,
    },
    Step {
        name: "killed_container_is_restarted",
        check: killed_container_restarts,
    },
    Step {
        name: "deleted_pod_is_replaced",
        check: deleted_pod_is_replaced,
    },
    Step {
        name: "rolling_update_replaces_every_pod",
        check: rolling_update,
    },
    Step {
        name: "deleted_example_leaves_no_maps_links_namespaces_mounts_or_cgroups",
        check: deleted_example_leaves_nothing,
    },
];

fn example_answers(cluster: &mut Cluster) -> Result<()> {
    let published = cluster.apply_hello(&Progress::start())?;
    let report = cluster.traffic(
        Host::Client,
        &format!("{}:80 --requests 100", published.vip),
    )?;
    check_answers(&report, 100, 3)?;
    check_clients_own_address(&report)?;
    let nodes: BTreeSet<_> = report.answers.iter().map(|answer| &answer.node).collect();
    ensure!(
        nodes.len() == 3,
        "the pods are not spread over the nodes: {nodes:?}"
    );
    Ok(())
}

fn kept_connections_answer(cluster: &mut Cluster) -> Result<()> {
    let vip = hello_vip(cluster)?;
    let report = cluster.traffic(
        Host::Client,
        &format!("{vip}:80 --requests 2000 --clients 32 --keep-alive"),
    )?;
    check_answers(&report, 2000, 3)?;
    check_clients_own_address(&report)
}

fn services_answer_inside(cluster: &mut Cluster) -> Result<()> {
    let cluster_ip = cluster
        .kubectl()?
        .ok("get service hello -n hello -o jsonpath={.spec.clusterIP}")?;
    let vip = hello_vip(cluster)?;
    for ip in [cluster_ip, vip] {
        let arguments = format!("{ip}:80 --requests 60");
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
        let process = cluster.pod_process(&from.name, Deadline::seconds(10))?;
        for to in pods.iter().filter(|to| to.name != from.name) {
            let arguments = format!("{}:8080 --requests 10", to.ip);
            let report = cluster.traffic_from_pod(&process, &arguments)?;
            let context = || {
                format!(
                    "{} on {} to {} on {}",
                    from.name, from.node, to.name, to.node
                )
            };
            check_answers(&report, 10, 1).with_context(context)?;
            check_client_seen(&report, &from.ip).with_context(context)?;
        }
    }
    Ok(())
}

fn pods_reach_outside(cluster: &mut Cluster) -> Result<()> {
    let outside = cluster
        .launch(Host::Client, cluster.workspace().hello_program())?
        .environment("POD_NAME", "outside")
        .start(&cluster.layout().folder().join("outside.log"))?;
    let outcome = (|| {
        let client = cluster.netns(Host::Client)?;
        Deadline::seconds(10).wait_for("the server outside", || {
            let connected = client.run(|| std::net::TcpStream::connect((CLIENT, 8080)))?;
            Ok(connected.ok().map(drop))
        })?;
        for pod in pods(cluster)? {
            let process = cluster.pod_process(&pod.name, Deadline::seconds(10))?;
            let report =
                cluster.traffic_from_pod(&process, &format!("{CLIENT}:8080 --requests 20"))?;
            let node = address(pod.node.parse()?).context("a node has an address")?;
            check_answers(&report, 20, 1).with_context(|| pod.name.clone())?;
            check_client_seen(&report, &node.to_string())?;
        }
        Ok(())
    })();
    outside.signal(Signal::SIGKILL)?;
    outside.wait_for_end(Deadline::seconds(10))?;
    outcome
}

fn agent_killed_under_traffic(cluster: &mut Cluster) -> Result<()> {
    const REQUESTS: u64 = 10_000;
    let vip = hello_vip(cluster)?;
    let mut new = RunningTraffic::start(
        cluster,
        &format!("{vip}:80 --requests {REQUESTS} --per-second 500 --clients 8 --progress"),
    )?;
    let kept = RunningTraffic::start(
        cluster,
        // So many that each of the pods holds some of the connections, whatever their ports are.
        &format!("{vip}:80 --requests 2000 --per-second 100 --clients 32 --keep-alive --progress"),
    )?;
    let node = Host::Node(2);
    new.wait_until(REQUESTS / 5)?;
    cluster.kill(node)?;
    new.wait_until(REQUESTS * 2 / 5)?;
    cluster.restart(node)?;
    new.wait_until(REQUESTS * 3 / 5)?;
    // Killed a second time just after it adopted what it found.
    cluster.kill(node)?;
    cluster.restart(node)?;
    let (new, kept) = (new.finish()?, kept.finish()?);
    println!(
        "agent of {node} killed twice: {} of {REQUESTS} requests failed; on kept connections {} \
         of 2000; slowest {:.0} ms",
        new.failed,
        kept.failed,
        new.latency_us_max as f64 / 1000.0
    );
    check_answers(&new, REQUESTS, 3)?;
    check_answers(&kept, 2000, 3)?;
    check_clients_own_address(&new)?;
    cluster.wait_for_nodes(&Progress::quiet())?;
    cluster.wait_for(Deadline::seconds(30), "the restarted agent's maps", || {
        Ok(cluster.nodes_without(&vip, 3)?.is_empty().then_some(()))
    })
}

fn scale_is_published(cluster: &mut Cluster) -> Result<()> {
    let vip = hello_vip(cluster)?;
    let kubectl = cluster.kubectl()?;
    for replicas in [6, 3] {
        let started = Instant::now();
        kubectl.ok(&format!(
            "scale deployment/hello -n hello --replicas {replicas}"
        ))?;
        cluster.wait_for(Deadline::seconds(60), "all nodes' maps", || {
            Ok(cluster
                .nodes_without(&vip, replicas)?
                .is_empty()
                .then_some(()))
        })?;
        println!(
            "scaled to {replicas}: in all nodes' maps after {:.2} s",
            started.elapsed().as_secs_f32()
        );
        cluster.wait_published("hello", "hello", &Progress::quiet())?;
        let report = cluster.traffic(Host::Client, &format!("{vip}:80 --requests 300"))?;
        check_answers(&report, 300, replicas as usize)?;
    }
    Ok(())
}

fn killed_container_restarts(cluster: &mut Cluster) -> Result<()> {
    let pod = pods(cluster)?.swap_remove(0);
    let before = cluster.pod_process(&pod.name, Deadline::seconds(10))?;
    before.process.signal(Signal::SIGKILL)?;
    let kubectl = cluster.kubectl()?;
    let path = "{.status.containerStatuses[0].restartCount}";
    cluster.wait_for(Deadline::seconds(60), "a restart", || {
        let count = kubectl.ok(&format!("get pod {} -n hello -o jsonpath={path}", pod.name))?;
        Ok((count != "0").then_some(()))
    })?;
    cluster.wait_published("hello", "hello", &Progress::quiet())?;
    let after = cluster.pod_process(&pod.name, Deadline::seconds(10))?;
    ensure!(
        after.process != before.process,
        "the old process still runs"
    );
    Ok(())
}

fn deleted_pod_is_replaced(cluster: &mut Cluster) -> Result<()> {
    let pod = pods(cluster)?.swap_remove(0);
    cluster
        .kubectl()?
        .ok(&format!("delete pod {} -n hello --timeout=60s", pod.name))?;
    cluster.wait_published("hello", "hello", &Progress::quiet())?;
    let now = pods(cluster)?;
    ensure!(now.len() == 3, "{} pods", now.len());
    ensure!(
        now.iter().all(|other| other.name != pod.name),
        "{} is still there",
        pod.name
    );
    let report = cluster.traffic(
        Host::Client,
        &format!("{}:80 --requests 100", hello_vip(cluster)?),
    )?;
    check_answers(&report, 100, 3)
}

fn rolling_update(cluster: &mut Cluster) -> Result<()> {
    let names = |cluster: &Cluster| -> Result<BTreeSet<String>> {
        Ok(pods(cluster)?.into_iter().map(|pod| pod.name).collect())
    };
    let before = names(cluster)?;
    let kubectl = cluster.kubectl()?;
    kubectl.ok("set env deployment/hello -n hello GREETING=again")?;
    let status = kubectl.ok("rollout status deployment/hello -n hello --timeout=120s")?;
    check_contains(&status, &["successfully rolled out"])?;
    let published = cluster.wait_published("hello", "hello", &Progress::quiet())?;
    cluster.wait_for(Deadline::seconds(60), "the end of the old pods", || {
        Ok(before.is_disjoint(&names(cluster)?).then_some(()))
    })?;
    let report = cluster.traffic(
        Host::Client,
        &format!("{}:80 --requests 100", published.vip),
    )?;
    check_answers(&report, 100, 3)?;
    check_clients_own_address(&report)
}

fn deleted_example_leaves_nothing(cluster: &mut Cluster) -> Result<()> {
    let manifest = cluster
        .workspace()
        .root()
        .join("deploy/examples/hello.yaml");
    let delete = format!("delete -f {} --timeout=120s", manifest.display());
    let deleted = cluster.kubectl()?.run(&delete)?;
    ensure!(deleted.success, "kubectl delete: {}", deleted.stderr);
    let pods = cluster.kubectl()?.json("get pods -A -o json")?;
    ensure!(
        pods["items"] == serde_json::json!([]),
        "pods are left: {pods}"
    );
    for node in cluster.spec().node_hosts() {
        cluster
            .wait_for(Deadline::seconds(30), &format!("clean {node}"), || {
                let left = what_is_left(cluster, node)?;
                ensure!(left.is_empty(), "{}", left.join("\n"));
                Ok(Some(()))
            })
            .with_context(|| format!("what is left on {node}"))?;
    }
    Ok(())
}

/// Everything of pods and Services that a node still has.
fn what_is_left(cluster: &Cluster, node: Host) -> Result<Vec<String>> {
    let layout = cluster.layout();
    let mut left = Vec::new();
    for (view, name) in [("services", "name"), ("backends", "service")] {
        let content = cluster.node_view(node, view)?;
        for entry in content.as_array().context("a view is a list")? {
            if entry[name]
                .as_str()
                .is_none_or(|name| name.starts_with("hello/"))
            {
                left.push(format!("{view}: {entry}"));
            }
        }
    }
    let netns = NetNs::open(&layout.netns(node))?;
    for link in netns.ip("-o link show")?.lines() {
        if !link.contains(": lo:") && !link.contains(": eth0@") {
            left.push(format!("link {link}"));
        }
    }
    for point in mounts::below(&layout.host_folder(node))? {
        left.push(format!("mount {}", point.display()));
    }
    for group in layout
        .hierarchies()
        .existing(&layout.host_cgroup_name(node))
    {
        let own = layout.process_cgroup(node);
        for entry in std::fs::read_dir(&group).context("list cgroups")? {
            let path = entry.context("list cgroups")?.path();
            if path.is_dir() && path != own {
                left.push(format!("cgroup {}", path.display()));
            }
        }
    }
    Ok(left)
}

/// A pod of the example.
struct Pod {
    name: String,
    ip: String,
    node: String,
}

/// The pods of the example that are not on their way out.
fn pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let list = cluster
        .kubectl()?
        .json("get pods -n hello -l app=hello -o json")?;
    let items = list["items"].as_array().context("a list has items")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(items
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| Pod {
            name: text(&pod["metadata"]["name"]),
            ip: text(&pod["status"]["podIP"]),
            node: text(&pod["spec"]["nodeName"]),
        })
        .collect())
}

/// Traffic from the client that goes on while something else happens.
struct RunningTraffic {
    child: Child,
    notices: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl RunningTraffic {
    fn start(cluster: &Cluster, arguments: &str) -> Result<Self> {
        let mut child = cluster
            .traffic_command(Host::Client, arguments)?
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start traffic")?;
        let errors = child
            .stderr
            .take()
            .context("its standard error is a pipe")?;
        Ok(Self {
            child,
            notices: BufReader::new(errors).lines(),
        })
    }

    /// Waits until so many requests were sent.
    fn wait_until(&mut self, requests: u64) -> Result<()> {
        let started = Instant::now();
        for line in self.notices.by_ref() {
            let line = line.context("read the progress of traffic")?;
            if line
                .trim()
                .parse::<u64>()
                .is_ok_and(|done| done >= requests)
            {
                return Ok(());
            }
            ensure!(
                started.elapsed() < Duration::from_secs(120),
                "traffic is stuck at {line}"
            );
        }
        anyhow::bail!("the traffic ended before {requests} requests")
    }

    fn finish(mut self) -> Result<Report> {
        // Read to the end, or the sender would wait for its reader.
        for line in self.notices.by_ref() {
            line.context("read the progress of traffic")?;
        }
        let done = self.child.wait_with_output().context("wait for traffic")?;
        serde_json::from_slice(&done.stdout).context("understand the traffic report")
    }
}
