use serde_json::{Value, json};

use crate::fixture::{Answer, Client, Server, Setting};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

async fn with_service_cidr(service_cidr: &'static str) -> Server {
    let setting = Setting {
        service_cidr,
        ..Setting::default()
    };
    Server::with(setting).await
}

async fn created(client: &Client, name: &str, spec: Value) -> Value {
    client
        .post(SERVICES, &service(name, spec))
        .await
        .expect(201)
}

fn cause(status: &Value) -> &str {
    status["details"]["causes"][0]["message"].as_str().unwrap()
}

#[tokio::test]
async fn service_of_a_protocol_that_is_not_balanced_is_taken_with_a_warning() {
    let server = Server::start().await;
    let client = server.admin();
    let port = |protocol: &str| json!([{"port": 2905, "protocol": protocol}]);
    let warning = |answer: &Answer| answer.header(http::header::WARNING).to_owned();
    let expected =
        r#"299 - "spec.ports[0].protocol: SCTP is not balanced: nobody answers at this port""#;

    let object = service("ss7", json!({"ports": port("SCTP")}));
    let taken = client.post(SERVICES, &object).await;
    assert_eq!(warning(&taken), expected);
    taken.expect(201);
    let path = format!("{SERVICES}/ss7");
    let spec = |protocol| json!({"spec": {"ports": port(protocol)}});
    let tcp = client.patch(&path, "merge", &spec("TCP")).await;
    assert_eq!(warning(&tcp), "");
    let sctp = client.patch(&path, "merge", &spec("SCTP")).await;
    assert_eq!(warning(&sctp), expected);
    // Who writes a status has not said what the ports are.
    let status = json!({"status": {"loadBalancer": {}}});
    let told = client
        .patch(&format!("{path}/status"), "merge", &status)
        .await;
    assert_eq!(warning(&told), "");
}

#[tokio::test]
async fn every_service_gets_an_address_of_its_own() {
    let server = with_service_cidr("10.96.0.0/29").await;
    let client = server.admin();
    let mut addresses = std::collections::BTreeSet::new();
    for index in 0..6 {
        let service = created(&client, &format!("s{index}"), json!({})).await;
        assert_eq!(
            service["spec"]["clusterIPs"][0],
            service["spec"]["clusterIP"]
        );
        addresses.insert(service["spec"]["clusterIP"].as_str().unwrap().to_owned());
    }
    assert_eq!(addresses.len(), 6);
    let status = client
        .post(SERVICES, &service("s6", json!({})))
        .await
        .expect(500);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .ends_with("range is full"),
        "{status}"
    );

    client.delete(&format!("{SERVICES}/s3")).await.expect(200);
    created(&client, "s6", json!({})).await;
}

#[tokio::test]
async fn address_that_is_asked_for_is_given_once() {
    let server = Server::start().await;
    let client = server.admin();
    let asked = json!({"clusterIP": "10.96.0.53"});
    let first = created(&client, "a", asked.clone()).await;
    assert_eq!(first["spec"]["clusterIP"], "10.96.0.53");
    let status = client
        .post(SERVICES, &service("b", asked))
        .await
        .expect(422);
    assert!(
        cause(&status).contains("provided IP is already allocated"),
        "{status}"
    );
    let outside = json!({"clusterIP": "192.0.2.1"});
    let status = client
        .post(SERVICES, &service("b", outside))
        .await
        .expect(422);
    assert!(
        cause(&status).contains("is not in the valid range"),
        "{status}"
    );
    client.get(&format!("{SERVICES}/b")).await.expect(404);
}

#[tokio::test]
async fn headless_and_external_services_have_no_address() {
    let server = Server::start().await;
    let client = server.admin();
    let headless = created(&client, "a", json!({"clusterIP": "None"})).await;
    assert_eq!(headless["spec"]["clusterIP"], "None");
    let external = json!({"type": "ExternalName", "externalName": "example.com"});
    let external = created(&client, "b", external).await;
    assert_eq!(external["spec"].get("clusterIP"), None);
}

#[tokio::test]
async fn node_ports_are_allocated_kept_and_released() {
    let server = Server::start().await;
    let client = server.admin();
    let first = created(&client, "a", json!({"type": "LoadBalancer"})).await;
    let port = first["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30_000..=32_767).contains(&port));
    let same = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let status = client
        .post(SERVICES, &service("b", same.clone()))
        .await
        .expect(422);
    assert!(
        cause(&status).contains("provided port is already allocated"),
        "{status}"
    );

    let path = format!("{SERVICES}/a");
    let next = client
        .patch(
            &path,
            "merge",
            &json!({"spec": {"ports": [{"port": 80, "name": "http"}]}}),
        )
        .await
        .expect(200);
    assert_eq!(next["spec"]["ports"][0]["nodePort"], port);
    let next = client
        .patch(&path, "merge", &json!({"spec": {"type": "ClusterIP"}}))
        .await;
    assert_eq!(next.expect(200)["spec"]["ports"][0].get("nodePort"), None);
    created(&client, "b", same).await;

    let asking_none = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    let without = created(&client, "c", asking_none).await;
    assert_eq!(without["spec"]["ports"][0].get("nodePort"), None);
    let low = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    let status = client.post(SERVICES, &service("d", low)).await.expect(422);
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "spec.ports[0].nodePort"
    );
}

#[tokio::test]
async fn replacement_without_an_address_keeps_it() {
    let server = Server::start().await;
    let client = server.admin();
    let first = created(&client, "a", json!({})).await;
    let path = format!("{SERVICES}/a");
    let again = service("a", json!({"ports": [{"port": 8080}]}));
    let next = client.put(&path, &again).await.expect(200);
    assert_eq!(next["spec"]["clusterIP"], first["spec"]["clusterIP"]);
    let moved = json!({"spec": {"clusterIP": "10.96.0.77"}});
    let status = client.patch(&path, "merge", &moved).await.expect(422);
    assert_eq!(
        cause(&status),
        r#"Invalid value: ["10.96.0.77"]: may not change once set"#
    );
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "spec.clusterIPs[0]"
    );
}

#[tokio::test]
async fn node_port_is_held_by_protocol_and_shared_by_the_protocols_of_one_port() {
    let server = Server::start().await;
    let client = server.admin();
    let ports = |tcp: Value, udp: Value| {
        json!({"type": "NodePort", "ports": [
            {"name": "t", "port": 53, "protocol": "TCP", "nodePort": tcp},
            {"name": "u", "port": 53, "protocol": "UDP", "nodePort": udp},
        ]})
    };
    let both = created(&client, "a", ports(Value::Null, Value::Null)).await;
    let ports_of = &both["spec"]["ports"];
    assert_eq!(ports_of[0]["nodePort"], ports_of[1]["nodePort"]);
    created(&client, "b", ports(30_053.into(), 30_054.into())).await;
    created(&client, "c", ports(30_054.into(), 30_053.into())).await;
    let status = client
        .post(SERVICES, &service("d", ports(30_055.into(), 30_054.into())))
        .await
        .expect(422);
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "spec.ports[1].nodePort"
    );
    client.get(&format!("{SERVICES}/d")).await.expect(404);
    client.delete(&format!("{SERVICES}/b")).await.expect(200);
    created(&client, "d", ports(30_055.into(), 30_054.into())).await;
}

#[tokio::test]
async fn local_load_balancer_gets_a_health_check_port_for_as_long_as_it_is_one() {
    let server = Server::start().await;
    let client = server.admin();
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let first = created(&client, "a", local.clone()).await;
    let port = first["spec"]["healthCheckNodePort"].as_u64().unwrap();
    assert!((30_000..=32_767).contains(&port));
    let path = format!("{SERVICES}/a");
    let again = client.put(&path, &service("a", local.clone())).await;
    assert_eq!(again.expect(200)["spec"]["healthCheckNodePort"], port);
    let moved = json!({"spec": {"healthCheckNodePort": 31_999}});
    let status = client.patch(&path, "merge", &moved).await.expect(422);
    assert!(cause(&status).ends_with("field is immutable"), "{status}");

    let mut asking = local;
    asking["healthCheckNodePort"] = port.into();
    let status = client
        .post(SERVICES, &service("b", asking.clone()))
        .await
        .expect(422);
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "spec.healthCheckNodePort"
    );
    let open = json!({"spec": {"externalTrafficPolicy": "Cluster"}});
    let next = client.patch(&path, "merge", &open).await.expect(200);
    assert_eq!(next["spec"].get("healthCheckNodePort"), None);
    created(&client, "b", asking).await;
}

#[tokio::test]
async fn wrong_annotation_is_refused_by_its_name() {
    let server = Server::start().await;
    let client = server.admin();
    created(&client, "a", json!({})).await;
    let patch = json!({"metadata": {"annotations": {"net.fairlead.io/scheduler": "fastest"}}});
    let status = client
        .patch(&format!("{SERVICES}/a"), "merge", &patch)
        .await
        .expect(422);
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "metadata.annotations[net.fairlead.io/scheduler]"
    );
}

#[tokio::test]
async fn family_that_the_cluster_does_not_have_is_refused() {
    let server = Server::start().await;
    let client = server.admin();
    let single = created(&client, "a", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    assert_eq!(single["spec"]["ipFamilies"], json!(["IPv4"]));
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let status = client.post(SERVICES, &service("b", dual)).await.expect(422);
    assert_eq!(
        status["message"],
        "Service \"b\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": \
         this cluster is not configured for dual-stack services"
    );
}

#[tokio::test]
async fn services_created_at_once_get_different_addresses() {
    let server = with_service_cidr("10.96.0.0/27").await;
    let client = server.admin();
    let mut creating = Vec::new();
    for index in 0..16 {
        let client = client.clone();
        creating.push(tokio::spawn(async move {
            let service = created(&client, &format!("s{index}"), json!({})).await;
            service["spec"]["clusterIP"].as_str().unwrap().to_owned()
        }));
    }
    let mut addresses = std::collections::BTreeSet::new();
    for address in creating {
        assert!(addresses.insert(address.await.unwrap()));
    }
}

#[tokio::test]
async fn service_gains_and_gives_back_its_second_family() {
    let server = with_service_cidr("10.96.0.0/16,2001:db8:b::/112").await;
    let client = server.admin();
    let path = format!("{SERVICES}/a");
    let first = created(&client, "a", json!({})).await;
    assert_eq!(first["spec"]["ipFamilies"], json!(["IPv4"]));
    let primary = first["spec"]["clusterIP"].clone();

    let dual = json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}});
    let next = client.patch(&path, "merge", &dual).await.expect(200);
    assert_eq!(next["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(next["spec"]["clusterIPs"][0], primary);
    let second = next["spec"]["clusterIPs"][1].as_str().unwrap().to_owned();
    assert!(second.starts_with("2001:db8:b::"), "{second}");

    let taken = json!({"clusterIP": second});
    client
        .post(SERVICES, &service("b", taken.clone()))
        .await
        .expect(422);
    let single = json!({"spec": {"ipFamilyPolicy": "SingleStack"}});
    let next = client.patch(&path, "merge", &single).await.expect(200);
    assert_eq!(next["spec"]["clusterIPs"], json!([primary]));
    let other = created(&client, "b", taken).await;
    assert_eq!(other["spec"]["ipFamilies"], json!(["IPv6"]));

    let wrong =
        json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv6"]});
    let status = client
        .post(SERVICES, &service("c", wrong))
        .await
        .expect(422);
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "spec.clusterIPs[0]"
    );
}
