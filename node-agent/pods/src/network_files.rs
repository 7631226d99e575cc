//! The files by which a container knows its network: `/etc/hosts` and `/etc/resolv.conf`.

use std::net::IpAddr;
use std::path::Path;

use fairlead_api::cluster_dns;
use fairlead_config::ResolvConf;
use k8s_openapi::api::core::v1::Pod;

use crate::report::ClusterDns;
use crate::spec::Surroundings;

/// Resolvers ask no more than these (resolv.conf(5), `MAXNS`).
const NAMESERVERS_MAX: usize = 3;
/// How many domains short names are completed with, and how long they may be together: Kubernetes'
/// limits.
const SEARCHES_MAX: usize = 32;
const SEARCHES_SIZE_MAX: usize = 2_048;
/// Names with fewer dots are completed first, so that `web.shop` is found, and SRV names too.
const CLUSTER_OPTIONS: &str = "ndots:5";

/// `/etc/hosts` of a pod with its own address, as a kubelet writes it.
pub(crate) fn hosts_file(
    pod: &Pod,
    hostname: &str,
    surroundings: &Surroundings,
    dns: Option<&ClusterDns>,
) -> String {
    let mut text = "\
# Managed by Fairlead: changes are lost.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"
    .to_owned();
    let spec = pod.spec.as_ref();
    let domain = dns.map_or(cluster_dns::DOMAIN, |dns| &dns.domain);
    for address in &surroundings.pod_ips {
        match spec.and_then(|spec| spec.subdomain.as_deref()) {
            Some(subdomain) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                text.push_str(&format!(
                    "{address}\t{hostname}.{subdomain}.{namespace}.svc.{domain}\t{hostname}\n"
                ));
            }
            None => text.push_str(&format!("{address}\t{hostname}\n")),
        }
    }
    for alias in spec
        .iter()
        .flat_map(|spec| spec.host_aliases.iter().flatten())
    {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

/// `/etc/resolv.conf` of a pod, and what had to be left out or done otherwise, for its events:
/// reason and message.
pub(crate) fn resolv_conf(
    pod: &Pod,
    surroundings: &Surroundings,
    dns: Option<&ClusterDns>,
    node_file: &Path,
) -> (String, Vec<(&'static str, String)>) {
    let spec = pod.spec.as_ref();
    let is_host = spec.and_then(|spec| spec.host_network) == Some(true);
    let file = if is_host {
        node_file.to_owned()
    } else {
        ResolvConf::for_others(node_file)
    };
    // A machine without the file asks nobody.
    let node = ResolvConf::read(&file).unwrap_or_default();
    let mut problems = Vec::new();
    let mut conf = base(pod, is_host, surroundings, (dns, node), &mut problems);
    add(pod, &mut conf);
    limit(&mut conf, &mut problems);
    (written(&conf), problems)
}

/// What `dnsPolicy` asks for.
fn base(
    pod: &Pod,
    is_host: bool,
    surroundings: &Surroundings,
    (dns, node): (Option<&ClusterDns>, ResolvConf),
    problems: &mut Vec<(&'static str, String)>,
) -> ResolvConf {
    let policy = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.dns_policy.as_deref());
    let is_cluster = match policy.unwrap_or("ClusterFirst") {
        "None" => return ResolvConf::default(),
        "Default" => false,
        "ClusterFirstWithHostNet" => true,
        _cluster_first => !is_host,
    };
    if !is_cluster {
        return node;
    }
    let nameserver = dns.and_then(|dns| nameserver(dns, surroundings));
    let (Some(dns), Some(nameserver)) = (dns, nameserver) else {
        let message = "the cluster's DNS has no address that this pod reaches; the node's \
                       resolvers are used instead";
        problems.push(("MissingClusterDNS", message.to_owned()));
        return node;
    };
    let (namespace, domain) = (pod.metadata.namespace.as_deref(), &dns.domain);
    let namespace = namespace.unwrap_or_default();
    let searches = [
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.clone(),
    ];
    ResolvConf {
        nameservers: vec![nameserver],
        searches: searches.into_iter().chain(node.searches).collect(),
        options: vec![CLUSTER_OPTIONS.to_owned()],
    }
}

/// The first that is of a family that the pod has, and the node: it answers at the node's address.
fn nameserver(dns: &ClusterDns, surroundings: &Surroundings) -> Option<IpAddr> {
    let has = |addresses: &[IpAddr], asked: &IpAddr| {
        let mut addresses = addresses.iter();
        addresses.any(|address| address.is_ipv4() == asked.is_ipv4())
    };
    let mut servers = dns.nameservers.iter();
    servers
        .find(|server| has(&surroundings.pod_ips, server) && has(&surroundings.node_ips, server))
        .copied()
}

/// What `dnsConfig` adds: an option it names is its own, whatever it was before.
fn add(pod: &Pod, conf: &mut ResolvConf) {
    let Some(config) = pod.spec.as_ref().and_then(|spec| spec.dns_config.as_ref()) else {
        return;
    };
    let nameservers = config.nameservers.iter().flatten();
    conf.nameservers
        .extend(nameservers.filter_map(|server| server.parse::<IpAddr>().ok()));
    conf.searches
        .extend(config.searches.iter().flatten().cloned());
    for option in config.options.iter().flatten() {
        let Some(name) = &option.name else {
            continue;
        };
        conf.options
            .retain(|word| word.split(':').next() != Some(name));
        conf.options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
}

/// Leaves out what is there twice, and what resolvers would not read.
fn limit(conf: &mut ResolvConf, problems: &mut Vec<(&'static str, String)>) {
    const REASON: &str = "DNSConfigForming";
    conf.nameservers = once_each(&conf.nameservers);
    if conf.nameservers.len() > NAMESERVERS_MAX {
        conf.nameservers.truncate(NAMESERVERS_MAX);
        let applied: Vec<_> = conf.nameservers.iter().map(ToString::to_string).collect();
        let message = format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
             nameserver line is: {}",
            applied.join(" ")
        );
        problems.push((REASON, message));
    }
    conf.searches.retain(|search| search != ".");
    conf.searches = once_each(&conf.searches);
    let mut size = 0;
    let fit = conf
        .searches
        .iter()
        .take(SEARCHES_MAX)
        .take_while(|search| {
            size += search.len() + 1;
            size <= SEARCHES_SIZE_MAX + 1
        });
    let fit = fit.count();
    if fit < conf.searches.len() {
        conf.searches.truncate(fit);
        let message = format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied \
             search line is: {}",
            conf.searches.join(" ")
        );
        problems.push((REASON, message));
    }
}

fn once_each<T: Clone + PartialEq>(items: &[T]) -> Vec<T> {
    let mut found: Vec<T> = Vec::with_capacity(items.len());
    for item in items {
        if !found.contains(item) {
            found.push(item.clone());
        }
    }
    found
}

fn written(conf: &ResolvConf) -> String {
    let mut text = String::new();
    for server in &conf.nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for (keyword, words) in [("search", &conf.searches), ("options", &conf.options)] {
        if !words.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words.join(" ")));
        }
    }
    text
}

#[cfg(test)]
#[path = "network_files_tests.rs"]
mod tests;
