//! One Service with TCP and UDP at the same port, in both families: from everywhere, at every kind of
//! address, while pods come and go and agents are killed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use cluster_tests::{
    Running, Scenario, Step, check_answers, check_client_seen, check_datagrams, netctl, netctl_json,
};
use serde_json::{Value, json};
use testbed::cluster::{CLIENT, Cluster, Host, Spec, address, address_v6, client_of};
use testbed::traffic::{DatagramsReport, KeptReport};
use testbed::{Deadline, Progress};

#[test]
fn a_service_of_tcp_and_udp_at_one_port_is_served_everywhere() {
    Scenario::new(Spec::named("datagrams"), STEPS).run();
}

const STEPS: &[Step] = &[
    Step {
        name: "both_protocols_at_one_port_answer_the_client_at_a_vip_of_each_family",
        check: vips_answer,
    },
    Step {
        name: "both_protocols_answer_nodes_and_pods_at_cluster_ips_of_each_family",
        check: cluster_ips_answer,
    },
    Step {
        name: "external_ips_and_node_ports_answer_in_both_protocols_and_families",
        check: external_ips_and_node_ports_answer,
    },
    Step {
        name: "netctl_names_the_client_of_each_flow_and_how_many_packets_it_sends",
        check: netctl_shows_flows,
    },
    Step {
        name: "flows_keep_their_pods_while_others_are_added_and_go_on_when_they_are_removed",
        check: pods_are_scaled,
    },
    Step {
        name: "client_keeps_its_pod_until_it_was_silent_for_the_time_of_its_affinity",
        check: affinity_ends,
    },
    Step {
        name: "agents_killed_and_restarted_one_after_the_other_lose_no_packet",
        check: agents_are_restarted,
    },
];

const SERVICE: &str = "service both -n hello";

/// Addresses that the router does not know until it is told.
const EXTERNAL_IPS: [&str; 2] = ["203.0.113.53", "2001:db8:53::53"];

fn vips_answer(cluster: &mut Cluster) -> Result<()> {
    cluster.apply_hello(&Progress::start())?;
    let manifest = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "both", "namespace": "hello"},
        "spec": {
            "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": "hello"}, "externalIPs": EXTERNAL_IPS,
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": 53, "targetPort": 8080},
                {"name": "udp", "protocol": "UDP", "port": 53, "targetPort": 8080},
            ],
        },
    });
    let kubectl = cluster.kubectl()?;
    let applied = kubectl.run_with("apply -f -", &manifest.to_string())?;
    ensure!(applied.success, "{}", applied.stderr);
    let vips = cluster.wait_for(Deadline::seconds(30), "addresses", || {
        Ok(vips(cluster).ok().filter(|vips| vips.len() == 2))
    })?;
    wait_in_maps(cluster, 3)?;
    for vip in vips {
        check_both(cluster, SocketAddr::new(vip, 53), 53)?;
    }
    Ok(())
}

fn cluster_ips_answer(cluster: &mut Cluster) -> Result<()> {
    let service = service(cluster)?;
    let cluster_ips = addresses(&service["spec"]["clusterIPs"], |ip| ip)?;
    ensure!(cluster_ips.len() == 2, "{cluster_ips:?}");
    for ip in cluster_ips {
        let target = SocketAddr::new(ip, 53);
        let connections = format!("{target} --requests 60");
        let datagrams = format!("{target} --flows 40 --each 2");
        for node in cluster.spec().node_hosts() {
            let context = || format!("{target} from {node}");
            check_answers(&cluster.traffic(node, &connections)?, 60, 3).with_context(context)?;
            let report = cluster.datagrams(node, &datagrams)?;
            check_all_answered(&report, 3).with_context(context)?;
        }
        for name in cluster.pods_of("hello", "app=hello")? {
            let context = || format!("{target} from {name}");
            let pod = cluster.pod_process(&name, Deadline::seconds(10))?;
            let report = cluster.traffic_from_pod(&pod, &connections)?;
            check_answers(&report, 60, 3).with_context(context)?;
            let report = cluster.datagrams_from_pod(&pod, &datagrams)?;
            check_all_answered(&report, 3).with_context(context)?;
        }
    }
    Ok(())
}

fn external_ips_and_node_ports_answer(cluster: &mut Cluster) -> Result<()> {
    let spec = service(cluster)?["spec"].clone();
    let node_port = |index: usize| {
        let port = spec["ports"][index]["nodePort"].as_u64();
        let port = port.and_then(|port| u16::try_from(port).ok());
        port.with_context(|| format!("port {index} has no node port: {spec}"))
    };
    let (tcp, udp) = (node_port(0)?, node_port(1)?);
    let router = cluster.netns(Host::Router)?;
    for node in cluster.spec().node_hosts() {
        let own = [
            address(node).map(IpAddr::from),
            address_v6(node).map(IpAddr::from),
        ];
        for (own, external) in own.into_iter().zip(EXTERNAL_IPS) {
            let own = own.context("a node has addresses of both families")?;
            check_both(cluster, SocketAddr::new(own, tcp), udp)
                .with_context(|| format!("the ports of {node}"))?;
            let external: IpAddr = external.parse()?;
            router.ip(&format!("route replace {external} via {own}"))?;
            check_both(cluster, SocketAddr::new(external, 53), 53)
                .with_context(|| format!("through {node}"))?;
            router.ip(&format!("route del {external}"))?;
        }
    }
    Ok(())
}

fn netctl_shows_flows(cluster: &mut Cluster) -> Result<()> {
    const FLOWS: u64 = 20;
    const INTERVAL_MS: u64 = 20;
    let sent_per_second = FLOWS * 1000 / INTERVAL_MS;
    let target = SocketAddr::new(vips(cluster)?[0], 53);
    let stream = Running::<DatagramsReport>::start(
        cluster,
        &format!("datagrams {target} --flows {FLOWS} --interval {INTERVAL_MS}"),
    )?;
    let outcome = (|| {
        let counted = cluster.wait_for(Deadline::seconds(30), "a plausible rate", || {
            let ports = netctl_json(cluster, "service show hello/both")?;
            let udp = named(&ports, "hello/both:udp").context("the port of UDP is not shown")?;
            let rate = udp["packetsPerSecond"].as_u64().unwrap_or(0);
            // The average of IPVS: it comes nearer by a quarter every two seconds.
            let plausible = sent_per_second / 5..=sent_per_second * 5 / 4;
            Ok(plausible.contains(&rate).then_some(rate))
        })?;
        println!("{sent_per_second} datagrams a second are shown as {counted}");
        let client = format!("{CLIENT}:");
        let is_clients = |flow: &&Value| {
            flow["from"]
                .as_str()
                .is_some_and(|from| from.starts_with(&client))
                && flow["to"] == target.to_string()
                && flow["service"] == "hello/both:udp"
        };
        let flows = netctl_json(
            cluster,
            &format!("flow ls --kind tracked --service hello/both --client {CLIENT}"),
        )?;
        let flows = flows.as_array().context("an array of flows")?;
        let ports: BTreeSet<_> = flows
            .iter()
            .filter(is_clients)
            .map(|f| &f["from"])
            .map(Value::to_string)
            .collect();
        ensure!(ports.len() as u64 >= FLOWS, "not {FLOWS} flows: {flows:#?}");
        let top =
            "flow top --count 1 --interval 1 --by packets --kind tracked --service hello/both";
        let busiest = netctl_json(cluster, top)?;
        let busiest = busiest.as_array().context("an array of flows")?;
        ensure!(!busiest.is_empty(), "no flow has any packets");
        for flow in busiest {
            let rate = flow["packetsPerSecond"].as_u64().unwrap_or(0);
            ensure!(
                is_clients(&flow) && (10..=200).contains(&rate),
                "a flow of {} packets a second is shown as {flow:#}",
                1000 / INTERVAL_MS
            );
        }
        let lvs = netctl(cluster, "lvs --service hello/both --rate")?;
        ensure!(lvs.contains(&format!("UDP  {target}")), "{lvs}");
        Ok(())
    })();
    let report = stream.finish()?;
    outcome?;
    check_datagrams(&report, 3, CLIENT.into())
}

fn pods_are_scaled(cluster: &mut Cluster) -> Result<()> {
    let streams = streams(cluster)?;
    scale(cluster, 6)?;
    let vip = vips(cluster)?[0];
    cluster.wait_for(Deadline::seconds(30), "answers from the added pods", || {
        let report = cluster.datagrams(Host::Client, &format!("{vip}:53 --flows 90 --each 1"))?;
        Ok((report.lost() == 0 && report.pods().len() == 6).then_some(()))
    })?;
    for stream in streams {
        let report = stream.finish()?;
        print_stream("scaled to 6", &report);
        check_nothing_lost(&report)?;
        for flow in &report.flows {
            ensure!(flow.answers.len() == 1, "a flow moved: {:#?}", flow.answers);
        }
    }
    let streams = self::streams(cluster)?;
    scale(cluster, 3)?;
    let left = cluster.pods_of("hello", "app=hello")?;
    for stream in streams {
        let report = stream.finish()?;
        print_stream("scaled to 3", &report);
        for flow in &report.flows {
            let (Some(first), Some(last)) = (flow.answers.first(), flow.answers.last()) else {
                anyhow::bail!("a flow was never answered");
            };
            ensure!(
                left.contains(&last.pod),
                "a flow ends at {}, which is gone: {flow:#?}",
                last.pod
            );
            // A pod that goes takes with it what was on its way.
            ensure!(
                !left.contains(&first.pod) || (flow.answers.len() == 1 && flow.lost.is_empty()),
                "a flow to {}, which stays, was disturbed: {flow:#?}",
                first.pod
            );
        }
    }
    Ok(())
}

fn affinity_ends(cluster: &mut Cluster) -> Result<()> {
    const SECONDS: u64 = 2;
    // Clients of their own, whose addresses have hashes of their own.
    let clients: Vec<String> = (100..124).map(|host| format!("198.18.1.{host}")).collect();
    let netns = cluster.netns(Host::Client)?;
    for client in &clients {
        netns.ip(&format!("addr add {client}/32 dev eth0"))?;
    }
    let vip = vips(cluster)?[0];
    // Who keeps what is noted where it enters: all through one node.
    let router = cluster.netns(Host::Router)?;
    let node = address(Host::Node(1)).context("a node has an address")?;
    router.ip(&format!("route replace {vip}/32 via {node}"))?;
    // Each asks from two ports, which are two flows.
    let (flows, from) = (clients.len() * 2, clients.join(","));
    let arguments = format!("{vip}:53 --flows {flows} --each 1 --from {from}");
    let pods = |cluster: &Cluster| -> Result<BTreeSet<String>> {
        let report = cluster.datagrams(Host::Client, &arguments)?;
        check_nothing_lost(&report)?;
        let picks: BTreeSet<_> = report
            .answers()
            .map(|one| (&one.client, &one.pod))
            .collect();
        ensure!(
            picks.len() == clients.len(),
            "clients have two pods: {picks:?}"
        );
        Ok(report.pods().into_iter().map(str::to_owned).collect())
    };
    scale(cluster, 1)?;
    set_affinity(cluster, Some(600))?;
    let only = pods(cluster)?;
    scale(cluster, 3)?;
    let kept = pods(cluster)?;
    ensure!(kept == only, "clients moved from {only:?} to {kept:?}");
    set_affinity(cluster, Some(SECONDS))?;
    // What ends the affinity is silence, which a packet that looks whether it has ended would break.
    // A trace is none.
    let mut turns = clients.iter().cycle();
    cluster.wait_for(Deadline::seconds(60), "the end of the affinity", || {
        let client = turns.next().context("there are clients")?;
        let packet = format!("--from {client}:1 --to {vip}:53 --proto udp");
        let traces = netctl_json(cluster, &format!("trace {packet} --node {}", Host::Node(1)))?;
        let pod = traces[0]["backend"]["name"]
            .as_str()
            .with_context(|| format!("nobody was picked: {traces:#}"))?;
        Ok((!only.contains(pod)).then_some(()))
    })?;
    let after = pods(cluster)?;
    ensure!(
        after.len() == 3,
        "after {SECONDS} s of silence all clients are still at {after:?}"
    );
    set_affinity(cluster, None)?;
    router.ip(&format!("route del {vip}/32"))?;
    for client in &clients {
        netns.ip(&format!("addr del {client}/32 dev eth0"))?;
    }
    Ok(())
}

/// Sets the Service's affinity, and waits until all nodes' maps have it.
fn set_affinity(cluster: &Cluster, seconds: Option<u64>) -> Result<()> {
    let spec = match seconds {
        Some(seconds) => json!({
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
        }),
        None => json!({"sessionAffinity": "None", "sessionAffinityConfig": null}),
    };
    let patch = json!({ "spec": spec });
    let patch = format!("patch {SERVICE} --type merge -p {patch}");
    cluster.kubectl()?.ok(&patch)?;
    wait_for_ports(cluster, |port| port["affinitySeconds"].as_u64() == seconds)
}

fn agents_are_restarted(cluster: &mut Cluster) -> Result<()> {
    // What is lost is sent again later than a busy machine may need for an answer, so that nothing
    // is sent again that was not lost.
    let client = cluster.netns(Host::Client)?;
    let default = client.ip("route show default")?;
    client.ip(&format!("route change {} rto_min 2s", default.trim()))?;
    let vip = vips(cluster)?[0];
    let streams = streams(cluster)?;
    let kept = Running::<KeptReport>::start(cluster, &format!("kept {vip}:53 --connections 32"))?;
    let sent_again = tcp_segments_sent_again(cluster)?;
    let nodes: Vec<Host> = cluster.spec().node_hosts().collect();
    for node in nodes {
        cluster.kill(node)?;
        cluster.restart(node)?;
        // Only an agent that runs can answer for its node.
        wait_in_maps(cluster, 3)?;
    }
    let sent_again = tcp_segments_sent_again(cluster)? - sent_again;
    let kept = kept.finish()?;
    client.ip(&format!("route change {}", default.trim()))?;
    for stream in streams {
        let report = stream.finish()?;
        print_stream("agents restarted", &report);
        check_nothing_lost(&report)?;
        for flow in &report.flows {
            ensure!(flow.answers.len() == 1, "a flow moved: {:#?}", flow.answers);
        }
    }
    let answers: u64 = kept.connections.iter().map(|one| one.answers).sum();
    println!("agents restarted: {answers} answers over TCP, {sent_again} segments sent again");
    for connection in &kept.connections {
        ensure!(
            connection.end.is_none(),
            "a connection ended: {connection:?}"
        );
    }
    ensure!(sent_again == 0, "{sent_again} TCP segments were sent again");
    Ok(())
}

/// A stream of datagrams to the VIP of each family.
fn streams(cluster: &Cluster) -> Result<Vec<Running<DatagramsReport>>> {
    let start = |vip| {
        let target = SocketAddr::new(vip, 53);
        // Enough flows for each node to balance some, whatever their ports are.
        let arguments = format!("datagrams {target} --flows 24 --interval 25");
        Running::start(cluster, &arguments)
    };
    vips(cluster)?.into_iter().map(start).collect()
}

fn print_stream(what: &str, report: &DatagramsReport) {
    println!(
        "{what}: {} datagrams, {} lost; longest answer {:?}, longest silence {:?}",
        report.sent(),
        report.lost(),
        report.longest(),
        report.longest_silence()
    );
}

fn check_nothing_lost(report: &DatagramsReport) -> Result<()> {
    let lost: Vec<_> = report
        .flows
        .iter()
        .filter(|flow| !flow.lost.is_empty())
        .collect();
    ensure!(
        lost.is_empty(),
        "{} of {} datagrams were lost: {lost:#?}",
        report.lost(),
        report.sent()
    );
    Ok(())
}

fn check_all_answered(report: &DatagramsReport, pods: usize) -> Result<()> {
    check_nothing_lost(report)?;
    ensure!(
        report.pods().len() == pods,
        "not {pods} pods: {:?}",
        report.pods()
    );
    Ok(())
}

/// Checks that connections to `target`, and datagrams to the same address at the port `udp`, are
/// answered by three pods, which see the client's own address.
fn check_both(cluster: &Cluster, target: SocketAddr, udp: u16) -> Result<()> {
    let client = client_of(target.ip());
    let report = cluster.traffic(Host::Client, &format!("{target} --requests 60"))?;
    check_answers(&report, 60, 3).with_context(|| format!("TCP {target}"))?;
    check_client_seen(&report, &client.to_string())?;
    let target = SocketAddr::new(target.ip(), udp);
    let report = cluster.datagrams(Host::Client, &format!("{target} --flows 40 --each 2"))?;
    check_datagrams(&report, 3, client).with_context(|| format!("UDP {target}"))
}

fn scale(cluster: &Cluster, replicas: usize) -> Result<()> {
    let scale = format!("scale deployment/hello -n hello --replicas {replicas}");
    cluster.kubectl()?.ok(&scale)?;
    cluster.wait_published("hello", "hello", &Progress::quiet())?;
    wait_in_maps(cluster, replicas)
}

/// Waits until all nodes pick among so many backends of each port, and know of no other.
fn wait_in_maps(cluster: &Cluster, backends: usize) -> Result<()> {
    wait_for_ports(cluster, |port| {
        port["backends"].as_array().map_or(0, Vec::len) == backends
    })
}

/// Waits until both ports of the Service are as `wanted` in all nodes' maps.
fn wait_for_ports(cluster: &Cluster, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    cluster.wait_for(Deadline::seconds(60), "all nodes' maps", || {
        for node in cluster.spec().node_hosts() {
            let services = cluster.node_view(node, "services")?;
            for port in ["hello/both:tcp", "hello/both:udp"] {
                if !named(&services, port).is_some_and(&wanted) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(()))
    })
}

/// The object with this name in a list.
fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?
        .iter()
        .find(|object| object["name"] == name)
}

fn service(cluster: &Cluster) -> Result<Value> {
    cluster.kubectl()?.json(&format!("get {SERVICE} -o json"))
}

/// The virtual addresses, IPv4 first.
fn vips(cluster: &Cluster) -> Result<Vec<IpAddr>> {
    let service = service(cluster)?;
    addresses(&service["status"]["loadBalancer"]["ingress"], |ingress| {
        &ingress["ip"]
    })
}

/// The addresses in a list of an object.
fn addresses(list: &Value, address: impl Fn(&Value) -> &Value) -> Result<Vec<IpAddr>> {
    let items = list.as_array().context("addresses are a list")?;
    let address = |item| {
        let text = address(item).as_str().context("an address is a text")?;
        text.parse().with_context(|| format!("{text:?}"))
    };
    items.iter().map(address).collect()
}

/// `TcpRetransSegs` of the client: proc_net_snmp(5), RFC 4022.
fn tcp_segments_sent_again(cluster: &Cluster) -> Result<u64> {
    let statistics = cluster.exec(Host::Client, "cat", &["/proc/net/snmp"])?;
    let mut lines = statistics
        .lines()
        .filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no line of TCP")?;
    let mut counters = names.split(' ').zip(values.split(' '));
    let (_, count) = counters
        .find(|(name, _)| *name == "RetransSegs")
        .context("RetransSegs is missing")?;
    count.parse().context("read RetransSegs")
}
