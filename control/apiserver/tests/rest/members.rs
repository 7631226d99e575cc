use bytes::Bytes;
use fairlead_apiserver::FRONT_PROXY_USER;
use fairlead_store::MemberId;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    fixture::{Client, Server, Setting},
    objects::pod,
};

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn leader_and_follower() -> (Server, Server) {
    let leader = Server::start().await;
    let follower = Server::without_leader(Setting {
        realm: leader.realm.clone(),
        member: MemberId(2),
        ..Setting::default()
    })
    .await;
    follower.join(&leader).await;
    (leader, follower)
}

async fn bound_pod(client: &Client) {
    client.post(PODS, &pod("p")).await.expect(201);
    let binding = json!({"target": {"name": "node-1"}});
    client
        .post(&format!("{PODS}/p/binding"), &binding)
        .await
        .expect(201);
}

#[tokio::test]
async fn any_member_serves_reads_and_writes_at_once() {
    let (leader, follower) = leader_and_follower().await;
    let (at_leader, at_follower) = (leader.admin(), follower.admin());
    let mut watch = at_leader.watch(&format!("{PODS}?watch=true")).await;
    for index in 0..10 {
        let name = format!("p{index}");
        // Each write through one member is read through the other at once.
        let (writer, reader) = if index % 2 == 0 {
            (&at_follower, &at_leader)
        } else {
            (&at_leader, &at_follower)
        };
        writer.post(PODS, &pod(&name)).await.expect(201);
        reader.get(&format!("{PODS}/{name}")).await.expect(200);
        assert_eq!(watch.next_named().await, ("ADDED".to_owned(), name));
    }
    let conflict = at_follower.post(PODS, &pod("p0")).await.expect(409);
    assert_eq!(conflict["reason"], "AlreadyExists");
}

#[tokio::test]
async fn follower_passes_on_what_needs_the_nodes() {
    let (leader, follower) = leader_and_follower().await;
    let client = follower.admin();
    bound_pod(&client).await;

    *leader.nodes.pieces.lock().unwrap() = vec![Ok(Bytes::from("one\n"))];
    let answer = client.get(&format!("{PODS}/p/log?tailLines=1")).await;
    assert_eq!((answer.code, answer.text.as_str()), (200, "one\n"));
    assert_eq!(
        answer.header(http::header::CONTENT_TYPE),
        "text/plain; charset=utf-8"
    );
    assert_eq!(leader.nodes.asked.lock().unwrap()[0].2["tailLines"], 1);
    assert!(follower.nodes.asked.lock().unwrap().is_empty());

    let status = client.get("/fairlead/v1/status").await.expect(200);
    assert_eq!(status[0]["node"], "node-1");
    *leader.nodes.pieces.lock().unwrap() = vec![Ok(Bytes::from("[1]"))];
    let view = client.get("/fairlead/v1/nodes/node-2/flows").await;
    assert_eq!(view.expect(200), json!([1]));

    let missing = client.get(&format!("{PODS}/none/log")).await.expect(404);
    assert_eq!(missing["message"], "pods \"none\" not found");
}

#[tokio::test]
async fn log_that_is_followed_through_a_follower_comes_as_it_is_written() {
    let (leader, follower) = leader_and_follower().await;
    let client = follower.admin();
    bound_pod(&client).await;

    let (lines, live) = mpsc::channel(1);
    *leader.nodes.live.lock().unwrap() = Some(live);
    lines.send(Ok(Bytes::from("first\n"))).await.unwrap();
    let path = format!("{PODS}/p/log?follow=true");
    let mut body = client.request("GET", &path, &[], "").await.into_body();
    for (line, next) in [("first\n", Some("second\n")), ("second\n", None)] {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), line);
        if let Some(next) = next {
            lines.send(Ok(Bytes::from(next))).await.unwrap();
        }
    }
    // The reader goes away, and the node hears of it through both members.
    drop(body);
    lines.closed().await;
}

#[tokio::test]
async fn rights_are_those_of_the_user_not_of_the_member_that_passes_on() {
    let (leader, follower) = leader_and_follower().await;
    let jane = follower.client("jane", Some("developers"));
    let status = jane.get("/fairlead/v1/status").await.expect(403);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("User \"jane\" cannot"), "{message}");

    // A member's certificate speaks for whom it names, and for nobody by itself.
    let proxy = leader.client(FRONT_PROXY_USER, None);
    proxy.get("/fairlead/v1/status").await.expect(403);
    let in_the_name_of = [
        ("x-remote-user", "root"),
        ("x-remote-group", "developers"),
        ("x-remote-group", "system:masters"),
    ];
    let status = proxy.send("GET", "/fairlead/v1/status", &in_the_name_of, "");
    status.await.expect(200);
    // Another's headers mean nothing, on any member.
    for server in [&leader, &follower] {
        let jane = server.client("jane", None);
        let status = jane.send("GET", "/fairlead/v1/status", &in_the_name_of, "");
        status.await.expect(403);
    }
}

#[tokio::test]
async fn request_is_passed_on_once() {
    let (_leader, follower) = leader_and_follower().await;
    let proxy = follower.client(FRONT_PROXY_USER, None);
    let in_the_name_of = [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
    ];
    let answer = proxy
        .send("GET", "/fairlead/v1/status", &in_the_name_of, "")
        .await;
    assert_eq!(answer.header(http::header::RETRY_AFTER), "1");
    let status = answer.expect(503);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("connected to the leader"), "{message}");
}

#[tokio::test]
async fn leader_that_cannot_be_reached_is_named() {
    let (mut leader, follower) = leader_and_follower().await;
    leader.stop().await;
    let answer = follower.admin().get("/fairlead/v1/status").await;
    assert_eq!(answer.header(http::header::RETRY_AFTER), "1");
    let status = answer.expect(503);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("cannot ask the leader, member 1"),
        "{message}"
    );
}
