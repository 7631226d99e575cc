use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};

use crate::fixture::Server;

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

#[tokio::test]
async fn discovery_is_served_in_both_forms() {
    let server = Server::start().await;
    let client = server.admin();
    assert_eq!(client.get("/api").await.expect(200)["kind"], "APIVersions");
    assert_eq!(
        client.get("/apis").await.expect(200)["kind"],
        "APIGroupList"
    );
    assert_eq!(
        client.get("/apis/apps").await.expect(200)["kind"],
        "APIGroup"
    );
    for path in ["/api/v1", "/apis/apps/v1"] {
        assert_eq!(
            client.get(path).await.expect(200)["kind"],
            "APIResourceList"
        );
    }
    for path in ["/api", "/apis"] {
        let answer = client
            .send("GET", path, &[("accept", AGGREGATED)], "")
            .await;
        assert!(
            answer
                .header(CONTENT_TYPE)
                .contains("as=APIGroupDiscoveryList")
        );
        assert_eq!(answer.expect(200)["kind"], "APIGroupDiscoveryList");
    }
    client.get("/api/v2").await.expect(404);
    client.get("/apis/none/v1").await.expect(404);
    assert_eq!(client.get("/version/").await.expect(200)["minor"], "37");
}

#[tokio::test]
async fn client_that_has_a_document_is_not_sent_it_again() {
    let server = Server::start().await;
    let client = server.admin();
    for path in ["/apis", "/openapi/v3", "/openapi/v3/api/v1", "/openapi/v2"] {
        let answer = client.get(path).await;
        let tag = answer.header(ETAG).to_owned();
        assert!(!tag.is_empty(), "{path}");
        let again = client
            .send("GET", path, &[("if-none-match", &tag)], "")
            .await;
        assert_eq!(again.code, 304, "{path}");
        assert_eq!(again.text, "");
    }
}

#[tokio::test]
async fn schema_under_its_hash_may_be_kept_for_ever() {
    let server = Server::start().await;
    let client = server.admin();
    let index = client.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    let answer = client.get(url).await;
    assert!(answer.header(CACHE_CONTROL).contains("immutable"));
    assert!(answer.expect(200)["paths"].is_object());
    let answer = client.get("/openapi/v3/apis/apps/v1").await;
    assert!(!answer.header(CACHE_CONTROL).contains("immutable"));
}

#[tokio::test]
async fn schema_of_version_two_is_served_as_protobuf() {
    let server = Server::start().await;
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = server
        .admin()
        .send("GET", "/openapi/v2", &[("accept", accept)], "")
        .await;
    assert_eq!(answer.code, 200);
    assert_eq!(
        answer.header(CONTENT_TYPE),
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    assert!(answer.text.contains("2.0"));
}
