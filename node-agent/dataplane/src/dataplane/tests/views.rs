//! What netctl is told.

use super::*;

fn has_sentence(trace: &Value, text: &str) -> bool {
    let sentences = trace["explanation"].as_array().unwrap();
    sentences
        .iter()
        .any(|sentence| sentence["text"].as_str().unwrap().contains(text))
}

#[test]
fn trace_runs_the_attached_programs_and_speaks_in_names() {
    if skip() {
        return;
    }
    let fixture = Fixture::new();
    fixture.agent(async |config| {
        let dataplane = Dataplane::open(config).await.unwrap();
        dataplane
            .apply(whole(&state()), Generation(5))
            .await
            .unwrap();
        let services = rows(&dataplane, "services");
        let external = |frontend: &&Value| frontend["scope"] == "external";
        let (service, frontend) = services
            .iter()
            .find_map(|service| {
                let frontends = service["frontends"].as_array()?;
                Some((service, frontends.iter().find(external)?))
            })
            .unwrap();
        let to = format!(
            "{}:{}",
            frontend["address"].as_str().unwrap(),
            frontend["port"]
        );
        let params = json!({"from": "192.0.2.7:5555", "to": to, "flags": "syn"});
        let trace = dataplane.view("trace", &params).unwrap();
        assert_eq!(trace["service"]["name"], service["name"], "{trace:#}");
        assert_eq!(trace["generation"], 5);
        for program in trace["programs"].as_array().unwrap() {
            assert_eq!(program["isAttached"], true, "{program:#}");
        }
        assert!(has_sentence(&trace, "as attached"), "{trace:#}");
        assert_eq!(
            trace["backend"]["node"].is_string(),
            trace["backend"]["isLocal"] == false
        );

        let error = dataplane.view("trace", &json!({})).unwrap_err();
        assert_eq!(
            fairlead_api::error_chain(&error),
            "trace a packet: from: is missing"
        );
        let elsewhere = json!({"from": "192.0.2.7:5555", "to": to, "interface": "lo"});
        let error = dataplane.view("trace", &elsewhere).unwrap_err();
        assert_eq!(error.to_string(), "uplink lo does not exist");
    });
}
