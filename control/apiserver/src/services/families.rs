//! Which families of addresses a Service has.
//!
//! Source: `initIPFamilyFields` in `k8s.io/kubernetes/pkg/registry/core/service`.

use fairlead_api::status::FieldError;
use serde_json::{Value, json};

use super::{needs_address, text, texts};
use crate::{
    addresses::{Family, ServiceRanges},
    metadata,
};

const POLICY: &str = "spec.ipFamilyPolicy";

/// Sets `ipFamilyPolicy` and `ipFamilies` from each other, from the addresses asked for, and from
/// the families there are. What validation checks holds already.
pub(super) fn choose(
    ranges: &ServiceRanges,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<(), Vec<FieldError>> {
    if !needs_address(new) || old.is_some_and(|old| is_preferring_as_before(old, new)) {
        return Ok(());
    }
    let configured = ranges.families();
    let policy = match text(new, "ipFamilyPolicy") {
        "" => "SingleStack".to_owned(),
        given => given.to_owned(),
    };
    let mut errors = Vec::new();
    let mut families: Vec<Family> = texts(new, "ipFamilies")
        .iter()
        .filter_map(|name| Family::named(name))
        .collect();
    let addresses = texts(new, "clusterIPs");
    for (position, address) in addresses.iter().enumerate().skip(families.len()) {
        let Ok(address) = address.parse() else { break };
        let family = Family::of(address);
        if configured.contains(&family) {
            families.push(family);
        } else {
            errors.push(FieldError::invalid(
                format!("spec.clusterIPs[{position}]"),
                addresses.clone(),
                &format!("{} is not configured on this cluster", family.as_str()),
            ));
        }
    }
    if policy == "SingleStack" && addresses.len() > 1 {
        errors.push(FieldError::invalid(
            POLICY,
            policy.as_str(),
            "may not be 'SingleStack' when multiple 'clusterIPs' are specified",
        ));
    }
    let is_headless = text(new, "clusterIP") == "None";
    let has_selector = new
        .pointer("/spec/selector")
        .and_then(Value::as_object)
        .is_some_and(|selector| !selector.is_empty());
    // Somebody else says where a headless Service without a selector leads, in any family.
    let is_free = is_headless && !has_selector;
    if !is_free {
        if policy == "RequireDualStack" && configured.len() < 2 {
            errors.push(FieldError::invalid(
                POLICY,
                policy.as_str(),
                "this cluster is not configured for dual-stack services",
            ));
        }
        for (position, family) in families.iter().enumerate() {
            if !configured.contains(family) {
                errors.push(FieldError::invalid(
                    format!("spec.ipFamilies[{position}]"),
                    family.as_str(),
                    "not configured on this cluster",
                ));
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if families.is_empty() {
        families.extend(configured.first());
    }
    if let [only] = families[..]
        && policy != "SingleStack"
        && (is_free || configured.len() == 2)
    {
        families.push(only.other());
    }
    let names: Vec<&str> = families.iter().map(|family| family.as_str()).collect();
    let spec = metadata::member_mut(new, "spec");
    spec.insert("ipFamilies".to_owned(), json!(names));
    spec.insert("ipFamilyPolicy".to_owned(), policy.into());
    Ok(())
}

/// A Service that prefers two families keeps what it has when the cluster gets a second one, until
/// somebody changes one of these fields.
fn is_preferring_as_before(old: &Value, new: &Value) -> bool {
    ["clusterIPs", "ipFamilies"]
        .iter()
        .all(|field| !texts(old, field).is_empty() && texts(old, field) == texts(new, field))
        && [old, new]
            .iter()
            .all(|service| text(service, "ipFamilyPolicy") == "PreferDualStack")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        ranges: &[&str],
        old: Option<Value>,
        spec: Value,
    ) -> Result<(Vec<String>, String), String> {
        let ranges = ServiceRanges::new(ranges.iter().map(|range| range.parse().unwrap()));
        let mut new = json!({ "spec": spec });
        let old = old.map(|spec| json!({ "spec": spec }));
        match choose(&ranges, old.as_ref(), &mut new) {
            Ok(()) => Ok((
                texts(&new, "ipFamilies"),
                text(&new, "ipFamilyPolicy").to_owned(),
            )),
            Err(errors) => Err(errors[0].to_string()),
        }
    }

    #[test]
    fn families_follow_from_policy_addresses_and_the_cluster() {
        const V4: &[&str] = &["10.96.0.0/16"];
        const BOTH: &[&str] = &["10.96.0.0/16", "2001:db8::/112"];
        const V6_FIRST: &[&str] = &["2001:db8::/112", "10.96.0.0/16"];
        let selected = |more: Value| {
            let mut spec = json!({ "selector": { "app": "web" } });
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            spec
        };
        for (ranges, spec, expect) in [
            (V4, json!({}), Ok(("IPv4", "SingleStack"))),
            (BOTH, json!({}), Ok(("IPv4", "SingleStack"))),
            (V6_FIRST, json!({}), Ok(("IPv6", "SingleStack"))),
            (
                V4,
                json!({ "ipFamilyPolicy": "PreferDualStack" }),
                Ok(("IPv4", "PreferDualStack")),
            ),
            (
                BOTH,
                json!({ "ipFamilyPolicy": "PreferDualStack" }),
                Ok(("IPv4,IPv6", "PreferDualStack")),
            ),
            (
                BOTH,
                json!({ "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"] }),
                Ok(("IPv6,IPv4", "RequireDualStack")),
            ),
            (
                V4,
                json!({ "ipFamilyPolicy": "RequireDualStack" }),
                Err(
                    r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
                ),
            ),
            (
                V4,
                json!({ "ipFamilies": ["IPv6"] }),
                Err(r#"spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster"#),
            ),
            (
                V4,
                json!({ "clusterIP": "2001:db8::1", "clusterIPs": ["2001:db8::1"] }),
                Err(
                    r#"spec.clusterIPs[0]: Invalid value: ["2001:db8::1"]: IPv6 is not configured on this cluster"#,
                ),
            ),
            (
                BOTH,
                json!({ "clusterIP": "2001:db8::1", "clusterIPs": ["2001:db8::1"] }),
                Ok(("IPv6", "SingleStack")),
            ),
            (
                BOTH,
                json!({ "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "2001:db8::1"] }),
                Err(
                    r#"spec.ipFamilyPolicy: Invalid value: "SingleStack": may not be 'SingleStack' when multiple 'clusterIPs' are specified"#,
                ),
            ),
        ] {
            let expect = expect
                .map(|(families, policy)| {
                    let families = families.split(',').map(str::to_owned).collect();
                    (families, policy.to_owned())
                })
                .map_err(str::to_owned);
            assert_eq!(
                chosen(ranges, None, selected(spec.clone())),
                expect,
                "{spec}"
            );
        }
        let headless = json!({ "clusterIP": "None", "clusterIPs": ["None"], "ipFamilyPolicy": "RequireDualStack" });
        let both = vec!["IPv4".to_owned(), "IPv6".to_owned()];
        assert_eq!(
            chosen(V4, None, headless),
            Ok((both, "RequireDualStack".to_owned()))
        );
    }

    #[test]
    fn service_that_prefers_two_families_is_not_changed_behind_its_owners_back() {
        let spec = json!({ "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "PreferDualStack" });
        let both = ["10.96.0.0/16", "2001:db8::/112"];
        let families = |old: Option<Value>| chosen(&both, old, spec.clone()).unwrap().0;
        assert_eq!(families(Some(spec.clone())), ["IPv4"]);
        let mut single = spec.clone();
        single["ipFamilyPolicy"] = "SingleStack".into();
        assert_eq!(families(Some(single)), ["IPv4", "IPv6"]);
    }
}
