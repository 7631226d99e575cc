//! Real containers on a real node, as root.

mod node;

use std::os::unix::fs::PermissionsExt as _;

use fairlead_pods::Objects;
use node::{IMAGE, container, on_node, pod, waiting};
use serde_json::json;

fn server() -> serde_json::Value {
    json!({"containers": [{
        "name": "a",
        "args": ["serve", "8080"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 1},
    }]})
}

#[test]
fn pod_becomes_ready_and_is_removed_without_a_trace() {
    on_node(|mut node| async move {
        node.add_image();
        let pod = pod("serving", server());
        node.assign(&[&pod]).await;
        let status = node.wait_until_ready(&pod).await;
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!(status.pod_ip.as_deref(), Some("10.77.1.2"));
        node.wait_for_log(&pod, "serving\n").await;
        for reason in ["Pulled", "Created", "Started"] {
            node.wait_for_event(reason, "").await;
        }
        // Cgroup-BPF sees the container: it is below the node's v2 group.
        let pid = node.pid(&pod, "a-0");
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let unified = groups.lines().find(|line| line.starts_with("0::")).unwrap();
        assert!(unified.contains(&node.config.cgroup_prefix), "{groups}");
        node.assign(&[]).await;
        node.wait_until_gone(&pod).await;
        node.assert_nothing_left();
    });
}

#[test]
fn pod_that_cannot_be_removed_says_why_once_and_goes_when_it_can() {
    on_node(|mut node| async move {
        node.add_image();
        let pod = pod("held", server());
        node.assign(&[&pod]).await;
        node.wait_until_ready(&pod).await;
        // Specs of containers may hold secrets.
        let specs = std::fs::metadata(node.config.run_dir.join("pods")).unwrap();
        assert_eq!(specs.permissions().mode() & 0o777, 0o700);
        node.hold_networks(true);
        node.assign(&[]).await;
        node.wait_for_event("FailedKillPod", "cannot detach the network: it is busy")
            .await;
        node.hold_networks(false);
        node.wait_until_gone(&pod).await;
        let told = node.events.iter();
        assert_eq!(
            told.filter(|(reason, _)| *reason == "FailedKillPod")
                .count(),
            1
        );
        node.assert_nothing_left();
    });
}

#[test]
fn restarted_agent_adopts_pods_and_a_dead_shim_is_replaced() {
    on_node(|mut node| async move {
        node.add_image();
        let mut pod = pod("adopted", server());
        node.assign(&[&pod]).await;
        let status = node.wait_until_ready(&pod).await;
        let pid = node.pid(&pod, "a-0");
        pod.status = Some(status);
        node.restart_agent().await;
        node.assign(&[&pod]).await;
        // Its first word after the restart is that it is ready: it never was otherwise.
        let status = node.wait_for(&pod, "any status", |_| true).await;
        assert!(container(&status).ready, "{status:?}");
        assert_eq!(container(&status).restart_count, 0);
        assert_eq!(node.pid(&pod, "a-0"), pid);

        let shim = nix::unistd::Pid::from_raw(node.shim_pid(&pod));
        nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
        let status = node
            .wait_for(&pod, "restarted", |status| {
                container(status).restart_count == 1 && container(status).ready
            })
            .await;
        let last = container(&status)
            .last_state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap();
        assert_eq!(last.reason.as_deref(), Some("ContainerStatusUnknown"));
        assert_eq!(last.exit_code, 137);
    });
}

#[test]
fn container_that_exited_while_no_agent_ran_is_known() {
    on_node(|mut node| async move {
        node.add_image();
        let mut pod = pod(
            "away",
            json!({"restartPolicy": "Never", "containers": [
            {"name": "a", "args": ["sleep"]}]}),
        );
        node.assign(&[&pod]).await;
        let status = node.wait_until_ready(&pod).await;
        pod.status = Some(status);
        node.pods = None;
        let pid = nix::unistd::Pid::from_raw(node.pid(&pod, "a-0"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        node.restart_agent().await;
        node.assign(&[&pod]).await;
        let failed = |status: &k8s_openapi::api::core::v1::PodStatus| {
            status.phase.as_deref() == Some("Failed")
        };
        let status = node.wait_for(&pod, "failed", failed).await;
        let state = container(&status).state.as_ref().unwrap();
        assert_eq!(state.terminated.as_ref().unwrap().exit_code, 137);
    });
}

#[test]
fn crashing_container_is_restarted_with_back_off_and_its_last_words_kept() {
    on_node(|mut node| async move {
        node.add_image();
        let pod = pod(
            "crashing",
            json!({"containers": [
            {"name": "a", "args": ["print", "bye", "last-words", "broken", "exit", "3"]}]}),
        );
        node.assign(&[&pod]).await;
        let crashed = |status: &_| waiting(status) == Some("CrashLoopBackOff");
        let status = node.wait_for(&pod, "crash loop", crashed).await;
        assert_eq!(container(&status).restart_count, 1);
        let last = container(&status)
            .last_state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap();
        assert_eq!(last.exit_code, 3);
        assert_eq!(last.message.as_deref(), Some("broken"));
        assert_eq!(
            node.logs(&pod, |request| request.previous = true).await,
            "bye\n"
        );
        node.wait_for_event("BackOff", "Back-off restarting failed container a")
            .await;
    });
}

#[test]
fn container_beyond_its_memory_limit_is_oom_killed() {
    on_node(|mut node| async move {
        node.add_image();
        let pod = pod(
            "hungry",
            json!({"restartPolicy": "Never", "containers": [{
                "name": "a",
                "args": ["allocate", "64"],
                "resources": {"limits": {"memory": "16Mi"}},
            }]}),
        );
        node.assign(&[&pod]).await;
        let failed = |status: &k8s_openapi::api::core::v1::PodStatus| {
            status.phase.as_deref() == Some("Failed")
        };
        let status = node.wait_for(&pod, "failed", failed).await;
        let state = container(&status)
            .state
            .as_ref()
            .unwrap()
            .terminated
            .clone()
            .unwrap();
        assert_eq!(
            (state.exit_code, state.reason.as_deref()),
            (137, Some("OOMKilled"))
        );
    });
}

#[test]
fn missing_image_says_what_to_do_and_is_picked_up_once_it_is_there() {
    on_node(|mut node| async move {
        let pod = pod(
            "early",
            json!({"containers": [{"name": "a", "args": ["sleep"]}]}),
        );
        node.assign(&[&pod]).await;
        let backing_off = |status: &_| waiting(status) == Some("ImagePullBackOff");
        let status = node.wait_for(&pod, "back-off", backing_off).await;
        let state = container(&status).state.as_ref().unwrap();
        let message = state.waiting.as_ref().unwrap().message.clone().unwrap();
        assert!(
            message.contains(IMAGE) && message.contains("images/NAME.tar"),
            "{message}"
        );
        node.wait_for_event("Failed", IMAGE).await;
        node.wait_for_event("BackOff", "pulling image").await;
        node.add_image();
        node.wait_until_ready(&pod).await;
    });
}

#[test]
fn init_container_environment_volumes_and_layers_are_as_the_pod_says() {
    on_node(|mut node| async move {
        node.add_image();
        let pod = pod(
            "full",
            json!({
                "restartPolicy": "Never",
                "initContainers": [{"name": "i", "args": ["touch", "/work/made"],
                    "volumeMounts": [{"name": "work", "mountPath": "/work"}]}],
                "containers": [{
                    "name": "a",
                    "args": ["env", "FROM_IMAGE", "env", "NODE", "cat", "/etc/hostname",
                             "cat", "/config/key", "cat", "/secret", "exists", "/work/made"],
                    "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                    "volumeMounts": [{"name": "work", "mountPath": "/work"},
                                     {"name": "config", "mountPath": "/config"}],
                }],
                "volumes": [{"name": "work", "emptyDir": {"medium": "Memory"}},
                            {"name": "config", "configMap": {"name": "m"}}],
            }),
        );
        let map = serde_json::from_value(json!({
            "metadata": {"name": "m", "namespace": "default"}, "data": {"key": "value\n"}}))
        .unwrap();
        node.assign_with(&[&pod], Objects::new([map], [])).await;
        let ended = |status: &k8s_openapi::api::core::v1::PodStatus| {
            matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
        };
        let status = node.wait_for(&pod, "ended", ended).await;
        let logs = node
            .logs(&pod, |request| request.container = Some("a".to_owned()))
            .await;
        assert_eq!(logs, "FROM_IMAGE=yes\nNODE=node-1\nfull\nvalue\n");
        assert_eq!(status.phase.as_deref(), Some("Succeeded"), "{status:?}");
    });
}

#[test]
fn command_that_does_not_exist_is_a_start_error() {
    on_node(|mut node| async move {
        node.add_image();
        let pod = pod(
            "mistyped",
            json!({"restartPolicy": "Never", "containers": [
            {"name": "a", "command": ["/nothing"]}]}),
        );
        node.assign(&[&pod]).await;
        let failed = |status: &k8s_openapi::api::core::v1::PodStatus| {
            status.phase.as_deref() == Some("Failed")
        };
        let status = node.wait_for(&pod, "failed", failed).await;
        let state = container(&status)
            .state
            .as_ref()
            .unwrap()
            .terminated
            .clone()
            .unwrap();
        assert_eq!(
            (state.exit_code, state.reason.as_deref()),
            (128, Some("StartError"))
        );
        assert!(state.message.unwrap().contains("/nothing"));
    });
}

#[test]
fn failing_probes_take_a_pod_out_and_restart_it() {
    on_node(|mut node| async move {
        node.add_image();
        let mut spec = server();
        spec["containers"][0]["volumeMounts"] = json!([{"name": "tmp", "mountPath": "/tmp"}]);
        spec["containers"][0]["readinessProbe"]["failureThreshold"] = json!(1);
        spec["containers"][0]["livenessProbe"] = json!({
            "exec": {"command": ["/program", "exists", "/tmp"]}, "periodSeconds": 1});
        spec["volumes"] = json!([{"name": "tmp", "emptyDir": {}}]);
        let pod = pod("probed", spec);
        node.assign(&[&pod]).await;
        node.wait_until_ready(&pod).await;
        let tmp = node.config.data_dir.join("pods/probed-uid/volumes/tmp");
        std::fs::write(tmp.join("unready"), "").unwrap();
        node.wait_for(&pod, "unready", |status| !container(status).ready)
            .await;
        node.wait_for_event("Unhealthy", "Readiness probe failed: HTTP probe failed")
            .await;
        std::fs::remove_file(tmp.join("unready")).unwrap();
        let status = node.wait_until_ready(&pod).await;
        assert_eq!(
            container(&status).restart_count,
            0,
            "liveness passed by exec"
        );
    });
}

#[test]
fn failed_liveness_probe_restarts_the_container() {
    on_node(|mut node| async move {
        node.add_image();
        let pod = pod(
            "stuck",
            json!({"containers": [{
                "name": "a",
                "args": ["sleep"],
                "livenessProbe": {"exec": {"command": ["/program", "exists", "/nothing"]},
                                  "periodSeconds": 1, "failureThreshold": 2},
            }]}),
        );
        node.assign(&[&pod]).await;
        node.wait_for(&pod, "restarted", |status| {
            container(status).restart_count == 1
        })
        .await;
        node.wait_for_event("Unhealthy", "Liveness probe failed")
            .await;
        node.wait_for_event("Killing", "failed liveness probe, will be restarted")
            .await;
    });
}

#[test]
fn pod_of_the_nodes_network_goes_by_its_address_and_name() {
    on_node(|mut node| async move {
        node.add_image();
        let pod = pod(
            "hosted",
            json!({"hostNetwork": true, "containers": [
            {"name": "a", "args": ["cat", "/etc/hostname", "sleep"]}]}),
        );
        node.assign(&[&pod]).await;
        let status = node.wait_until_ready(&pod).await;
        assert_eq!(status.pod_ip, status.host_ip);
        node.wait_for_log(&pod, "node-1\n").await;
    });
}

#[test]
fn followed_log_ends_with_its_container() {
    on_node(|mut node| async move {
        node.add_image();
        let pod = pod(
            "followed",
            json!({"containers": [
            {"name": "a", "args": ["print", "one", "sleep"]}]}),
        );
        node.assign(&[&pod]).await;
        node.wait_until_ready(&pod).await;
        node.wait_for_log(&pod, "one\n").await;
        let read = node.logs(&pod, |request| request.follow = true);
        let stop = async {
            node.assign(&[]).await;
        };
        let (text, ()) = tokio::join!(read, stop);
        assert_eq!(text, "one\n");
        node.wait_until_gone(&pod).await;
    });
}
