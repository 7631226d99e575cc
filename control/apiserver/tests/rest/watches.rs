use fairlead_store::Limits;
use serde_json::json;

use crate::{
    fixture::{Client, Server, Setting},
    objects::pod,
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(client: &Client, name: &str, tier: &str) -> String {
    let object = json!({"metadata": {"name": name, "labels": {"tier": tier}}});
    let created = client.post(CONFIG_MAPS, &object).await.expect(201);
    created["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn watch_from_a_version_sees_what_came_after_in_order() {
    let server = Server::start().await;
    let client = server.admin();
    let revision = create(&client, "a", "x").await;
    create(&client, "b", "x").await;
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={revision}");
    let mut watch = client.watch(&path).await;
    client
        .patch(
            &format!("{CONFIG_MAPS}/a"),
            "merge",
            &json!({"data": {"k": "v"}}),
        )
        .await
        .expect(200);
    client.delete(&format!("{CONFIG_MAPS}/b")).await.expect(200);
    assert_eq!(watch.next_named().await, event("ADDED", "b"));
    let modified = watch.next().await.unwrap();
    assert_eq!(modified["type"], "MODIFIED");
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    let version = |event: &serde_json::Value| -> u64 {
        let text = event["object"]["metadata"]["resourceVersion"]
            .as_str()
            .unwrap();
        text.parse().unwrap()
    };
    assert!(version(&deleted) > version(&modified), "{deleted}");
}

#[tokio::test]
async fn watch_without_a_version_begins_with_what_exists() {
    let server = Server::start().await;
    let client = server.admin();
    create(&client, "a", "x").await;
    for query in ["watch=true", "watch=1&resourceVersion=0"] {
        let mut watch = client.watch(&format!("{CONFIG_MAPS}?{query}")).await;
        assert_eq!(watch.next_named().await, event("ADDED", "a"), "{query}");
    }
}

#[tokio::test]
async fn object_that_enters_or_leaves_the_selection_is_added_or_deleted() {
    let server = Server::start().await;
    let client = server.admin();
    let path = format!("{CONFIG_MAPS}?watch=true&labelSelector=tier%3Dx");
    let mut watch = client.watch(&path).await;
    create(&client, "a", "y").await;
    let object = format!("{CONFIG_MAPS}/a");
    for tier in ["x", "x", "y"] {
        let patch = json!({"metadata": {"labels": {"tier": tier, "seen": tier}}});
        client.patch(&object, "merge", &patch).await.expect(200);
    }
    create(&client, "b", "x").await;
    assert_eq!(watch.next_named().await, event("ADDED", "a"));
    assert_eq!(watch.next_named().await, event("DELETED", "a"));
    assert_eq!(watch.next_named().await, event("ADDED", "b"));
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let server = Server::start().await;
    let client = server.admin();
    create(&client, "a", "x").await;
    let revision = create(&client, "b", "x").await;
    let path = format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
         &allowWatchBookmarks=true&resourceVersion={revision}"
    );
    let mut watch = client.watch(&path).await;
    assert_eq!(watch.next_named().await, event("ADDED", "a"));
    assert_eq!(watch.next_named().await, event("ADDED", "b"));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    let metadata = &bookmark["object"]["metadata"];
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
    let from = metadata["resourceVersion"].as_str().unwrap().to_owned();

    create(&client, "c", "x").await;
    assert_eq!(watch.next_named().await, event("ADDED", "c"));
    let mut again = client
        .watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}"))
        .await;
    assert_eq!(again.next_named().await, event("ADDED", "c"));

    let unmatched = format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true");
    client.get(&unmatched).await.expect(422);
}

#[tokio::test]
async fn initial_events_of_an_empty_collection_are_a_bookmark_alone() {
    let server = Server::start().await;
    let path = format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let mut watch = server.admin().watch(&path).await;
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
}

#[tokio::test]
async fn watch_ends_at_its_timeout_with_a_last_bookmark() {
    let server = Server::start().await;
    let path = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true");
    let mut watch = server.admin().watch(&path).await;
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn version_from_the_future_is_refused() {
    let server = Server::start().await;
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion=999999");
    server.admin().get(&path).await.expect(504);
}

#[tokio::test]
async fn events_come_as_tables_to_who_asks_for_them() {
    let server = Server::start().await;
    let client = server.admin();
    let pods = "/api/v1/namespaces/default/pods";
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut watch = client.watch_as(&format!("{pods}?watch=true"), accept).await;
    client.post(pods, &pod("p")).await.expect(201);
    let added = watch.next().await.unwrap();
    assert_eq!(added["type"], "ADDED");
    assert_eq!(added["object"]["kind"], "Table");
    assert_eq!(added["object"]["rows"][0]["cells"][0], "p");
}

#[tokio::test]
async fn one_object_is_watched_by_its_name() {
    let server = Server::start().await;
    let client = server.admin();
    for path in [
        format!("{CONFIG_MAPS}/b?watch=true"),
        format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name%3Db"),
    ] {
        let mut watch = client.watch(&path).await;
        let name = if path.contains("fieldSelector") {
            "c"
        } else {
            "a"
        };
        create(&client, name, "x").await;
        if !path.contains("fieldSelector") {
            create(&client, "b", "x").await;
        }
        assert_eq!(watch.next_named().await, event("ADDED", "b"), "{path}");
    }
}

#[tokio::test]
async fn version_that_is_forgotten_is_told_in_the_stream() {
    let setting = Setting {
        limits: Limits {
            ring_events: 4,
            ..Limits::default()
        },
        ..Setting::default()
    };
    let server = Server::with(setting).await;
    let client = server.admin();
    let first = create(&client, "first", "x").await;
    for index in 0..16 {
        create(&client, &format!("c{index}"), "x").await;
    }
    let mut watch = client
        .watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={first}"))
        .await;
    let error = watch.next().await.unwrap();
    assert_eq!(error["type"], "ERROR");
    assert_eq!(error["object"]["code"], 410);
    assert_eq!(error["object"]["reason"], "Expired");
    assert_eq!(watch.next().await, None);
}
