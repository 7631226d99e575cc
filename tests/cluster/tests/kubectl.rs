//! What users of kubectl do, with the current client and with the oldest that must work.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::{Scenario, Step, check_contains};
use testbed::cluster::{Cluster, Host, KUBECTL, KUBECTL_OLD, Spec};
use testbed::{Deadline, Kubectl, Progress};

#[test]
fn both_kubectls_do_what_their_users_do() {
    Scenario::new(Spec::named("kubectl").nodes(2), STEPS).run();
}

const STEPS: &[Step] = &[
    Step {
        name: "old_kubectl_deploys_the_example",
        check: old_kubectl_deploys,
    },
    Step {
        name: "every_view_of_objects_holds_what_its_users_look_for",
        check: views,
    },
    Step {
        name: "watched_pods_show_a_change_as_it_happens",
        check: watch,
    },
    Step {
        name: "labels_are_set_selected_and_removed",
        check: labels,
    },
    Step {
        name: "scale_and_rollout_status_reach_the_asked_number",
        check: scale,
    },
    Step {
        name: "config_maps_are_created_configured_unchanged_patched_and_deleted",
        check: config_maps,
    },
    Step {
        name: "imperative_creation_sends_what_the_server_understands",
        check: create,
    },
    Step {
        name: "logs_are_the_containers_own",
        check: logs,
    },
    Step {
        name: "the_example_is_deleted",
        check: delete,
    },
];

/// Runs a check with both clients.
fn with_both(cluster: &Cluster, check: fn(&Cluster, &Kubectl) -> Result<()>) -> Result<()> {
    for name in [KUBECTL, KUBECTL_OLD] {
        let kubectl = cluster.kubectl_of(name, Host::Control(1))?;
        check(cluster, &kubectl).with_context(|| name.to_owned())?;
    }
    Ok(())
}

fn old_kubectl_deploys(cluster: &mut Cluster) -> Result<()> {
    let manifest = cluster
        .workspace()
        .root()
        .join("deploy/examples/hello.yaml");
    let apply = format!("apply -f {}", manifest.display());
    let old = cluster.kubectl_of(KUBECTL_OLD, Host::Control(1))?;
    check_contains(&old.ok(&apply)?, &["deployment.apps/hello created"])?;
    cluster.wait_published("hello", "hello", &Progress::start())?;
    // What one client applied, the other finds unchanged.
    for name in [KUBECTL_OLD, KUBECTL] {
        let again = cluster.kubectl_of(name, Host::Control(1))?.ok(&apply)?;
        check_contains(
            &again,
            &[
                "namespace/hello unchanged",
                "deployment.apps/hello unchanged",
                "service/hello unchanged",
            ],
        )?;
    }
    Ok(())
}

fn views(cluster: &mut Cluster) -> Result<()> {
    with_both(cluster, |_, kubectl| {
        let commands: &[(&str, &[&str])] = &[
            ("get nodes", &["NAME", "STATUS", "node-1", "Ready"]),
            ("get nodes -o wide", &["INTERNAL-IP", "198.18.0.101"]),
            (
                "get namespaces",
                &["default", "kube-system", "hello", "Active"],
            ),
            ("get pods -n hello", &["READY", "1/1", "Running"]),
            (
                "get pods -n hello -o wide",
                &["NODE", "node-1", "node-2", "10.244."],
            ),
            ("get pods -A", &["NAMESPACE", "hello-"]),
            ("get pods -n hello -o name", &["pod/hello-"]),
            ("get deployment hello -n hello", &["UP-TO-DATE", "3/3"]),
            (
                "get deployment hello -n hello -o yaml",
                &["kind: Deployment", "availableReplicas: 3"],
            ),
            (
                "get deployment hello -n hello -o json",
                &["\"kind\": \"Deployment\""],
            ),
            ("get replicasets -n hello", &["DESIRED", "hello-"]),
            (
                "get service hello -n hello",
                &["EXTERNAL-IP", "LoadBalancer", "198.18.100.", "80:3"],
            ),
            ("get endpoints hello -n hello", &["ENDPOINTS", ":8080"]),
            ("get endpointslices -n hello", &["ENDPOINTS", "8080"]),
            ("get events -n hello", &["REASON", "MESSAGE"]),
            (
                "get all -n hello",
                &["pod/hello-", "service/hello", "deployment.apps/hello"],
            ),
            ("get pods -n hello --sort-by=.metadata.name", &["hello-"]),
            (
                "get pods -n hello --field-selector spec.nodeName=node-1",
                &["hello-"],
            ),
            (
                "get pods -n hello -o custom-columns=NAME:.metadata.name,IP:.status.podIP",
                &["NAME", "10.244."],
            ),
            (
                "describe node node-1",
                &["Name:", "node-1", "Capacity:", "Allocatable:"],
            ),
            (
                "describe pods -n hello -l app=hello",
                &["fairlead/hello:0.1", "Node:", "Conditions:"],
            ),
            (
                "describe deployment hello -n hello",
                &["3 available", "NewReplicaSet:"],
            ),
            (
                "describe service hello -n hello",
                &["LoadBalancer Ingress:", "Endpoints:"],
            ),
            (
                "describe replicaset -n hello",
                &["Controlled By:", "Deployment/hello"],
            ),
            ("version -o json", &["serverVersion"]),
            (
                "api-resources",
                &["deployments", "endpointslices", "leases"],
            ),
            ("api-versions", &["apps/v1", "v1"]),
            ("cluster-info", &["https://127.0.0.1:"]),
            (
                "rollout status deployment/hello -n hello --timeout=60s",
                &["successfully rolled out"],
            ),
            (
                "rollout history deployment/hello -n hello",
                &["REVISION", "1"],
            ),
            ("auth can-i create pods", &["yes"]),
        ];
        let mut failures = Vec::new();
        for (command, parts) in commands {
            let outcome = kubectl
                .ok(command)
                .and_then(|text| check_contains(&text, parts));
            if let Err(error) = outcome {
                failures.push(format!("kubectl {command}: {error:#}"));
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    })
}

fn watch(cluster: &mut Cluster) -> Result<()> {
    with_both(cluster, |_, kubectl| {
        let mut watching = kubectl
            .command(["get", "pods", "-n", "hello", "-w", "-L", "watched"])
            .stdout(Stdio::piped())
            .spawn()
            .context("start a watch")?;
        let lines = BufReader::new(watching.stdout.take().context("its output is a pipe")?).lines();
        let (sender, receiver) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let outcome = (|| {
            // The header and three pods: the list is over, changes follow.
            for _ in 0..4 {
                receiver
                    .recv_timeout(Duration::from_secs(20))
                    .context("the list")?;
            }
            let pod = first_pod(kubectl)?;
            kubectl.ok(&format!("label pod {pod} -n hello watched=seen"))?;
            loop {
                let line = receiver
                    .recv_timeout(Duration::from_secs(20))
                    .context("no change was shown")?;
                if line.contains(&pod) && line.contains("seen") {
                    return kubectl
                        .ok(&format!("label pod {pod} -n hello watched-"))
                        .map(drop);
                }
            }
        })();
        watching.kill().context("end the watch")?;
        watching.wait().context("wait for the watch")?;
        reader.join().expect("the reader does not panic");
        outcome
    })
}

fn labels(cluster: &mut Cluster) -> Result<()> {
    with_both(cluster, |_, kubectl| {
        let pod = first_pod(kubectl)?;
        kubectl.ok(&format!("label pod {pod} -n hello tier=front"))?;
        let named = format!("pod/{pod}");
        for selector in [
            "tier=front",
            "tier",
            "tier in (front, back)",
            "tier!=back,tier",
        ] {
            let found = kubectl
                .command(["get", "pods", "-n", "hello", "-o", "name", "-l", selector])
                .output()
                .context("select pods")?;
            let found = String::from_utf8_lossy(&found.stdout).trim().to_owned();
            ensure!(
                found == named,
                "-l {selector:?} finds {found:?}, not {named}"
            );
        }
        let refused = kubectl.run(&format!("label pod {pod} -n hello tier=back"))?;
        ensure!(
            !refused.success,
            "a label was overwritten without --overwrite"
        );
        kubectl.ok(&format!("label pod {pod} -n hello tier=back --overwrite"))?;
        kubectl.ok(&format!("label pod {pod} -n hello tier-"))?;
        let left = kubectl.ok("get pods -n hello -o name -l tier")?;
        ensure!(left.is_empty(), "the label is still there: {left}");
        kubectl.ok(&format!("annotate pod {pod} -n hello note=kept"))?;
        let note = "{.metadata.annotations.note}";
        let kept = kubectl.ok(&format!("get pod {pod} -n hello -o jsonpath={note}"))?;
        ensure!(kept == "kept", "the annotation is {kept:?}");
        kubectl.ok(&format!("annotate pod {pod} -n hello note-"))?;
        Ok(())
    })
}

fn scale(cluster: &mut Cluster) -> Result<()> {
    with_both(cluster, |cluster, kubectl| {
        for replicas in [4, 3] {
            kubectl.ok(&format!(
                "scale deployment/hello -n hello --replicas={replicas}"
            ))?;
            kubectl.ok("rollout status deployment/hello -n hello --timeout=60s")?;
            let published = cluster.wait_published("hello", "hello", &Progress::quiet())?;
            ensure!(published.pods == replicas, "{} pods", published.pods);
        }
        Ok(())
    })
}

fn config_maps(cluster: &mut Cluster) -> Result<()> {
    with_both(cluster, |_, kubectl| {
        // JSON proper: the old client takes whatever begins with a brace for it.
        let manifest = |colour: &str| {
            serde_json::json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "paint"},
                "data": {"colour": colour, "gloss": "high"},
            })
            .to_string()
        };
        for (colour, said) in [
            ("red", "created"),
            ("blue", "configured"),
            ("blue", "unchanged"),
        ] {
            let outcome = kubectl.run_with("apply -f -", &manifest(colour))?;
            check_contains(
                &format!("{}{}", outcome.stdout, outcome.stderr),
                &[&format!("configmap/paint {said}")],
            )?;
        }
        let patch = "patch configmap paint --type merge -p {\"data\":{\"gloss\":null}}";
        kubectl.ok(patch)?;
        let data = kubectl.json("get configmap paint -o json")?["data"].clone();
        ensure!(data == serde_json::json!({"colour": "blue"}), "{data}");
        let stale = kubectl.json("get configmap paint -o json")?;
        kubectl.ok("annotate configmap paint touched=yes")?;
        let replaced = kubectl.run_with("replace -f -", &stale.to_string())?;
        ensure!(!replaced.success, "a stale replace was accepted");
        check_contains(&replaced.stderr, &["the object has been modified"])?;
        kubectl.ok("delete configmap paint")?;
        let missing = kubectl.run("get configmap paint")?;
        check_contains(&missing.stderr, &["configmaps \"paint\" not found"])
    })
}

fn create(cluster: &mut Cluster) -> Result<()> {
    with_both(cluster, |_, kubectl| {
        let namespace = "made-by-hand";
        kubectl.ok(&format!("create namespace {namespace}"))?;
        for command in [
            "create configmap settings --from-literal=a=1",
            "create secret generic password --from-literal=b=2",
            "create serviceaccount robot",
            "create service clusterip backend --tcp=80:8080",
            "create deployment sleeper --image=fairlead/hello:0.1 --replicas=1",
        ] {
            kubectl
                .ok(&format!("{command} -n {namespace}"))
                .with_context(|| command.to_owned())?;
        }
        kubectl.ok(&format!(
            "rollout status deployment/sleeper -n {namespace} --timeout=60s"
        ))?;
        let value = kubectl.ok(&format!(
            "get secret password -n {namespace} -o jsonpath={{.data.b}}"
        ))?;
        ensure!(value == "Mg==", "the secret holds {value:?}");
        // A namespace takes everything in it along.
        kubectl.ok(&format!("delete namespace {namespace} --timeout=60s"))?;
        let pods = kubectl.ok(&format!("get pods -n {namespace} -o name"))?;
        ensure!(pods.is_empty(), "pods outlived their namespace: {pods}");
        Ok(())
    })
}

fn logs(cluster: &mut Cluster) -> Result<()> {
    with_both(cluster, |_, kubectl| {
        let pod = first_pod(kubectl)?;
        let all = kubectl.ok(&format!("logs {pod} -n hello"))?;
        ensure!(!all.is_empty(), "hello says at its start that it listens");
        let last = kubectl.ok(&format!("logs {pod} -n hello --tail=1 --timestamps"))?;
        ensure!(last.lines().count() == 1, "--tail=1 gives {last:?}");
        ensure!(last.starts_with("20"), "--timestamps gives {last:?}");
        let of_deployment = kubectl.ok("logs deployment/hello -n hello")?;
        ensure!(
            !of_deployment.is_empty(),
            "the logs of a deployment are one pod's"
        );
        let wrong = kubectl.run(&format!("logs {pod} -n hello -c nobody"))?;
        ensure!(!wrong.success, "there is no container nobody");
        Ok(())
    })
}

fn delete(cluster: &mut Cluster) -> Result<()> {
    let manifest = cluster
        .workspace()
        .root()
        .join("deploy/examples/hello.yaml");
    ensure!(
        fs::exists(&manifest).context("look for the example")?,
        "the example is missing"
    );
    let old = cluster.kubectl_of(KUBECTL_OLD, Host::Control(1))?;
    let said = old.ok(&format!("delete -f {} --timeout=120s", manifest.display()))?;
    check_contains(
        &said,
        &["namespace \"hello\" deleted", "service \"hello\" deleted"],
    )?;
    cluster.wait_gone("pods -n hello", Deadline::seconds(30))?;
    let missing = cluster.kubectl()?.run("get namespace hello")?;
    check_contains(&missing.stderr, &["namespaces \"hello\" not found"])
}

fn first_pod(kubectl: &Kubectl) -> Result<String> {
    kubectl.ok("get pods -n hello -l app=hello -o jsonpath={.items[0].metadata.name}")
}
