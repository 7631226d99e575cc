use std::fs;

use serde_json::{Value, json};

use super::*;

const NODE: &str =
    "nameserver 192.0.2.1\nsearch corp.example lab.example\noptions timeout:1 edns0\n";

fn pod(spec: Value) -> Pod {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": []}});
    for (key, field) in spec.as_object().unwrap() {
        pod["spec"][key] = field.clone();
    }
    serde_json::from_value(pod).unwrap()
}

fn dns() -> ClusterDns {
    ClusterDns {
        domain: "cluster.local".to_owned(),
        nameservers: vec!["2001:db8:b::a".parse().unwrap(), [10, 96, 0, 10].into()],
    }
}

fn forms(spec: Value, dns: Option<&ClusterDns>) -> (String, Vec<(&'static str, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    fs::write(&file, NODE).unwrap();
    resolv_conf(&pod(spec), &Surroundings::for_tests(), dns, &file)
}

#[test]
fn hosts_name_the_pod_and_its_aliases() {
    let pod = pod(json!({"subdomain": "web",
        "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["db", "db.local"]}]}));
    let surroundings = Surroundings {
        pod_ips: vec![[10, 244, 0, 7].into()],
        ..Surroundings::for_tests()
    };
    for (domain, dns) in [
        ("cluster.local", None),
        (
            "example",
            Some(ClusterDns {
                domain: "example".to_owned(),
                ..dns()
            }),
        ),
    ] {
        let text = hosts_file(&pod, "p", &surroundings, dns.as_ref());
        let line = format!("\n10.244.0.7\tp.web.n.svc.{domain}\tp\n");
        assert!(text.contains(&line), "{text}");
        assert!(text.ends_with("\n192.0.2.1\tdb\tdb.local\n"), "{text}");
    }
}

#[test]
fn policy_decides_who_is_asked() {
    let cluster = "nameserver 10.96.0.10\n\
        search n.svc.cluster.local svc.cluster.local cluster.local corp.example lab.example\n\
        options ndots:5\n";
    for (spec, expected) in [
        (json!({}), cluster),
        (json!({"dnsPolicy": "ClusterFirst"}), cluster),
        (
            json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}),
            NODE,
        ),
        (
            json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
            cluster,
        ),
        (json!({"dnsPolicy": "Default"}), NODE),
        (json!({"dnsPolicy": "None"}), ""),
    ] {
        let (text, problems) = forms(spec.clone(), Some(&dns()));
        assert_eq!((text.as_str(), problems), (expected, vec![]), "{spec}");
    }
}

#[test]
fn cluster_without_an_address_for_the_pod_leaves_it_the_nodes_resolvers() {
    let only_v6 = ClusterDns {
        nameservers: vec!["2001:db8:b::a".parse().unwrap()],
        ..dns()
    };
    for known in [None, Some(&only_v6)] {
        let (text, problems) = forms(json!({}), known);
        assert_eq!(text, NODE);
        assert_eq!(problems[0].0, "MissingClusterDNS");
    }
}

#[test]
fn config_of_the_pod_is_merged_into_one_search_line_and_options_by_name() {
    let config = json!({
        "nameservers": ["192.0.2.53", "10.96.0.10"],
        "searches": ["a.example", "svc.cluster.local", "."],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    });
    let (text, problems) = forms(json!({"dnsConfig": config.clone()}), Some(&dns()));
    assert_eq!(
        text,
        "nameserver 10.96.0.10\nnameserver 192.0.2.53\n\
         search n.svc.cluster.local svc.cluster.local cluster.local corp.example lab.example \
         a.example\noptions ndots:2 edns0\n"
    );
    assert_eq!(problems, []);
    let none = json!({"dnsPolicy": "None", "dnsConfig": config});
    assert_eq!(
        forms(none, Some(&dns())).0,
        "nameserver 192.0.2.53\nnameserver 10.96.0.10\n\
         search a.example svc.cluster.local\noptions ndots:2 edns0\n"
    );
}

#[test]
fn more_than_resolvers_read_is_left_out_and_told() {
    let servers: Vec<_> = (1..=4).map(|last| format!("192.0.2.{last}")).collect();
    let many: Vec<_> = (0..33).map(|index| format!("s{index}")).collect();
    let long: Vec<_> = (0..20).map(|index| format!("{index:0>120}")).collect();
    for (searches, fit) in [(many, 32), (long, 16)] {
        let config = json!({"nameservers": servers.clone(), "searches": searches});
        let (text, problems) = forms(json!({"dnsPolicy": "None", "dnsConfig": config}), None);
        assert_eq!(text.matches("nameserver ").count(), 3);
        let search = text
            .lines()
            .find(|line| line.starts_with("search "))
            .unwrap();
        assert_eq!(search.split(' ').count() - 1, fit);
        assert!(search.len() <= "search ".len() + SEARCHES_SIZE_MAX);
        let reasons: Vec<_> = problems.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(reasons, ["DNSConfigForming"; 2]);
    }
}
