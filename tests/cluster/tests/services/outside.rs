//! A Service without a selector, whose servers are on a machine that is no node of the cluster.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster_tests::{Running, check_answers, check_lives, netctl_json};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testbed::cluster::{Cluster, Host, address};
use testbed::traffic::KeptReport;
use testbed::{Deadline, ProcessId};

use crate::{in_all_tables, names};

/// A control host is no node: for the load balancer it is a machine like any other, here one with two
/// servers.
const MACHINE: Host = Host::Control(1);
/// The ports of its servers.
const PORTS: [u16; 2] = [8080, 8081];
/// The second server's address, beside the machine's own: weights are given by address.
const SECOND: &str = "198.18.0.90";

/// How often servers are checked, and after how many failures they are taken out.
const INTERVAL: Duration = Duration::from_millis(500);
const FALL: u32 = 2;

pub(crate) fn machine_serves(cluster: &mut Cluster) -> Result<()> {
    let machine = cluster.netns(MACHINE)?;
    machine.ip(&format!("addr add {SECOND}/24 dev eth0"))?;
    let mut servers = [start(cluster, PORTS[0])?, start(cluster, PORTS[1])?];
    let outcome = (|| {
        let vip = publish(cluster)?;
        weight_takes_new_connections(cluster, &vip)?;
        checks_decide(cluster, &vip, &mut servers)?;
        let slices = PORTS.map(|port| format!("endpointslice/{}", name(port)));
        let slices = slices.join(" ");
        let kubectl = cluster.kubectl()?;
        kubectl.ok(&format!("delete service/outside {slices} -n hello"))?;
        Ok(())
    })();
    for server in servers.into_iter().filter(ProcessId::is_running) {
        stop(server)?;
    }
    machine.ip(&format!("addr del {SECOND}/24 dev eth0"))?;
    outcome
}

/// Makes the Service, and returns its VIP when both servers answer there.
fn publish(cluster: &Cluster) -> Result<String> {
    let first = address(MACHINE).context("a control host has an address")?;
    let slice = |server: &str, port: u16| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name(port), "namespace": "hello",
                "labels": {"kubernetes.io/service-name": "outside"},
            },
            "addressType": "IPv4", "ports": [{"port": port}],
            "endpoints": [{"addresses": [server]}],
        })
    };
    let check = format!(
        "http/healthz interval={}ms rise=1 fall={FALL}",
        INTERVAL.as_millis()
    );
    let manifest = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "outside", "namespace": "hello",
                "annotations": {
                    "net.fairlead.io/forwarding": "nat", "net.fairlead.io/health-check": check,
                },
            },
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": 8080}]},
        },
        slice(&first.to_string(), PORTS[0]), slice(SECOND, PORTS[1]),
    ]});
    let kubectl = cluster.kubectl()?;
    let applied = kubectl.run_with("apply -f -", &manifest.to_string())?;
    ensure!(applied.success, "{}", applied.stderr);
    let path = "{.status.loadBalancer.ingress[0].ip}";
    let get = format!("get service outside -n hello -o jsonpath={path}");
    let vip = cluster.wait_for(Deadline::seconds(30), "an address", || {
        Ok(Some(kubectl.ok(&get)?).filter(|vip| !vip.is_empty()))
    })?;
    let both = PORTS.map(name);
    cluster.wait_for(Deadline::seconds(60), "answers from outside", || {
        let report = cluster.traffic(Host::Client, &requests(&vip))?;
        Ok((report.ok == 30 && names(&report) == both.clone().into()).then_some(()))
    })?;
    Ok(vip)
}

/// Takes the second server out by its weight and back in, while it has connections.
fn weight_takes_new_connections(cluster: &Cluster, vip: &str) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    let annotate = |weights: &str| {
        kubectl.ok(&format!(
            "annotate service outside -n hello net.fairlead.io/weights{weights}"
        ))
    };
    // Enough for both to have some, whatever their ports are.
    let arguments = format!("kept {vip}:80 --connections 32");
    let kept = Running::<KeptReport>::start(cluster, &arguments)?;
    annotate(&format!("={SECOND}=0"))?;
    in_all_tables(cluster, vip, 1)?;
    let report = cluster.traffic(Host::Client, &requests(vip))?;
    check_answers(&report, 30, 1)?;
    ensure!(names(&report) == [name(PORTS[0])].into(), "{report:?}");

    annotate("-")?;
    in_all_tables(cluster, vip, 2)?;
    let report = cluster.traffic(Host::Client, &requests(vip))?;
    check_answers(&report, 30, 2)?;
    let kept = kept.finish()?;
    let second = name(PORTS[1]);
    ensure!(
        kept.connections.iter().any(|one| one.pod == second),
        "{second} had no connection"
    );
    check_lives(&kept, |_| true)
}

/// Stops the second server and starts it again.
fn checks_decide(cluster: &Cluster, vip: &str, servers: &mut [ProcessId; 2]) -> Result<()> {
    /// For a check under way, and a machine with more to do.
    const MARGIN: Duration = Duration::from_secs(3);
    stop(servers[1])?;
    let stopped = Instant::now();
    in_all_tables(cluster, vip, 1)?;
    let left = stopped.elapsed();
    ensure!(
        left < INTERVAL * FALL + MARGIN,
        "it left the tables after {left:?}"
    );
    let report = cluster.traffic(Host::Client, &requests(vip))?;
    check_answers(&report, 30, 1)?;
    ensure!(names(&report) == [name(PORTS[0])].into(), "{report:?}");
    let backends = netctl_json(cluster, "backend ls hello/outside")?;
    let is_unhealthy =
        |backend: &Value| backend["state"] == "unhealthy" && backend["port"] == PORTS[1];
    ensure!(
        backends
            .as_array()
            .is_some_and(|all| all.iter().any(is_unhealthy)),
        "netctl does not call it unhealthy: {backends:#}"
    );

    servers[1] = start(cluster, PORTS[1])?;
    let started = Instant::now();
    in_all_tables(cluster, vip, 2)?;
    let back = started.elapsed();
    ensure!(
        back < INTERVAL + MARGIN,
        "it is in the tables again after {back:?}"
    );
    let report = cluster.traffic(Host::Client, &requests(vip))?;
    check_answers(&report, 30, 2)?;
    println!(
        "a server that stops is in no table after {left:.1?}, one that starts in all after {back:.1?}"
    );
    Ok(())
}

/// What the server at this port calls itself.
fn name(port: u16) -> String {
    format!("outside-{port}")
}

/// Requests on connections of their own.
fn requests(vip: &str) -> String {
    format!("{vip}:80 --requests 30 --timeout 1")
}

fn start(cluster: &Cluster, port: u16) -> Result<ProcessId> {
    let log = format!("{}.log", name(port));
    cluster
        .launch(MACHINE, cluster.workspace().hello_program())?
        .environment("POD_NAME", name(port))
        .environment("PORT", port.to_string())
        .start(&cluster.layout().folder().join(log))
}

fn stop(server: ProcessId) -> Result<()> {
    server.signal(Signal::SIGKILL)?;
    server.wait_for_end(Deadline::seconds(10))
}
