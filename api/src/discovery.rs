//! Discovery documents: which groups, versions and resources there are, in the old form (one
//! document a group version) and the aggregated one (`apidiscovery.k8s.io/v2`).

use serde_json::{Map, Value, json};

use crate::resource::{RESOURCES, Resource};

/// The verbs of every resource.
pub const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

const SUBRESOURCE_VERBS: &[&str] = &["get", "patch", "update"];

/// `/api` in the old form: `APIVersions`. `server_address` is `host:port` as clients see it.
pub fn core(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": server_address }],
    })
}

/// `/apis` in the old form: `APIGroupList`.
pub fn apis() -> Value {
    let groups: Vec<Value> = named_groups().map(api_group).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/<group>`: `APIGroup`; `None` for a group that is not served.
pub fn group(name: &str) -> Option<Value> {
    let found = named_groups().find(|group| *group == name)?;
    let mut document = api_group(found);
    if let Value::Object(members) = &mut document {
        members.insert("kind".to_owned(), "APIGroup".into());
        members.insert("apiVersion".to_owned(), "v1".into());
    }
    Some(document)
}

/// `/api/v1` and `/apis/<group>/<version>`: `APIResourceList`; `None` for one that is not served.
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let served: Vec<Value> = of_version(group, version).flat_map(api_resources).collect();
    if served.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": served,
    }))
}

/// The aggregated document: of `/api` when `core`, of `/apis` otherwise.
pub fn aggregated(core: bool) -> Value {
    let groups: Vec<Value> = if core {
        vec![aggregated_group("")]
    } else {
        named_groups().map(aggregated_group).collect()
    };
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": groups,
    })
}

/// The groups but the core one, each once, in the table's order.
pub fn named_groups() -> impl Iterator<Item = &'static str> {
    let mut seen = Vec::new();
    for resource in RESOURCES {
        if !resource.group.is_empty() && !seen.contains(&resource.group) {
            seen.push(resource.group);
        }
    }
    seen.into_iter()
}

/// The versions of a group, each once, the preferred one first.
pub fn versions(group: &str) -> Vec<&'static str> {
    let mut versions = Vec::new();
    for resource in RESOURCES.iter().filter(|r| r.group == group) {
        if !versions.contains(&resource.version) {
            versions.push(resource.version);
        }
    }
    versions
}

fn of_version(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    let served = RESOURCES.iter().copied();
    served.filter(move |r| r.group == group && r.version == version)
}

fn api_group(name: &str) -> Value {
    let versions: Vec<Value> = versions(name)
        .into_iter()
        .map(|version| json!({ "groupVersion": format!("{name}/{version}"), "version": version }))
        .collect();
    json!({ "name": name, "versions": versions, "preferredVersion": versions[0] })
}

fn api_resources(resource: &Resource) -> Vec<Value> {
    let mut own = Map::from_iter([
        ("name".to_owned(), resource.plural.into()),
        ("singularName".to_owned(), resource.singular.into()),
        ("namespaced".to_owned(), resource.is_namespaced().into()),
        ("kind".to_owned(), resource.kind.into()),
        ("verbs".to_owned(), json!(VERBS)),
    ]);
    if !resource.short_names.is_empty() {
        own.insert("shortNames".to_owned(), json!(resource.short_names));
    }
    if !resource.categories.is_empty() {
        own.insert("categories".to_owned(), json!(resource.categories));
    }
    let below = subresources(resource).into_iter().map(|sub| {
        let mut entry = Map::from_iter([
            (
                "name".to_owned(),
                format!("{}/{}", resource.plural, sub.name).into(),
            ),
            ("singularName".to_owned(), "".into()),
            ("namespaced".to_owned(), resource.is_namespaced().into()),
        ]);
        if (sub.group, sub.version) != (resource.group, resource.version) {
            entry.insert("group".to_owned(), sub.group.into());
            entry.insert("version".to_owned(), sub.version.into());
        }
        entry.insert("kind".to_owned(), sub.kind.into());
        entry.insert("verbs".to_owned(), json!(sub.verbs));
        Value::Object(entry)
    });
    std::iter::once(Value::Object(own)).chain(below).collect()
}

fn aggregated_group(name: &str) -> Value {
    let versions: Vec<Value> = versions(name)
        .into_iter()
        .map(|version| {
            let resources: Vec<Value> =
                of_version(name, version).map(aggregated_resource).collect();
            json!({ "version": version, "resources": resources, "freshness": "Current" })
        })
        .collect();
    let mut metadata = Map::from_iter([("creationTimestamp".to_owned(), Value::Null)]);
    if !name.is_empty() {
        metadata.insert("name".to_owned(), name.into());
    }
    json!({ "metadata": metadata, "versions": versions })
}

fn aggregated_resource(resource: &'static Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind(resource.group, resource.version, resource.kind),
        "scope": if resource.is_namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": VERBS,
    });
    let members = entry.as_object_mut().expect("written as an object above");
    if !resource.short_names.is_empty() {
        members.insert("shortNames".to_owned(), json!(resource.short_names));
    }
    if !resource.categories.is_empty() {
        members.insert("categories".to_owned(), json!(resource.categories));
    }
    let below: Vec<Value> = subresources(resource)
        .into_iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": kind(sub.group, sub.version, sub.kind),
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !below.is_empty() {
        members.insert("subresources".to_owned(), Value::Array(below));
    }
    entry
}

/// All subresources, those that follow from the entry's flags included.
fn subresources(resource: &Resource) -> Vec<crate::resource::Subresource> {
    let mut all = resource.subresources.to_vec();
    if resource.scale.is_some() {
        all.push(crate::resource::Subresource {
            name: "scale",
            group: "autoscaling",
            version: "v1",
            kind: "Scale",
            verbs: SUBRESOURCE_VERBS,
        });
    }
    if resource.status {
        all.push(crate::resource::Subresource {
            name: "status",
            group: resource.group,
            version: resource.version,
            kind: resource.kind,
            verbs: SUBRESOURCE_VERBS,
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_but_the_core_one_is_listed_once() {
        let names: Vec<&str> = named_groups().collect();
        assert_eq!(names, ["apps", "coordination.k8s.io", "discovery.k8s.io"]);
        assert_eq!(
            group("apps").expect("served")["preferredVersion"]["groupVersion"],
            "apps/v1"
        );
        assert_eq!(group("batch"), None);
        assert_eq!(resources("apps", "v2"), None);
    }

    #[test]
    fn subresources_follow_their_resource() {
        let document = resources("apps", "v1").expect("served");
        let names: Vec<&str> = document["resources"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|r| r["name"].as_str())
            .collect();
        assert_eq!(
            names[..3],
            ["deployments", "deployments/scale", "deployments/status"]
        );
        assert_eq!(document["resources"][1]["group"], "autoscaling");
    }

    #[test]
    fn the_aggregated_form_says_the_same() {
        let core = aggregated(true);
        let pods = core["items"][0]["versions"][0]["resources"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|r| r["resource"] == "pods")
            .expect("pods");
        assert_eq!(pods["shortNames"], json!(["po"]));
        assert_eq!(pods["subresources"][1]["responseKind"]["kind"], "Eviction");
        assert_eq!(aggregated(false)["items"][0]["metadata"]["name"], "apps");
    }
}
