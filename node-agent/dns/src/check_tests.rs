use fairlead_proto::node::{DnsName, Parameters, Protocol};

use super::*;
use crate::examples::{cluster_ip, external, headless, parameters, port};

/// What is wrong with `name` after `spoil`.
fn problem(mut name: DnsName, spoil: impl Fn(&mut DnsName)) -> String {
    service(&name).unwrap();
    spoil(&mut name);
    service(&name).unwrap_err().to_string()
}

#[test]
fn field_that_cannot_be_is_named() {
    let web = || cluster_ip("web", &["10.96.0.7"], vec![port("http", Protocol::Tcp, 80)]);
    let db = || headless("db", &[&[("10.244.0.7", "a")]]);
    for (problem, expected) in [
        (
            problem(web(), |name| name.name = "Web".into()),
            "dns_names[shop/Web].name: \"Web\" is no label of a name",
        ),
        (
            problem(web(), |name| name.namespace = "a.b".into()),
            "dns_names[a.b/web].namespace: \"a.b\" is no label of a name",
        ),
        (
            problem(web(), |name| name.addresses[0] = vec![1, 2].into()),
            "dns_names[shop/web].addresses[0]: has 2 bytes",
        ),
        (
            problem(web(), |name| name.ports[0].number = 65_536),
            "dns_names[shop/web].ports[0].number: 65536 is no port",
        ),
        (
            problem(web(), |name| name.ports[0].protocol = 99),
            "dns_names[shop/web].ports[0].protocol: 99 is no protocol",
        ),
        (
            problem(db(), |name| {
                name.endpoints[0].endpoints[0].hostname = "-".into()
            }),
            "dns_names[shop/db].endpoints[0].endpoints[0].hostname: \"-\" is no label of a name",
        ),
        (
            problem(db(), |name| name.endpoints[0].endpoints[0].address.clear()),
            "dns_names[shop/db].endpoints[0].endpoints[0].address: has 0 bytes",
        ),
        (
            problem(db(), |name| name.addresses = web().addresses),
            "dns_names[shop/db].endpoints: a name with addresses has no endpoints",
        ),
        (
            problem(external("x", "example.org"), |name| {
                name.addresses = web().addresses
            }),
            "dns_names[shop/x].external_name: a name of its own has no addresses besides",
        ),
    ] {
        assert_eq!(problem, expected);
    }
    let long = external("x", &"a".repeat(64));
    let error = service(&long).unwrap_err();
    assert_eq!(error.field, "dns_names[shop/x].external_name");
}

#[test]
fn parameters_that_cannot_be_are_named() {
    let field = |spoil: fn(&mut Parameters)| {
        let mut spoiled = parameters();
        spoil(&mut spoiled);
        settings(&spoiled).unwrap_err().field
    };
    let dns = |parameters: &mut Parameters| parameters.dns.take().unwrap();
    for (found, expected) in [
        (
            field(|it| it.dns.as_mut().unwrap().domain = "a..b".into()),
            "parameters.dns.domain",
        ),
        (
            field(|it| it.dns.as_mut().unwrap().domain.clear()),
            "parameters.dns.domain",
        ),
        (
            field(|it| it.dns.as_mut().unwrap().addresses[1].clear()),
            "parameters.dns.addresses[1]",
        ),
        (
            field(|it| it.dns.as_mut().unwrap().service_cidrs[0].clear()),
            "parameters.dns.service_cidrs[0]",
        ),
        (
            field(|it| it.cluster_cidrs[0] = "10.0.0.0/40".into()),
            "parameters.cluster_cidrs[0]",
        ),
    ] {
        assert_eq!(found, expected);
    }
    let mut older = parameters();
    dns(&mut older);
    assert!(settings(&older).unwrap().is_none());
}
