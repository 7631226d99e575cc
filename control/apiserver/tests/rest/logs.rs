use bytes::Bytes;
use serde_json::json;

use crate::{
    fixture::{Client, Server},
    objects::pod,
};

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn running_pod(client: &Client) {
    client.post(PODS, &pod("p")).await.expect(201);
    let binding = json!({"target": {"name": "node-1"}});
    client
        .post(&format!("{PODS}/p/binding"), &binding)
        .await
        .expect(201);
}

#[tokio::test]
async fn log_comes_from_the_node_that_runs_the_pod() {
    let server = Server::start().await;
    let client = server.admin();
    running_pod(&client).await;
    let pieces = ["one\n", "two\n"].map(|text| Ok(Bytes::from(text)));
    *server.nodes.pieces.lock().unwrap() = pieces.to_vec();
    let answer = client
        .get(&format!("{PODS}/p/log?tailLines=2&timestamps=true"))
        .await;
    assert_eq!(answer.code, 200);
    assert_eq!(answer.text, "one\ntwo\n");
    let asked = server.nodes.asked.lock().unwrap();
    let (node, kind, request) = &asked[0];
    assert_eq!((node.as_str(), kind.as_str()), ("node-1", "logs"));
    assert_eq!(request["container"], "c");
    assert_eq!(request["tailLines"], 2);
    assert_eq!(request["timestamps"], true);
    assert_eq!(request["follow"], false);
}

#[tokio::test]
async fn log_that_cannot_be_had_says_why() {
    let server = Server::start().await;
    let client = server.admin();
    client.get(&format!("{PODS}/none/log")).await.expect(404);
    client.post(PODS, &pod("waiting")).await.expect(201);
    let status = client.get(&format!("{PODS}/waiting/log")).await.expect(400);
    assert_eq!(
        status["message"],
        "pod waiting does not have a host assigned"
    );

    running_pod(&client).await;
    let status = client
        .get(&format!("{PODS}/p/log?container=x"))
        .await
        .expect(400);
    assert_eq!(status["message"], "container x is not valid for pod p");
    *server.nodes.pieces.lock().unwrap() = vec![Err("no such container".to_owned())];
    let status = client.get(&format!("{PODS}/p/log")).await.expect(400);
    assert_eq!(status["message"], "no such container");
}

#[tokio::test]
async fn view_of_a_node_is_relayed() {
    let server = Server::start().await;
    let client = server.admin();
    *server.nodes.pieces.lock().unwrap() = vec![Ok(Bytes::from("[1]"))];
    let view = client
        .get("/fairlead/v1/nodes/node-2/flows?service=a")
        .await
        .expect(200);
    assert_eq!(view, json!([1]));
    let asked = server.nodes.asked.lock().unwrap().remove(0);
    let query = json!({"view": "flows", "params": {"service": "a"}});
    assert_eq!(asked, ("node-2".to_owned(), "query".to_owned(), query));
    let status = client.get("/fairlead/v1/status").await.expect(200);
    assert_eq!(status[0]["node"], "node-1");
}
