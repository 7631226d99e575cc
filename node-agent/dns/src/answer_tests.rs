use std::str::FromStr;

use fairlead_proto::node::DnsNamespace;
use proptest::prelude::*;

use super::*;
use crate::{
    Changes,
    examples::{headless, names, zones},
};

/// An answer in short: the code, `name type data` of each answer; the owner of the authority.
fn asked(zones: &Zones, name: &str, kind: &str) -> (Vec<String>, Option<String>) {
    let kind = RecordType::from_str(kind).unwrap();
    let query = Query::query(Name::from_ascii(name).unwrap(), kind);
    match zones.answer(0, &query) {
        Answer::Elsewhere { name, aliases } => {
            let mut lines = vec![format!("ask {name}")];
            lines.extend(aliases.iter().map(short));
            (lines, None)
        }
        Answer::Here(reply) => {
            let mut lines = vec![format!("{:?}", reply.code)];
            lines.extend(reply.answers.iter().map(short));
            let zone = reply.authorities.first().map(|start| {
                assert_eq!(start.record_type(), RecordType::SOA);
                start.name.to_string()
            });
            (lines, zone)
        }
    }
}

fn short(record: &Record) -> String {
    assert_eq!(record.ttl, record::TTL);
    format!("{} {} {}", record.name, record.record_type(), record.data)
}

fn check(name: &str, kind: &str, expected: &[&str], zone: Option<&str>) {
    let (lines, authority) = asked(&zones(), name, kind);
    assert_eq!(lines, expected, "{name} {kind}");
    assert_eq!(authority.as_deref(), zone, "{name} {kind}");
}

const CLUSTER: Option<&str> = Some("cluster.local.");
const WEB: &str = "web.shop.svc.cluster.local.";
const DB: &str = "db.shop.svc.cluster.local.";

#[test]
fn service_is_its_addresses_of_each_family() {
    check(
        WEB,
        "A",
        &["NoError", "web.shop.svc.cluster.local. A 10.96.0.7"],
        None,
    );
    check(
        WEB,
        "AAAA",
        &["NoError", "web.shop.svc.cluster.local. AAAA 2001:db8:b::7"],
        None,
    );
    check(
        "WEB.Shop.svc.Cluster.Local.",
        "A",
        &["NoError", "WEB.Shop.svc.Cluster.Local. A 10.96.0.7"],
        None,
    );
    check(
        "only-v4.shop.svc.cluster.local.",
        "AAAA",
        &["NoError"],
        CLUSTER,
    );
    check(WEB, "MX", &["NoError"], CLUSTER);
    check("none.shop.svc.cluster.local.", "A", &["NXDomain"], CLUSTER);
    check("web.bare.svc.cluster.local.", "A", &["NXDomain"], CLUSTER);
}

#[test]
fn names_between_exist_without_data_and_others_do_not() {
    for name in [
        "svc.cluster.local.",
        "pod.cluster.local.",
        "shop.svc.cluster.local.",
        "bare.svc.cluster.local.",
        "bare.pod.cluster.local.",
        "_tcp.web.shop.svc.cluster.local.",
        "_tcp.db.shop.svc.cluster.local.",
        "dns.cluster.local.",
        "cluster.local.",
    ] {
        check(name, "A", &["NoError"], CLUSTER);
    }
    for name in [
        "none.svc.cluster.local.",
        "none.pod.cluster.local.",
        "other.cluster.local.",
        "_udp.db.shop.svc.cluster.local.",
        "_tcp.none.shop.svc.cluster.local.",
        "a.web.shop.svc.cluster.local.",
        "a.b.c.web.shop.svc.cluster.local.",
        "_http._tcp.outside.shop.svc.cluster.local.",
        "example.default.svc.cluster.local.",
    ] {
        check(name, "A", &["NXDomain"], CLUSTER);
    }
}

#[test]
fn headless_service_is_its_endpoints_and_each_has_a_name() {
    check(
        DB,
        "A",
        &[
            "NoError",
            "db.shop.svc.cluster.local. A 10.244.0.7",
            "db.shop.svc.cluster.local. A 10.244.1.7",
        ],
        None,
    );
    check(
        DB,
        "AAAA",
        &["NoError", "db.shop.svc.cluster.local. AAAA 2001:db8:a::7"],
        None,
    );
    check(
        "a.db.shop.svc.cluster.local.",
        "A",
        &["NoError", "a.db.shop.svc.cluster.local. A 10.244.0.7"],
        None,
    );
    let dashed = "10-244-1-7.db.shop.svc.cluster.local.";
    check(
        dashed,
        "A",
        &["NoError", &format!("{dashed} A 10.244.1.7")],
        None,
    );
    check(dashed, "AAAA", &["NoError"], CLUSTER);
    check(
        "10-244-0-7.db.shop.svc.cluster.local.",
        "A",
        &["NXDomain"],
        CLUSTER,
    );
    check("empty.shop.svc.cluster.local.", "A", &["NoError"], CLUSTER);
    check(
        "empty.shop.svc.cluster.local.",
        "SRV",
        &["NoError"],
        CLUSTER,
    );
}

#[test]
fn named_ports_have_srv_records_with_targets() {
    let http = "_http._tcp.web.shop.svc.cluster.local.";
    check(
        http,
        "SRV",
        &["NoError", &format!("{http} SRV 0 100 80 {WEB}")],
        None,
    );
    check(
        "_dns._udp.web.shop.svc.cluster.local.",
        "SRV",
        &[
            "NoError",
            &format!("_dns._udp.web.shop.svc.cluster.local. SRV 0 100 53 {WEB}"),
        ],
        None,
    );
    check(
        "_dns._tcp.web.shop.svc.cluster.local.",
        "SRV",
        &["NXDomain"],
        CLUSTER,
    );
    check(
        "_._tcp.web.shop.svc.cluster.local.",
        "SRV",
        &["NXDomain"],
        CLUSTER,
    );
    check(http, "A", &["NoError"], CLUSTER);
    let of_db = "_http._tcp.db.shop.svc.cluster.local.";
    check(
        of_db,
        "SRV",
        &[
            "NoError",
            &format!("{of_db} SRV 0 50 8080 10-244-1-7.{DB}"),
            &format!("{of_db} SRV 0 50 8080 a.{DB}"),
        ],
        None,
    );
    check(
        WEB,
        "SRV",
        &[
            "NoError",
            &format!("{WEB} SRV 0 33 53 {WEB}"),
            &format!("{WEB} SRV 0 33 80 {WEB}"),
            &format!("{WEB} SRV 0 33 81 {WEB}"),
        ],
        None,
    );
}

#[test]
fn addresses_of_srv_targets_go_along() {
    let name = Name::from_ascii("_http._tcp.db.shop.svc.cluster.local.").unwrap();
    let Answer::Here(reply) = zones().answer(0, &Query::query(name, RecordType::SRV)) else {
        panic!("it is the cluster's");
    };
    let additionals: Vec<_> = reply.additionals.iter().map(short).collect();
    assert_eq!(
        additionals,
        [
            format!("10-244-1-7.{DB} A 10.244.1.7"),
            format!("a.{DB} A 10.244.0.7"),
            format!("a.{DB} AAAA 2001:db8:a::7"),
        ]
    );
}

#[test]
fn external_names_are_followed_inside_and_passed_on_outside() {
    let inside = "inside.shop.svc.cluster.local.";
    let alias = format!("{inside} CNAME web.shop.svc.cluster.local.");
    check(
        inside,
        "A",
        &["NoError", &alias, &format!("{WEB} A 10.96.0.7")],
        None,
    );
    check(inside, "CNAME", &["NoError", &alias], None);
    check(inside, "MX", &["NoError", &alias], CLUSTER);
    let outside = "outside.shop.svc.cluster.local.";
    check(
        outside,
        "A",
        &[
            "ask www.example.org.",
            &format!("{outside} CNAME www.example.org."),
        ],
        None,
    );
    let astray = "astray.shop.svc.cluster.local.";
    check(
        astray,
        "A",
        &[
            "NXDomain",
            &format!("{astray} CNAME none.shop.svc.cluster.local."),
        ],
        CLUSTER,
    );
    check("self.shop.svc.cluster.local.", "A", &["ServFail"], None);
}

#[test]
fn pods_have_names_of_their_addresses_in_namespaces_that_exist() {
    for (label, answer) in [
        ("10-244-0-9", "A 10.244.0.9"),
        ("2001-db8-a--9", "AAAA 2001:db8:a::9"),
    ] {
        let name = format!("{label}.bare.pod.cluster.local.");
        let kind = answer.split(' ').next().unwrap();
        check(&name, kind, &["NoError", &format!("{name} {answer}")], None);
        check(&name, "TXT", &["NoError"], CLUSTER);
    }
    for name in [
        "10-244-0-9.none",
        "192-0-2-1.bare",
        "10-244-0.bare",
        "web.bare",
    ] {
        check(
            &format!("{name}.pod.cluster.local."),
            "A",
            &["NXDomain"],
            CLUSTER,
        );
    }
}

#[test]
fn addresses_have_names_and_those_of_the_cluster_nobody_else_names() {
    let reversed = |address: &str| Name::from(address.parse::<IpAddr>().unwrap()).to_string();
    let web = reversed("10.96.0.7");
    check(&web, "PTR", &["NoError", &format!("{web} PTR {WEB}")], None);
    let web = reversed("2001:db8:b::7");
    check(&web, "PTR", &["NoError", &format!("{web} PTR {WEB}")], None);
    let pod = reversed("10.244.0.7");
    check(
        &pod,
        "PTR",
        &["NoError", &format!("{pod} PTR a.{DB}")],
        None,
    );
    check(&pod, "A", &["NoError"], Some("244.10.in-addr.arpa."));
    let pod = reversed("10.244.1.7");
    check(
        &pod,
        "PTR",
        &["NoError", &format!("{pod} PTR 10-244-1-7.{DB}")],
        None,
    );
    check(
        &reversed("10.96.0.99"),
        "PTR",
        &["NXDomain"],
        Some("96.10.in-addr.arpa."),
    );
    check(
        &reversed("10.111.0.99"),
        "PTR",
        &["NXDomain"],
        Some("111.10.in-addr.arpa."),
    );
    check(
        &reversed("10.244.9.9"),
        "PTR",
        &["NXDomain"],
        Some("244.10.in-addr.arpa."),
    );
    check(
        "9.244.10.in-addr.arpa.",
        "PTR",
        &["NoError"],
        Some("244.10.in-addr.arpa."),
    );
    let (_, zone) = asked(&zones(), &reversed("2001:db8:b::99"), "PTR");
    assert_eq!(
        zone.unwrap()
            .split('.')
            .filter(|label| label.len() == 1)
            .count(),
        28
    );
    for name in [
        reversed("192.0.2.1"),
        "10.in-addr.arpa.".to_owned(),
        reversed("2001:db8::1"),
    ] {
        check(&name, "PTR", &[&format!("ask {name}")], None);
    }
}

#[test]
fn apex_has_the_start_of_the_zone_and_its_server_and_the_version_of_the_names() {
    let start =
        "cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5";
    check("cluster.local.", "SOA", &["NoError", start], None);
    check(
        "cluster.local.",
        "NS",
        &["NoError", "cluster.local. NS ns.dns.cluster.local."],
        None,
    );
    check(
        "ns.dns.cluster.local.",
        "A",
        &["NoError", "ns.dns.cluster.local. A 10.96.0.10"],
        None,
    );
    check(
        "dns-version.cluster.local.",
        "TXT",
        &["NoError", "dns-version.cluster.local. TXT 1.1.0"],
        None,
    );
}

#[test]
fn other_names_are_for_others() {
    for name in ["www.example.org.", "local.", "acluster.local.", "."] {
        check(name, "A", &[&format!("ask {name}")], None);
    }
}

#[test]
fn nothing_is_denied_before_anything_is_known() {
    let (lines, _) = asked(&Zones::default(), WEB, "A");
    assert_eq!(lines, ["ServFail"]);
}

#[test]
fn other_vpc_has_no_names_of_this_one() {
    let query = Query::query(Name::from_ascii(WEB).unwrap(), RecordType::A);
    let Answer::Here(reply) = zones().answer(7, &query) else {
        panic!("it is the cluster's");
    };
    assert_eq!(reply.code, ResponseCode::NXDomain);
}

#[test]
fn change_replaces_what_it_names_and_whole_state_everything() {
    let mut zones = zones();
    let mut changes = Changes::default();
    changes.put_names(vec![headless("db", &[&[("10.244.2.2", "b")]])]);
    changes
        .names
        .insert((0, "shop".to_owned(), "web".to_owned()), None);
    changes.put_namespaces(
        vec![DnsNamespace {
            vpc: 0,
            name: "bare".to_owned(),
        }],
        false,
    );
    zones.apply(&changes).unwrap();
    assert_eq!(
        asked(&zones, DB, "A").0,
        ["NoError", &format!("{DB} A 10.244.2.2")]
    );
    assert_eq!(asked(&zones, WEB, "A").0, ["NXDomain"]);
    assert_eq!(
        asked(&zones, "bare.svc.cluster.local.", "A").0,
        ["NXDomain"]
    );
    assert_eq!(
        asked(&zones, "7.0.244.10.in-addr.arpa.", "PTR").0,
        ["NXDomain"]
    );
    assert_eq!(
        asked(&zones, "7.0.96.10.in-addr.arpa.", "PTR").0,
        ["NXDomain"]
    );

    let mut whole = crate::examples::changes();
    whole.names.clear();
    whole.put_names(names().into_iter().take(1).collect());
    zones.apply(&whole).unwrap();
    assert_eq!(asked(&zones, WEB, "A").0.len(), 2);
    assert_eq!(asked(&zones, DB, "A").0, ["NXDomain"]);
}

#[test]
fn addresses_take_turns_after_their_aliases() {
    let name = Name::from_ascii(DB).unwrap();
    let mut reply = Reply::default();
    reply
        .answers
        .push(record::record(&name, record::alias(&name)));
    for last in 1..=3 {
        let address = IpAddr::from([10, 0, 0, last]);
        reply
            .answers
            .push(record::record(&name, record::address(address)));
    }
    reply.rotate(4);
    let data: Vec<_> = reply
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    assert_eq!(data[1..], ["10.0.0.2", "10.0.0.3", "10.0.0.1"]);
}

proptest! {
    #[test]
    fn any_name_has_an_answer(labels in prop::collection::vec("[-_a-z0-9]{1,12}", 0..6), end in 0..4_usize) {
        let ends = ["svc.cluster.local.", "pod.cluster.local.", "in-addr.arpa.", "ip6.arpa."];
        let name = labels.iter().map(|label| format!("{label}.")).collect::<String>() + ends[end];
        if let Ok(name) = Name::from_ascii(&name) {
            for kind in [RecordType::A, RecordType::SRV, RecordType::PTR, RecordType::ANY] {
                let _answer = zones().answer(0, &Query::query(name.clone(), kind));
            }
        }
    }
}
