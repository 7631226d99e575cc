use fairlead_store::Limits;
use serde_json::{Value, json};

use crate::{
    fixture::{Client, Server, Setting},
    objects::pod,
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

async fn with_config_maps(client: &Client, names: &[&str]) {
    for name in names {
        let object = json!({"metadata": {"name": name, "labels": {"letter": name}}});
        client.post(CONFIG_MAPS, &object).await.expect(201);
    }
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn pages_are_of_one_revision() {
    let server = Server::start().await;
    let client = server.admin();
    with_config_maps(&client, &["a", "b", "c", "d", "e"]).await;
    let first = client
        .get(&format!("{CONFIG_MAPS}?limit=2"))
        .await
        .expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);

    client.delete(&format!("{CONFIG_MAPS}/c")).await.expect(200);
    with_config_maps(&client, &["bb"]).await;

    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = client
        .get(&format!("{CONFIG_MAPS}?limit=2&continue={token}"))
        .await
        .expect(200);
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = client
        .get(&format!("{CONFIG_MAPS}?limit=2&continue={token}"))
        .await
        .expect(200);
    assert_eq!(names(&third), ["e"]);
    assert_eq!(third["metadata"].get("continue"), None);

    let now = client.get(CONFIG_MAPS).await.expect(200);
    assert_eq!(names(&now), ["a", "b", "bb", "d", "e"]);
    client
        .get(&format!("{CONFIG_MAPS}?limit=2&continue=nonsense"))
        .await
        .expect(400);
    client
        .get(&format!(
            "{CONFIG_MAPS}?limit=2&continue={token}&resourceVersion=1"
        ))
        .await
        .expect(400);
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let server = Server::start().await;
    let client = server.admin();
    with_config_maps(&client, &["a", "b", "c"]).await;
    let cases = [
        ("labelSelector=letter%3Da", vec!["a"]),
        ("labelSelector=letter%20in%20(a,b)", vec!["a", "b"]),
        ("labelSelector=letter!%3Da,letter", vec!["b", "c"]),
        ("labelSelector=!letter", vec![]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db", vec!["a", "c"]),
    ];
    for (query, expected) in cases {
        let list = client
            .get(&format!("{CONFIG_MAPS}?{query}"))
            .await
            .expect(200);
        assert_eq!(names(&list), expected, "{query}");
    }
    client
        .get(&format!("{CONFIG_MAPS}?fieldSelector=spec.color%3Dred"))
        .await
        .expect(400);
    client
        .get(&format!("{CONFIG_MAPS}?labelSelector=a%20near%20b"))
        .await
        .expect(400);
}

#[tokio::test]
async fn all_namespaces_are_listed_together() {
    let server = Server::start().await;
    let client = server.admin();
    for namespace in ["default", "kube-public"] {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        client.post(&path, &pod("p")).await.expect(201);
    }
    let list = client.get("/api/v1/pods").await.expect(200);
    assert_eq!(list["kind"], "PodList");
    let items = list["items"].as_array().unwrap();
    let namespaces: Vec<_> = items
        .iter()
        .map(|item| &item["metadata"]["namespace"])
        .collect();
    assert_eq!(namespaces, ["default", "kube-public"]);
}

#[tokio::test]
async fn list_is_as_fresh_or_as_old_as_is_asked() {
    let server = Server::start().await;
    let client = server.admin();
    with_config_maps(&client, &["a"]).await;
    let list = client.get(CONFIG_MAPS).await.expect(200);
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    with_config_maps(&client, &["b"]).await;

    let exact = format!("{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    assert_eq!(names(&client.get(&exact).await.expect(200)), ["a"]);
    let newer = format!("{CONFIG_MAPS}?resourceVersion={revision}");
    assert_eq!(names(&client.get(&newer).await.expect(200)), ["a", "b"]);
    client
        .get(&format!("{CONFIG_MAPS}?resourceVersion=0"))
        .await
        .expect(200);

    let future = client
        .get(&format!("{CONFIG_MAPS}?resourceVersion=999999"))
        .await;
    assert_eq!(future.header(http::header::RETRY_AFTER), "1");
    let status = future.expect(504);
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    client
        .get(&format!("{CONFIG_MAPS}?resourceVersionMatch=Exact"))
        .await
        .expect(422);
}

#[tokio::test]
async fn table_has_columns_and_partial_objects() {
    let server = Server::start().await;
    let client = server.admin();
    let pods = "/api/v1/namespaces/default/pods";
    client.post(pods, &pod("p")).await.expect(201);
    for path in [format!("{pods}?limit=500"), format!("{pods}/p")] {
        let table = client
            .send("GET", &path, &[("accept", TABLE)], "")
            .await
            .expect(200);
        assert_eq!(table["kind"], "Table");
        assert_eq!(table["columnDefinitions"][0]["name"], "Name");
        let row = &table["rows"][0];
        assert_eq!(row["cells"][0], "p");
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    }
    let whole = format!("{pods}?includeObject=Object");
    let table = client
        .send("GET", &whole, &[("accept", TABLE)], "")
        .await
        .expect(200);
    assert_eq!(
        table["rows"][0]["object"]["spec"]["containers"][0]["name"],
        "c"
    );
}

#[tokio::test]
async fn metadata_alone_is_served() {
    let server = Server::start().await;
    let client = server.admin();
    with_config_maps(&client, &["a"]).await;
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = client
        .send("GET", CONFIG_MAPS, &[("accept", accept)], "")
        .await
        .expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    assert_eq!(list["items"][0].get("data"), None);
}

#[tokio::test]
async fn token_that_is_forgotten_is_exchanged_for_one_of_now() {
    let setting = Setting {
        limits: Limits {
            history_events: 4,
            ..Limits::default()
        },
        ..Setting::default()
    };
    let server = Server::with(setting).await;
    let client = server.admin();
    with_config_maps(&client, &["a", "b", "c"]).await;
    let first = client
        .get(&format!("{CONFIG_MAPS}?limit=1"))
        .await
        .expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    with_config_maps(&client, &["d", "e", "f", "g", "h", "i", "j", "k"]).await;

    let page = |token: &str| format!("{CONFIG_MAPS}?limit=3&continue={token}");
    let status = client.get(&page(token)).await.expect(410);
    assert_eq!(status["reason"], "Expired");
    let token = status["metadata"]["continue"].as_str().unwrap();
    let rest = client.get(&page(token)).await.expect(200);
    assert_eq!(names(&rest), ["b", "c", "d"]);
}
