use fairlead_store::MemberId;
use serde_json::json;

use crate::{
    fixture::{Server, Setting},
    objects::pod,
};

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn follower_serves_all_but_what_needs_the_nodes() {
    let leader = Server::start().await;
    let follower = Server::without_leader(Setting {
        member: MemberId(2),
        ..Setting::default()
    })
    .await;
    follower.join(&leader).await;

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

    let binding = json!({"target": {"name": "node-1"}});
    at_follower
        .post(&format!("{PODS}/p0/binding"), &binding)
        .await
        .expect(201);
    let answer = at_follower.get(&format!("{PODS}/p0/log")).await;
    assert_eq!(answer.header(http::header::RETRY_AFTER), "1");
    let status = answer.expect(503);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(&leader.endpoint), "{message}");
    assert_eq!(at_leader.get(&format!("{PODS}/p0/log")).await.code, 200);
}
