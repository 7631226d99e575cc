//! Bad input gets the error a user of kubectl expects, and leaves nothing half-applied.

use std::fs;

use anyhow::{Context, Result, ensure};
use cluster_tests::{Scenario, Step, check_contains};
use testbed::cluster::{Cluster, Host, KUBECTL, Spec, address};
use testbed::{Deadline, Kubectl};

#[test]
fn bad_input_is_refused_with_its_cause_and_leaves_nothing() {
    let spec = Spec::named("bad-input")
        .nodes(1)
        .vip_pool("198.18.100.1/32");
    Scenario::new(spec, STEPS).run();
}

const STEPS: &[Step] = &[
    Step {
        name: "manifest_with_a_bad_field_is_refused_with_the_fields_name",
        check: bad_fields,
    },
    Step {
        name: "service_without_a_free_vip_waits_and_gets_the_next_one_freed",
        check: no_free_vip,
    },
    Step {
        name: "pod_with_a_missing_image_says_so_in_its_state_and_an_event",
        check: missing_image,
    },
    Step {
        name: "pod_too_large_for_every_node_is_unschedulable_with_the_reason",
        check: unschedulable,
    },
    Step {
        name: "host_with_a_wrong_token_does_not_join",
        check: wrong_token,
    },
    Step {
        name: "user_without_or_with_foreign_credentials_is_turned_away",
        check: wrong_credentials,
    },
];

/// A manifest, and what its refusal must say.
struct Refused {
    what: &'static str,
    manifest: &'static str,
    says: &'static [&'static str],
}

const REFUSED: &[Refused] = &[
    Refused {
        what: "unknown field",
        manifest: "{apiVersion: apps/v1, kind: Deployment, metadata: {name: bad}, spec: {replicaz: \
                   3, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: \
                   {containers: [{name: c, image: i}]}}}}",
        says: &["unknown field \"spec.replicaz\""],
    },
    Refused {
        what: "negative replicas",
        manifest: "{apiVersion: apps/v1, kind: Deployment, metadata: {name: bad}, spec: {replicas: \
                   -1, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: \
                   {containers: [{name: c, image: i}]}}}}",
        says: &["spec.replicas", "Invalid value"],
    },
    Refused {
        what: "replicas that are no number",
        manifest: "{apiVersion: apps/v1, kind: Deployment, metadata: {name: bad}, spec: {replicas: \
                   three, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, \
                   spec: {containers: [{name: c, image: i}]}}}}",
        says: &["replicas"],
    },
    Refused {
        what: "no container",
        manifest: "{apiVersion: apps/v1, kind: Deployment, metadata: {name: bad}, spec: {selector: \
                   {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: \
                   []}}}}",
        says: &["spec.template.spec.containers", "Required value"],
    },
    Refused {
        what: "labels that the selector does not select",
        manifest: "{apiVersion: apps/v1, kind: Deployment, metadata: {name: bad}, spec: {selector: \
                   {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: \
                   [{name: c, image: i}]}}}}",
        says: &["spec.template.metadata.labels", "Invalid value"],
    },
    Refused {
        what: "container without an image",
        manifest: "{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {containers: [{name: \
                   c}]}}",
        says: &["spec.containers[0].image", "Required value"],
    },
    Refused {
        what: "port out of range",
        manifest: "{apiVersion: v1, kind: Service, metadata: {name: bad}, spec: {selector: {a: b}, \
                   ports: [{port: 70000}]}}",
        says: &["spec.ports[0].port", "Invalid value"],
    },
    Refused {
        what: "name that is no DNS label",
        manifest: "{apiVersion: v1, kind: Service, metadata: {name: Bad_Name}, spec: {selector: \
                   {a: b}, ports: [{port: 80}]}}",
        says: &["metadata.name", "Invalid value"],
    },
    Refused {
        what: "namespace that is not there",
        manifest: "{apiVersion: v1, kind: ConfigMap, metadata: {name: bad, namespace: nowhere}}",
        says: &["namespaces \"nowhere\" not found"],
    },
    Refused {
        what: "kind that is not served",
        manifest: "{apiVersion: example.com/v1, kind: Bad, metadata: {name: bad}}",
        says: &["no matches for kind \"Bad\""],
    },
];

fn bad_fields(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    let mut failures = Vec::new();
    for refused in REFUSED {
        let outcome = kubectl.run_with("apply -f -", refused.manifest)?;
        let checked = if outcome.success {
            Err(anyhow::anyhow!("was accepted"))
        } else {
            check_contains(&outcome.stderr, refused.says)
        };
        if let Err(error) = checked {
            failures.push(format!("{}: {error:#}", refused.what));
        }
    }
    let left =
        kubectl.ok("get deployments,replicasets,pods,configmaps -o name --ignore-not-found")?;
    if left.contains("bad") {
        failures.push(format!("something was applied all the same: {left}"));
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn no_free_vip(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    let service = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: \
             LoadBalancer, selector: {{a: b}}, ports: [{{port: 80}}]}}}}"
        )
    };
    apply(&kubectl, &service("first"))?;
    wait_for_text(cluster, "get service first", "198.18.100.1")?;
    apply(&kubectl, &service("second"))?;
    wait_for_text(
        cluster,
        "get events --field-selector involvedObject.name=second",
        "AllocationFailed",
    )?;
    let second = kubectl.ok("get service second")?;
    check_contains(&second, &["<pending>"])?;
    kubectl.ok("delete service first --timeout=30s")?;
    wait_for_text(cluster, "get service second", "198.18.100.1")?;
    kubectl.ok("delete service second --timeout=30s")?;
    Ok(())
}

fn missing_image(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    apply(
        &kubectl,
        "{apiVersion: v1, kind: Pod, metadata: {name: imageless}, spec: {containers: [{name: c, \
         image: 'fairlead/absent:9', imagePullPolicy: IfNotPresent}]}}",
    )?;
    wait_for_text(
        cluster,
        "get pod imageless -o jsonpath={.status.containerStatuses[0].state.waiting}",
        "fairlead/absent:9",
    )?;
    wait_for_text(
        cluster,
        "get events --field-selector involvedObject.name=imageless",
        "fairlead/absent:9",
    )?;
    let shown = kubectl.ok("get pod imageless")?;
    ensure!(
        shown.contains("ErrImagePull") || shown.contains("ImagePullBackOff"),
        "{shown}"
    );
    let ready = kubectl
        .ok("get pod imageless -o jsonpath={.status.conditions[?(@.type==\"Ready\")].status}")?;
    ensure!(ready == "False", "Ready is {ready:?}");
    kubectl.ok("delete pod imageless --timeout=60s")?;
    Ok(())
}

fn unschedulable(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    apply(
        &kubectl,
        "{apiVersion: v1, kind: Pod, metadata: {name: giant}, spec: {containers: [{name: c, image: \
         'fairlead/hello:0.1', resources: {requests: {cpu: '1000'}}}]}}",
    )?;
    let condition = "{.status.conditions[?(@.type==\"PodScheduled\")]}";
    wait_for_text(
        cluster,
        &format!("get pod giant -o jsonpath={condition}"),
        "Unschedulable",
    )?;
    wait_for_text(
        cluster,
        "get events --field-selector involvedObject.name=giant",
        "FailedScheduling",
    )?;
    let message = kubectl.ok(&format!("get pod giant -o jsonpath={condition}"))?;
    check_contains(&message, &["cpu"])?;
    kubectl.ok("delete pod giant --timeout=30s")?;
    Ok(())
}

fn wrong_token(cluster: &mut Cluster) -> Result<()> {
    let server = format!("{}:6444", address(Host::Control(1)).context("it has one")?);
    let mut forged = cluster.token("node")?;
    let last = forged.pop().context("a token is not empty")?;
    forged.push(if last == 'a' { 'b' } else { 'a' });
    let control = cluster.token("control")?;
    // The client has no agent: it stands for a machine that wants to become a node.
    for (what, token) in [
        ("a forged token", forged.as_str()),
        ("no token at all", "nonsense"),
        ("a token for another role", control.as_str()),
    ] {
        let Err(error) = cluster.join_node(Host::Client, token, &server) else {
            anyhow::bail!("{what} was accepted");
        };
        check_contains(&format!("{error:#}"), &["token"]).context(what)?;
    }
    let nodes = cluster.kubectl()?.ok("get nodes -o name")?;
    ensure!(nodes.trim() == "node/node-1", "nodes: {nodes}");
    let configured = cluster.layout().data(Host::Client).join("agent.toml");
    ensure!(!configured.exists(), "a refused host keeps a configuration");
    Ok(())
}

fn wrong_credentials(cluster: &mut Cluster) -> Result<()> {
    let ours = fs::read_to_string(cluster.layout().kubeconfig()).context("read our kubeconfig")?;
    // A cluster of somebody else's, with an authority of its own.
    let data = cluster.layout().folder().join("foreign");
    let folder = data.to_string_lossy().into_owned();
    cluster.exec(
        Host::Client,
        cluster.workspace().binary("fairlead-control")?,
        &[
            "init",
            "--data-dir",
            &folder,
            "--name",
            "foreign",
            "--advertise",
            "198.18.1.10",
        ],
    )?;
    let theirs = fs::read_to_string(data.join("admin.kubeconfig")).context("read theirs")?;

    // kubectl without credentials asks for a password and sends nothing.
    let url = format!(
        "https://{}:6443/api/v1/namespaces",
        address(Host::Control(1)).context("it has one")?
    );
    let anonymous = cluster.exec(
        Host::Client,
        "curl",
        &["--silent", "--show-error", "--insecure", &url],
    )?;
    let status: serde_json::Value =
        serde_json::from_str(&anonymous).with_context(|| format!("it answers {anonymous}"))?;
    ensure!(
        status["kind"] == "Status" && status["code"] == 401 && status["reason"] == "Unauthorized",
        "nobody is answered {status}"
    );

    let token = format!(
        "{}    token: made-up\n",
        without_fields(&ours, &["client-certificate-data", "client-key-data"])
    );
    let foreign_user = with_fields_of(
        &ours,
        &theirs,
        &["client-certificate-data", "client-key-data"],
    );
    let foreign_authority = with_fields_of(&ours, &theirs, &["certificate-authority-data"]);
    for (what, kubeconfig, says) in [
        (
            "a made-up token",
            token,
            &["Unauthorized", "must be logged in", "provide credentials"],
        ),
        (
            "a foreign user",
            foreign_user,
            &["Unauthorized", "must be logged in", "provide credentials"],
        ),
        (
            "a foreign authority",
            foreign_authority,
            &["x509", "certificate", "unknown authority"],
        ),
    ] {
        let path = cluster.layout().folder().join("wrong.kubeconfig");
        fs::write(&path, kubeconfig).context("write a kubeconfig")?;
        let kubectl = Kubectl::new(
            cluster.workspace().tools().join(KUBECTL),
            path,
            cluster.layout().folder().join("wrong-cache"),
        );
        let outcome = kubectl.run_with("get --raw /api/v1/namespaces", "")?;
        ensure!(!outcome.success, "{what} may read: {}", outcome.stdout);
        ensure!(
            says.iter().any(|part| outcome.stderr.contains(part)),
            "{what}: {}",
            outcome.stderr
        );
    }
    Ok(())
}

/// A kubeconfig without the lines of some fields.
fn without_fields(kubeconfig: &str, fields: &[&str]) -> String {
    let kept = kubeconfig
        .lines()
        .filter(|line| !fields.iter().any(|field| line.contains(field)));
    kept.map(|line| format!("{line}\n")).collect()
}

/// A kubeconfig with some fields as in another one, which was written by the same program.
fn with_fields_of(kubeconfig: &str, other: &str, fields: &[&str]) -> String {
    let lines = kubeconfig.lines().map(|line| {
        let replaced = fields.iter().any(|field| line.trim().starts_with(field));
        let key = line.split(':').next().unwrap_or_default();
        let same = other
            .lines()
            .find(|theirs| theirs.split(':').next() == Some(key));
        if replaced { same.unwrap_or(line) } else { line }
    });
    lines.map(|line| format!("{line}\n")).collect()
}

fn apply(kubectl: &Kubectl, manifest: &str) -> Result<()> {
    let outcome = kubectl.run_with("apply -f -", manifest)?;
    ensure!(outcome.success, "kubectl apply: {}", outcome.stderr);
    Ok(())
}

/// Waits until what kubectl prints holds `text`.
fn wait_for_text(cluster: &Cluster, command: &str, text: &str) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    let what = format!("{text:?} in kubectl {command}");
    cluster.wait_for(Deadline::seconds(40), &what, || {
        let shown = kubectl.ok(command)?;
        ensure!(shown.contains(text), "it shows {shown:?}");
        Ok(Some(()))
    })
}
