//! The files by which a container knows its network: `/etc/hosts` and `/etc/resolv.conf`.

use std::fs;

use k8s_openapi::api::core::v1::Pod;

use crate::spec::Surroundings;

/// `/etc/hosts` of a pod with its own address, as a kubelet writes it.
pub(crate) fn hosts_file(pod: &Pod, hostname: &str, surroundings: &Surroundings) -> String {
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
    for address in &surroundings.pod_ips {
        match spec.and_then(|spec| spec.subdomain.as_deref()) {
            Some(subdomain) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                text.push_str(&format!(
                    "{address}\t{hostname}.{subdomain}.{namespace}.svc.cluster.local\t{hostname}\n"
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

/// `/etc/resolv.conf`: the node's own, unless the pod gives one (`dnsPolicy: None`) or adds to it.
pub(crate) fn resolv_conf(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let mut text = match spec.and_then(|spec| spec.dns_policy.as_deref()) {
        Some("None") => String::new(),
        _ => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) else {
        return text;
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for server in config.nameservers.iter().flatten() {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if let Some(searches) = config
        .searches
        .as_ref()
        .filter(|searches| !searches.is_empty())
    {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    let options: Vec<String> = config
        .options
        .iter()
        .flatten()
        .filter_map(|option| {
            let name = option.name.as_ref()?;
            Some(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            })
        })
        .collect();
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        let pod = serde_json::json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod = pod(serde_json::json!({"containers": [], "subdomain": "web",
            "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["db", "db.local"]}]}));
        let surroundings = Surroundings {
            pod_ips: vec![[10, 244, 0, 7].into()],
            ..Surroundings::for_tests()
        };
        let text = hosts_file(&pod, "p", &surroundings);
        assert!(
            text.contains("\n10.244.0.7\tp.web.n.svc.cluster.local\tp\n"),
            "{text}"
        );
        assert!(text.ends_with("\n192.0.2.1\tdb\tdb.local\n"), "{text}");
    }

    #[test]
    fn dns_policy_none_has_only_what_the_pod_gives() {
        let pod = pod(
            serde_json::json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["192.0.2.53"], "searches": ["a.example", "b.example"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
        );
        assert_eq!(
            resolv_conf(&pod),
            "nameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:2 edns0\n"
        );
    }
}
