//! OpenAPI: version 3, one document a group version, and a version 2 document for clients that
//! ask for it. Schemas come from the table of types; they have no descriptions.

mod schemas;
mod v2;

use serde_json::{Map, Value, json};

pub use v2::document_v2_protobuf;

use crate::discovery;
use crate::resource::{RESOURCES, Resource};

/// `/openapi/v3`: where the documents are. `hash` is put into their addresses, so that clients may
/// keep them for as long as it stays the same.
pub fn index(hash: &str) -> Value {
    let paths = group_versions().into_iter().map(|(group, version)| {
        let place = place(group, version);
        let address = format!("/openapi/v3/{place}?hash={hash}");
        (place, json!({ "serverRelativeURL": address }))
    });
    json!({ "paths": paths.collect::<Map<String, Value>>() })
}

/// `/openapi/v3/api/v1` and `/openapi/v3/apis/<group>/<version>`; `None` for one not served.
pub fn document(group: &str, version: &str) -> Option<Value> {
    let served: Vec<&Resource> = of_version(group, version);
    if served.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    for resource in &served {
        add_paths(&mut paths, resource);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "v1.37.0" },
        "paths": paths,
        "components": { "schemas": schemas::of(&served, "#/components/schemas/") },
    }))
}

/// Every served group and version.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    std::iter::once("")
        .chain(discovery::named_groups())
        .flat_map(|group| {
            let versions = discovery::versions(group).into_iter();
            versions.map(move |version| (group, version))
        })
        .collect()
}

fn of_version(group: &str, version: &str) -> Vec<&'static Resource> {
    let served = RESOURCES.iter().copied();
    served
        .filter(|r| r.group == group && r.version == version)
        .collect()
}

/// `api/v1`, `apis/apps/v1`.
fn place(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource) {
    let root = format!("/{}", place(resource.group, resource.version));
    let mut parameters = vec![path_parameter("name")];
    let collection = if resource.is_namespaced() {
        parameters.push(path_parameter("namespace"));
        format!("{root}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{root}/{}", resource.plural)
    };
    let create = operation(resource, "post", "application/json");
    paths.insert(
        collection.clone(),
        json!({
            "get": operation(resource, "list", ""),
            "post": create,
            "parameters": parameters[1..],
        }),
    );
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": operation(resource, "get", ""),
            "put": operation(resource, "put", "application/json"),
            "patch": operation(resource, "patch", "application/strategic-merge-patch+json"),
            "delete": operation(resource, "delete", ""),
            "parameters": parameters,
        }),
    );
}

fn operation(resource: &Resource, action: &str, body: &str) -> Value {
    let reference =
        json!({ "$ref": format!("#/components/schemas/{}", schemas::name(resource.type_name)) });
    let answer = json!({
        "200": {
            "description": "OK",
            "content": { "application/json": { "schema": reference } },
        },
    });
    let mut operation = json!({
        "responses": answer,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(resource),
    });
    let members = operation
        .as_object_mut()
        .expect("written as an object above");
    if !body.is_empty() {
        members.insert(
            "parameters".to_owned(),
            json!([
                query_parameter("dryRun"),
                query_parameter("fieldManager"),
                query_parameter("fieldValidation"),
            ]),
        );
        members.insert(
            "requestBody".to_owned(),
            json!({ "content": { body: { "schema": reference } }, "required": true }),
        );
    }
    operation
}

fn gvk(resource: &Resource) -> Value {
    json!({ "group": resource.group, "version": resource.version, "kind": resource.kind })
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "uniqueItems": true } })
}

fn query_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "query", "schema": { "type": "string", "uniqueItems": true } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_lists_every_group_version() {
        let index = index("abc");
        assert_eq!(
            index["paths"]["apis/apps/v1"]["serverRelativeURL"],
            "/openapi/v3/apis/apps/v1?hash=abc"
        );
        assert_eq!(group_versions().len(), 4);
    }

    #[test]
    fn every_patch_has_what_kubectl_looks_for() {
        let document = document("apps", "v1").expect("served");
        let patch =
            &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"]["kind"],
            "Deployment"
        );
        let names: Vec<&Value> = patch["parameters"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|parameter| &parameter["name"])
            .collect();
        assert!(names.contains(&&json!("fieldValidation")));
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        for (group, version) in group_versions() {
            let document = document(group, version).expect("served");
            let text = document.to_string();
            let schemas = &document["components"]["schemas"];
            for reference in text.split("\"#/components/schemas/").skip(1) {
                let name = reference.split('"').next().unwrap_or_default();
                assert!(schemas.get(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn patch_markers_are_published() {
        let document = document("", "v1").expect("served");
        let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]
            ["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-type"], "map");
    }
}
