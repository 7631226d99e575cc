//! A control plane of three members agrees, and survives the loss of any one.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cluster_tests::{Holding, Scenario, Step, check_answers, check_clients_own_address, hello_vip};
use jiff::Timestamp;
use testbed::cluster::{Cluster, Host, KUBECTL, Spec};
use testbed::{Deadline, Progress};

#[test]
fn three_members_agree_and_survive_the_loss_of_any_one() {
    let spec = Spec::named("three").controls(3).nodes(3);
    Scenario::new(spec, STEPS).run();
}

const STEPS: &[Step] = &[
    Step {
        name: "what_one_member_accepted_every_member_serves",
        check: replicates,
    },
    Step {
        name: "with_any_member_killed_the_others_accept_and_keep_every_write",
        check: any_member_killed,
    },
    Step {
        name: "vip_is_taken_over_in_time_when_its_holder_dies_together_with_any_member",
        check: holder_dies_with_a_member,
    },
    Step {
        name: "pods_and_traffic_outlive_a_control_plane_that_is_gone_and_comes_back",
        check: whole_control_plane_killed,
    },
];

fn replicates(cluster: &mut Cluster) -> Result<()> {
    let members: Vec<_> = cluster.spec().control_hosts().collect();
    for writer in &members {
        let name = format!("from-{writer}");
        cluster.kubectl_of(KUBECTL, *writer)?.ok(&format!(
            "create configmap {name} --from-literal=by={writer}"
        ))?;
        for reader in &members {
            // A read that needs no waiting: every member answers with what the leader committed.
            let by = cluster
                .kubectl_of(KUBECTL, *reader)?
                .ok(&format!("get configmap {name} -o jsonpath={{.data.by}}"))
                .with_context(|| format!("written by {writer}, read from {reader}"))?;
            ensure!(by == writer.to_string(), "{reader} serves {by:?}");
        }
    }
    cluster.apply_hello(&Progress::start())?;
    Ok(())
}

/// Each member in turn, so that the leader is among them whichever it is.
fn any_member_killed(cluster: &mut Cluster) -> Result<()> {
    let members: Vec<_> = cluster.spec().control_hosts().collect();
    let vip = hello_vip(cluster)?;
    for victim in &members {
        cluster.kill(*victim)?;
        let killed = Instant::now();
        for survivor in members.iter().filter(|member| *member != victim) {
            let kubectl = cluster.kubectl_of(KUBECTL, *survivor)?;
            let name = format!("without-{victim}-by-{survivor}");
            let create = format!("create configmap {name} --request-timeout=5s");
            cluster.wait_for(
                Deadline::seconds(30),
                &format!("{create} at {survivor}"),
                || {
                    let outcome = kubectl.run(&create)?;
                    // An answer may have been lost with the member that gave it.
                    let there = outcome.success || outcome.stderr.contains("already exists");
                    ensure!(there, "{}", outcome.stderr);
                    Ok(Some(()))
                },
            )?;
        }
        println!(
            "{victim} killed: writes go on after {:.1} s",
            killed.elapsed().as_secs_f32()
        );
        let report = cluster.traffic(Host::Client, &format!("{vip}:80 --requests 100"))?;
        check_answers(&report, 100, 3)?;
        cluster.restart(*victim)?;
        let kubectl = cluster.kubectl_of(KUBECTL, *victim)?;
        for survivor in members.iter().filter(|member| *member != victim) {
            let name = format!("without-{victim}-by-{survivor}");
            cluster.wait_for(
                Deadline::seconds(30),
                &format!("{name} at {victim}"),
                || {
                    kubectl
                        .ok(&format!("get configmap {name} --request-timeout=5s"))
                        .map(Some)
                },
            )?;
        }
    }
    Ok(())
}

/// Each member in turn, so that the leader is among them whichever it is.
fn holder_dies_with_a_member(cluster: &mut Cluster) -> Result<()> {
    let members: Vec<_> = cluster.spec().control_hosts().collect();
    let vip = hello_vip(cluster)?;
    let switch = cluster.netns(Host::Switch)?;
    for (victim, survivor) in members.iter().zip(members.iter().cycle().skip(1)) {
        let holder = Holding::of(cluster, *survivor, &vip)?;
        let dying = [victim.to_string(), holder.node.clone()];
        for host in &dying {
            switch.ip(&format!("link set {host} down"))?;
        }
        let died = Timestamp::now();
        let outcome = holder
            .check_taken_over(cluster, *survivor, &vip, died)
            .with_context(|| format!("{} died", dying.join(" and ")));
        for host in &dying {
            switch.ip(&format!("link set {host} up"))?;
        }
        outcome?;
        let kubectl = cluster.kubectl_of(KUBECTL, *victim)?;
        cluster.wait_for(Deadline::seconds(60), "all nodes to be heard of", || {
            let get = "get nodes --request-timeout=2s -o jsonpath={.items[*].metadata.annotations}";
            let nodes = kubectl.ok(get).ok();
            Ok(nodes.filter(|nodes| !nodes.contains("silent-since")))
        })?;
    }
    cluster.wait_for_nodes(&Progress::quiet())
}

fn whole_control_plane_killed(cluster: &mut Cluster) -> Result<()> {
    let members: Vec<_> = cluster.spec().control_hosts().collect();
    let vip = hello_vip(cluster)?;
    for member in &members {
        cluster.kill(*member)?;
    }
    let report = cluster.traffic(Host::Client, &format!("{vip}:80 --requests 500"))?;
    check_answers(&report, 500, 3)?;
    check_clients_own_address(&report)?;
    for member in &members {
        cluster.restart(*member)?;
    }
    let kubectl = cluster.kubectl()?;
    cluster.wait_for(Deadline::seconds(60), "what was written before", || {
        kubectl
            .ok("get configmap from-control-1 --request-timeout=5s")
            .map(Some)
    })?;
    cluster.wait_for_nodes(&Progress::quiet())?;
    kubectl.ok("scale deployment/hello -n hello --replicas 4")?;
    let published = cluster.wait_published("hello", "hello", &Progress::start())?;
    ensure!(published.pods == 4, "{} pods", published.pods);
    Ok(())
}
