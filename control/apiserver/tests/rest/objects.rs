use serde_json::{Value, json};

use crate::fixture::{Client, Server};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"color": "red"}})
}

pub(crate) fn deployment(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "fairlead/hello:0.1"}]},
            },
        },
    })
}

pub(crate) fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "fairlead/hello:0.1"}]},
    })
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

async fn created(client: &Client, path: &str, object: &Value) -> Value {
    client.post(path, object).await.expect(201)
}

#[tokio::test]
async fn object_lives_from_create_to_delete() {
    let server = Server::start().await;
    let client = server.admin();
    let first = created(&client, CONFIG_MAPS, &config_map("a")).await;
    assert_eq!(first["kind"], "ConfigMap");
    assert_eq!(first["metadata"]["namespace"], "default");
    assert!(first["metadata"]["uid"].is_string());
    assert!(first["metadata"]["creationTimestamp"].is_string());

    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(client.get(&path).await.expect(200), first);
    let status = client.post(CONFIG_MAPS, &config_map("a")).await.expect(409);
    assert_eq!(status["reason"], "AlreadyExists");
    assert_eq!(status["message"], "configmaps \"a\" already exists");

    let mut second = first.clone();
    second["data"]["color"] = "blue".into();
    let second = client.put(&path, &second).await.expect(200);
    assert!(version(&second) > version(&first));
    let status = client.put(&path, &first).await.expect(409);
    assert_eq!(status["reason"], "Conflict");

    let status = client.delete(&path).await.expect(200);
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"]["uid"], first["metadata"]["uid"]);
    let status = client.get(&path).await.expect(404);
    assert_eq!(status["message"], "configmaps \"a\" not found");
    client.delete(&path).await.expect(404);
}

#[tokio::test]
async fn write_that_changes_nothing_keeps_the_version() {
    let server = Server::start().await;
    let client = server.admin();
    let first = created(&client, CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(client.put(&path, &first).await.expect(200), first);
    let patch = json!({"data": {"color": "red"}});
    assert_eq!(
        client.patch(&path, "merge", &patch).await.expect(200),
        first
    );
}

#[tokio::test]
async fn name_is_generated_from_a_prefix() {
    let server = Server::start().await;
    let client = server.admin();
    let object = json!({"metadata": {"generateName": "job-"}});
    let one = created(&client, CONFIG_MAPS, &object).await;
    let other = created(&client, CONFIG_MAPS, &object).await;
    let name = one["metadata"]["name"].as_str().unwrap();
    assert!(
        name.starts_with("job-") && name.len() == "job-".len() + 5,
        "{name}"
    );
    assert_ne!(one["metadata"]["name"], other["metadata"]["name"]);
    let status = client
        .post(CONFIG_MAPS, &json!({"metadata": {}}))
        .await
        .expect(422);
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.name");
}

#[tokio::test]
async fn dry_run_persists_nothing() {
    let server = Server::start().await;
    let client = server.admin();
    let path = format!("{CONFIG_MAPS}/a");
    let shown = client
        .post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a"))
        .await
        .expect(201);
    assert_eq!(shown["data"]["color"], "red");
    client.get(&path).await.expect(404);

    let first = created(&client, CONFIG_MAPS, &config_map("a")).await;
    let patch = json!({"data": {"color": "blue"}});
    let shown = client
        .patch(&format!("{path}?dryRun=All"), "merge", &patch)
        .await
        .expect(200);
    assert_eq!(shown["data"]["color"], "blue");
    client
        .delete(&format!("{path}?dryRun=All"))
        .await
        .expect(200);
    assert_eq!(client.get(&path).await.expect(200), first);
}

#[tokio::test]
async fn body_must_fit_the_path() {
    let server = Server::start().await;
    let client = server.admin();
    let mut elsewhere = config_map("a");
    elsewhere["metadata"]["namespace"] = "kube-public".into();
    client.post(CONFIG_MAPS, &elsewhere).await.expect(400);
    let mut versioned = config_map("a");
    versioned["metadata"]["resourceVersion"] = "7".into();
    client.post(CONFIG_MAPS, &versioned).await.expect(400);
    let secret = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}});
    client.post(CONFIG_MAPS, &secret).await.expect(400);
    created(&client, CONFIG_MAPS, &config_map("a")).await;
    client
        .put(&format!("{CONFIG_MAPS}/a"), &config_map("b"))
        .await
        .expect(400);
    let answer = client
        .send(
            "POST",
            CONFIG_MAPS,
            &[("content-type", "text/html")],
            "<html>",
        )
        .await;
    assert_eq!(answer.code, 415);
    let huge = "x".repeat(4 << 20);
    assert_eq!(client.send("POST", CONFIG_MAPS, &[], &huge).await.code, 413);
}

#[tokio::test]
async fn yaml_is_taken_as_a_body() {
    let server = Server::start().await;
    let client = server.admin();
    let yaml = "kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: a\ndata:\n  color: red\n";
    let answer = client
        .send(
            "POST",
            CONFIG_MAPS,
            &[("content-type", "application/yaml")],
            yaml,
        )
        .await;
    assert_eq!(answer.expect(201)["data"]["color"], "red");
}

#[tokio::test]
async fn unknown_field_is_refused_or_warned_about() {
    let server = Server::start().await;
    let client = server.admin();
    let mut object = deployment("web");
    object["spec"]["replicaz"] = 3.into();
    let strict = client
        .post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"), &object)
        .await;
    let status = strict.expect(400);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("strict decoding error: unknown field \"spec.replicaz\""),
        "{message}"
    );
    let warned = client.post(DEPLOYMENTS, &object).await;
    assert!(
        warned
            .header(http::header::WARNING)
            .contains("spec.replicaz")
    );
    warned.expect(201);
}

#[tokio::test]
async fn generation_counts_changes_of_the_spec_only() {
    let server = Server::start().await;
    let client = server.admin();
    let path = format!("{DEPLOYMENTS}/web");
    let first = created(&client, DEPLOYMENTS, &deployment("web")).await;
    assert_eq!(first["metadata"]["generation"], 1);
    let labelled = json!({"metadata": {"labels": {"tier": "front"}}});
    let next = client.patch(&path, "merge", &labelled).await.expect(200);
    assert_eq!(next["metadata"]["generation"], 1);
    let more = json!({"spec": {"replicas": 5}});
    let next = client
        .patch(&path, "strategic-merge", &more)
        .await
        .expect(200);
    assert_eq!(next["metadata"]["generation"], 2);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let server = Server::start().await;
    let client = server.admin();
    let path = format!("{DEPLOYMENTS}/web");
    let mut object = created(&client, DEPLOYMENTS, &deployment("web")).await;
    object["spec"]["replicas"] = 9.into();
    object["status"] = json!({"replicas": 4, "observedGeneration": 1});
    let after = client
        .put(&format!("{path}/status"), &object)
        .await
        .expect(200);
    assert_eq!(after["spec"]["replicas"], 2);
    assert_eq!(after["status"]["replicas"], 4);
    assert_eq!(after["metadata"]["generation"], 1);
    let both = json!({"spec": {"replicas": 3}, "status": {"replicas": 0}});
    let after = client.patch(&path, "merge", &both).await.expect(200);
    assert_eq!(after["spec"]["replicas"], 3);
    assert_eq!(after["status"]["replicas"], 4);
}

#[tokio::test]
async fn patches_of_each_kind_are_applied() {
    let server = Server::start().await;
    let client = server.admin();
    let path = format!("{DEPLOYMENTS}/web");
    created(&client, DEPLOYMENTS, &deployment("web")).await;

    let named = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": "other:1"}, {"name": "d", "image": "side:1"},
    ]}}}});
    let after = client
        .patch(&path, "strategic-merge", &named)
        .await
        .expect(200);
    let containers = after["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    assert_eq!(containers.len(), 2);

    let replaced = json!([{"op": "replace", "path": "/spec/replicas", "value": 7}]);
    let after = client.patch(&path, "json", &replaced).await.expect(200);
    assert_eq!(after["spec"]["replicas"], 7);

    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 1}});
    client.patch(&path, "merge", &stale).await.expect(409);

    let answer = client.patch(&path, "apply", &json!({})).await;
    assert_eq!(answer.code, 415, "{}", answer.text);
    let headers = [("content-type", "application/apply-patch+yaml")];
    let answer = client.send("PATCH", &path, &headers, "{}").await;
    assert_eq!(answer.code, 415);
    assert!(answer.text.contains("server-side apply"));
    client
        .patch(&format!("{DEPLOYMENTS}/none"), "merge", &json!({}))
        .await
        .expect(404);
}

#[tokio::test]
async fn patches_at_once_are_all_kept() {
    let server = Server::start().await;
    let client = server.admin();
    created(&client, CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut writers = Vec::new();
    for index in 0..8 {
        let (client, path) = (client.clone(), path.clone());
        writers.push(tokio::spawn(async move {
            let mut data = serde_json::Map::new();
            data.insert(format!("key-{index}"), "x".into());
            client
                .patch(&path, "merge", &json!({ "data": data }))
                .await
                .expect(200);
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let after = client.get(&path).await.expect(200);
    assert_eq!(after["data"].as_object().unwrap().len(), 9);
}

#[tokio::test]
async fn scale_is_read_and_written() {
    let server = Server::start().await;
    let client = server.admin();
    created(&client, DEPLOYMENTS, &deployment("web")).await;
    let path = format!("{DEPLOYMENTS}/web/scale");
    let mut scale = client.get(&path).await.expect(200);
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(scale["status"]["selector"], "app=web");
    scale["spec"]["replicas"] = 4.into();
    let after = client.put(&path, &scale).await.expect(200);
    assert_eq!(after["spec"]["replicas"], 4);
    client.put(&path, &scale).await.expect(409);
    let after = client
        .patch(&path, "merge", &json!({"spec": {"replicas": 6}}))
        .await
        .expect(200);
    assert_eq!(after["spec"]["replicas"], 6);
    let status = client
        .patch(&path, "merge", &json!({"spec": {"replicas": -1}}))
        .await
        .expect(422);
    assert_eq!(status["details"]["causes"][0]["field"], "spec.replicas");
    let whole = client.get(&format!("{DEPLOYMENTS}/web")).await.expect(200);
    assert_eq!(whole["spec"]["replicas"], 6);
    client
        .get(&format!("{CONFIG_MAPS}/kube/scale"))
        .await
        .expect(404);
}

#[tokio::test]
async fn finalizer_holds_a_deleted_object_until_it_is_removed() {
    let server = Server::start().await;
    let client = server.admin();
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(["example.com/wait"]);
    created(&client, CONFIG_MAPS, &object).await;
    let path = format!("{CONFIG_MAPS}/a");
    let going = client.delete(&path).await.expect(200);
    assert!(going["metadata"]["deletionTimestamp"].is_string());

    let more = json!({"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}});
    client.patch(&path, "merge", &more).await.expect(422);
    let none = json!({"metadata": {"finalizers": null}});
    client.patch(&path, "merge", &none).await.expect(200);
    client.get(&path).await.expect(404);
}

#[tokio::test]
async fn deletion_of_another_incarnation_is_a_conflict() {
    let server = Server::start().await;
    let client = server.admin();
    created(&client, CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let options = json!({"preconditions": {"uid": "another"}});
    let answer = client
        .send("DELETE", &path, &[], &options.to_string())
        .await;
    assert_eq!(answer.expect(409)["reason"], "Conflict");
    client.get(&path).await.expect(200);
}

#[tokio::test]
async fn propagation_is_left_for_the_garbage_collector() {
    let server = Server::start().await;
    let client = server.admin();
    created(&client, DEPLOYMENTS, &deployment("web")).await;
    let options = json!({"propagationPolicy": "Foreground"}).to_string();
    let going = client
        .send("DELETE", &format!("{DEPLOYMENTS}/web"), &[], &options)
        .await;
    assert_eq!(
        going.expect(200)["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
}

#[tokio::test]
async fn pod_is_bound_once_and_ends_gracefully() {
    let server = Server::start().await;
    let client = server.admin();
    let pods = "/api/v1/namespaces/default/pods";
    let first = created(&client, pods, &pod("p")).await;
    assert_eq!(first["status"]["phase"], "Pending");
    assert_eq!(first["status"]["qosClass"], "BestEffort");

    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "node-1"}});
    let path = format!("{pods}/p");
    client
        .post(&format!("{path}/binding"), &binding)
        .await
        .expect(201);
    client
        .post(&format!("{path}/binding"), &binding)
        .await
        .expect(409);
    let bound = client.get(&path).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "node-1");

    let going = client.delete(&path).await.expect(200);
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    let at_once = json!({"gracePeriodSeconds": 0}).to_string();
    client
        .send("DELETE", &path, &[], &at_once)
        .await
        .expect(200);
    client.get(&path).await.expect(404);

    created(&client, pods, &pod("q")).await;
    let eviction = json!({"metadata": {"name": "q"}});
    client
        .post(&format!("{pods}/q/eviction"), &eviction)
        .await
        .expect(201);
    client.get(&format!("{pods}/q")).await.expect(404);
}

#[tokio::test]
async fn namespace_is_emptied_before_it_goes() {
    let server = Server::start().await;
    let client = server.admin();
    let object = json!({"metadata": {"name": "shop"}});
    let first = created(&client, "/api/v1/namespaces", &object).await;
    assert_eq!(first["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(
        first["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "shop"
    );
    let inside = "/api/v1/namespaces/shop/configmaps";
    created(&client, inside, &config_map("a")).await;

    let going = client.delete("/api/v1/namespaces/shop").await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    let status = client.post(inside, &config_map("b")).await.expect(403);
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    let status = client
        .post("/api/v1/namespaces/none/configmaps", &config_map("a"))
        .await;
    assert_eq!(
        status.expect(404)["message"],
        "namespaces \"none\" not found"
    );

    let mut done = going;
    done["spec"]["finalizers"] = json!([]);
    client
        .put("/api/v1/namespaces/shop/finalize", &done)
        .await
        .expect(200);
    client.get("/api/v1/namespaces/shop").await.expect(404);
}

#[tokio::test]
async fn collection_is_deleted_by_selector() {
    let server = Server::start().await;
    let client = server.admin();
    for (name, tier) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({ "tier": tier });
        created(&client, CONFIG_MAPS, &object).await;
    }
    let gone = client
        .delete(&format!("{CONFIG_MAPS}?labelSelector=tier%3Dx"))
        .await
        .expect(200);
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    let left = client.get(CONFIG_MAPS).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}
