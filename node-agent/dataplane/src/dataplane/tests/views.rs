//! What netctl is told.

use aya::maps::PerCpuValues;
use fairlead_api::ServiceId;
use fairlead_dataplane_common::{
    Address, DropReason, DropSample, DropSampleKey, FLOW_ESTABLISHED, FlowKey, SAMPLE_BYTES,
    ServiceDropKey, TrackEntry, protocol,
};

use super::*;

fn has_sentence(trace: &Value, text: &str) -> bool {
    let sentences = trace["explanation"].as_array().unwrap();
    sentences
        .iter()
        .any(|sentence| sentence["text"].as_str().unwrap().contains(text))
}

#[test]
fn trace_runs_the_attached_programs_and_speaks_in_names() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open_with_example(async |dataplane| {
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

#[test]
fn noted_flows_are_listed_by_service_backend_and_client() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open_with_example(async |dataplane| {
        let note = |client: [u8; 4], backend: u32, packets: u64| {
            let flow = FlowKey {
                source: Address::from(IpAddr::from(client)),
                destination: Address::from(IpAddr::from([198, 18, 100, 1])),
                source_port_be: 5555_u16.to_be(),
                destination_port_be: 80_u16.to_be(),
                protocol: protocol::TCP,
                ..FlowKey::default()
            };
            let entry = TrackEntry {
                backend,
                service: 1,
                state: FLOW_ESTABLISHED,
                packets,
                // A sweep may come by.
                seen_jiffies: dataplane.jiffies.before(0),
                flow,
                ..TrackEntry::default()
            };
            let mut state = dataplane.state();
            let tables = &mut state.loaded.tables;
            tables.flows.insert(u64::from(backend), entry, 0).unwrap();
        };
        note([192, 0, 2, 7], 11, 3);
        note([192, 0, 2, 8], 12, 9);
        let listed = |params: Value| -> Vec<String> {
            let rows = dataplane.view("flows", &params).unwrap();
            let rows = rows.as_array().unwrap().iter();
            rows.map(|row| {
                format!(
                    "{} > {} via {}",
                    row["from"], row["backendName"], row["via"]
                )
            })
            .collect()
        };
        let seven = "\"192.0.2.7:5555\" > \"pod-1-1\" via \"10.244.1.1:8080\"";
        let eight = "\"192.0.2.8:5555\" > \"pod-1-2\" via \"10.244.2.1:8080\"";
        assert_eq!(listed(json!({})), [eight, seven], "most packets first");
        assert_eq!(listed(json!({"limit": "1"})), [eight]);
        assert_eq!(listed(json!({"client": "192.0.2.7"})), [seven]);
        assert_eq!(listed(json!({"backend": "pod-1-2"})), [eight]);
        assert_eq!(listed(json!({"backend": "11"})), [seven]);
        assert_eq!(listed(json!({"service": "demo/hello"})).len(), 2);
        assert!(listed(json!({"service": "demo/dns"})).is_empty());
        assert!(listed(json!({"kind": "nat"})).is_empty());
        let refused = dataplane.view("flows", &json!({"client": "web"}));
        let error = refused.unwrap_err().to_string();
        assert_eq!(error, "client: \"web\" is no IP address");
    });
}

#[test]
fn sample_of_a_dropped_packet_comes_decoded_with_its_service() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    fixture.open_with_example(async |dataplane| {
        let params = json!({"from": "192.0.2.7:5555", "to": "198.18.100.1:80"});
        let packet = crate::trace::Packet::parse(&params).unwrap();
        let frame = packet.frame([2; 6]);
        let mut bytes = [0; SAMPLE_BYTES];
        bytes[..frame.len()].copy_from_slice(&frame);
        let (slot, _) = dataplane.state().observed.service(ServiceId(1)).unwrap();
        let sample = DropSample {
            seen_jiffies: dataplane.jiffies.now().unwrap().into(),
            length: frame.len() as u32,
            captured: frame.len() as u32,
            ifindex: 1,
            padding: 0,
            bytes,
        };
        let reason = DropReason::NoBackend as u32;
        let mut locked = dataplane.state();
        let tables = &mut locked.loaded.tables;
        for service in [slot + 1, 0] {
            let key = DropSampleKey { service, reason };
            tables.drop_samples.insert(key, sample, 0).unwrap();
        }
        let key = ServiceDropKey {
            service: slot,
            reason,
        };
        let counts = vec![1; aya::util::nr_cpus().unwrap()];
        let counts = PerCpuValues::try_from(counts).unwrap();
        tables.service_drops.insert(key, counts, 0).unwrap();
        drop(locked);

        let drops = dataplane.view("drops", &json!({})).unwrap();
        let is_ours = |row: &&Value| row["reason"] == "NoBackend";
        let row = drops.as_array().unwrap().iter().find(is_ours).unwrap();
        assert_eq!(row["last"]["interface"], "lo");
        assert_eq!(row["services"][0]["service"], "demo/hello:http");
        assert_eq!(
            row["services"][0]["last"]["frame"]["layers"][1]["name"],
            "IPv4"
        );

        let shown = dataplane.view("samples", &json!({"reason": "NoBackend"}));
        let shown = shown.unwrap();
        assert_eq!(shown[0]["service"], Value::Null, "before it was known");
        let shown = &shown[1];
        assert_eq!(shown["service"], "demo/hello:http");
        assert_eq!(shown["interface"], "lo");
        assert_eq!(shown["ageSeconds"], 0);
        assert_eq!(
            shown["frame"]["layers"][2]["fields"]["destinationPort"],
            "80"
        );
        assert_eq!(
            dataplane
                .view("samples", &json!({"service": "demo/hello"}))
                .unwrap()
                .as_array()
                .unwrap()
                .len(),
            1
        );
        let error = dataplane.view("samples", &json!({"reason": "Nonsense"}));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("nothing is dropped for \"Nonsense\""),
            "{error}"
        );
    });
}
