use std::time::Duration;

use fairlead_store::Timing;
use http::header::RETRY_AFTER;
use serde_json::json;

use crate::fixture::{Server, Setting};

#[tokio::test]
async fn stranger_is_told_to_identify_except_by_probes() {
    let server = Server::start().await;
    let stranger = server.stranger();
    let status = stranger.get("/api/v1/pods").await.expect(401);
    assert_eq!(status["reason"], "Unauthorized");
    assert_eq!(stranger.get("/healthz").await.text, "ok");
    assert_eq!(stranger.get("/readyz").await.text, "ok");
    let headers = [("authorization", "Bearer stolen")];
    assert_eq!(
        stranger
            .send("GET", "/api/v1/pods", &headers, "")
            .await
            .code,
        401
    );
}

#[tokio::test]
async fn master_of_another_cluster_is_a_stranger() {
    let server = Server::start().await;
    let foreigner = server.foreigner("admin", Some("system:masters"));
    let status = foreigner.get("/api/v1/pods").await.expect(401);
    assert_eq!(status["reason"], "Unauthorized");
}

#[tokio::test]
async fn user_without_rights_is_refused_by_name() {
    let server = Server::start().await;
    let jane = server.client("jane", Some("developers"));
    let status = jane
        .get("/api/v1/namespaces/default/pods")
        .await
        .expect(403);
    assert_eq!(
        status["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the \
         namespace \"default\""
    );
    jane.get("/apis").await.expect(200);
}

#[tokio::test]
async fn user_may_ask_what_it_may() {
    let server = Server::start().await;
    let review = json!({
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let may = server.admin().post(path, &review).await.expect(201);
    assert_eq!(may["status"]["allowed"], true);
    let may = server
        .client("jane", None)
        .post(path, &review)
        .await
        .expect(201);
    assert_eq!(may["status"]["allowed"], false);
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = server.client("jane", Some("developers"));
    let who = who
        .post(path, &json!({"kind": "SelfSubjectReview"}))
        .await
        .expect(201);
    assert_eq!(who["status"]["userInfo"]["username"], "jane");
    assert_eq!(who["status"]["userInfo"]["groups"], json!(["developers"]));
}

#[tokio::test]
async fn every_answer_has_an_audit_id() {
    let server = Server::start().await;
    for path in ["/version", "/nothing", "/api/v1/pods"] {
        let answer = server.admin().get(path).await;
        assert!(answer.headers.contains_key("audit-id"), "{path}");
    }
}

#[tokio::test]
async fn unknown_paths_methods_and_forms_are_told_apart() {
    let server = Server::start().await;
    let client = server.admin();
    client.get("/apis/example.com/v1/things").await.expect(404);
    client.get("/nothing").await.expect(404);
    client.get("/api/v1/pods/p").await.expect(404);
    client
        .send("PUT", "/api/v1/namespaces", &[], "")
        .await
        .expect(405);
    client
        .send("POST", "/api/v1/pods", &[], "{}")
        .await
        .expect(405);
    let answer = client
        .send("GET", "/api/v1/pods", &[("accept", "text/html")], "")
        .await;
    assert_eq!(answer.code, 406);
}

#[tokio::test]
async fn watch_ends_when_the_server_stops() {
    let mut server = Server::start().await;
    let mut watch = server.admin().watch("/api/v1/pods?watch=true").await;
    server.stop().await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn member_without_a_leader_is_alive_but_not_ready() {
    let setting = Setting {
        timing: Timing {
            request: Duration::from_millis(100),
            ..Setting::default().timing
        },
        ..Setting::default()
    };
    let server = Server::without_leader(setting).await;
    let client = server.admin();
    assert_eq!(client.get("/livez").await.code, 200);
    assert_eq!(client.get("/readyz").await.code, 500);
    let answer = client.get("/api/v1/pods").await;
    assert_eq!(answer.header(RETRY_AFTER), "1");
    assert_eq!(answer.expect(503)["reason"], "ServiceUnavailable");
    let status = client.get("/fairlead/v1/status").await.expect(503);
    assert!(
        status["message"].as_str().unwrap().contains("no leader"),
        "{status}"
    );
}
