//! Fields of a pod and resources of its containers, as environment and downward volumes see them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectFieldSelector, Pod, ResourceFieldSelector};

use super::Surroundings;
use crate::objects::ReferenceError;
use crate::quantity;

/// The value of `fieldRef`.
pub(crate) fn field(
    selector: &ObjectFieldSelector,
    pod: &Pod,
    surroundings: &Surroundings,
) -> Result<String, ReferenceError> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let path = selector.field_path.as_str();
    if let Some((map, key)) = path
        .strip_suffix("']")
        .and_then(|path| path.split_once("['"))
    {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(ReferenceError::Field(path.to_owned())),
        };
        return Ok(map
            .as_ref()
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => listed(metadata.labels.as_ref()),
        "metadata.annotations" => listed(metadata.annotations.as_ref()),
        "spec.nodeName" => surroundings.node_name.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_else(|| "default".to_owned()),
        "status.hostIP" => first(&surroundings.node_ips),
        "status.hostIPs" => joined(&surroundings.node_ips),
        "status.podIP" => first(&surroundings.pod_ips),
        "status.podIPs" => joined(&surroundings.pod_ips),
        other => return Err(ReferenceError::Field(other.to_owned())),
    })
}

fn first(addresses: &[IpAddr]) -> String {
    let first = addresses.first();
    first.map(ToString::to_string).unwrap_or_default()
}

fn joined(addresses: &[IpAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// Labels or annotations as a downward volume lists them: `key="escaped value"`.
fn listed(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}

/// The value of `resourceFieldRef`: a limit or request, in units of its divisor, rounded up.
pub(crate) fn resource(
    selector: &ResourceFieldSelector,
    pod: &Pod,
    default_container: &str,
    surroundings: &Surroundings,
) -> Result<String, ReferenceError> {
    let unknown = || ReferenceError::Field(selector.resource.clone());
    let name = selector
        .container_name
        .as_deref()
        .unwrap_or(default_container);
    let container = pod
        .spec
        .iter()
        .flat_map(|spec| {
            spec.containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
        })
        .find(|container| container.name == name)
        .ok_or_else(unknown)?;
    let (kind, resource) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let list = match kind {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(unknown()),
    };
    let milli = match list
        .and_then(|list| list.get(resource))
        .and_then(quantity::milli)
    {
        Some(milli) => milli,
        // A container without a limit may use all the node has.
        None if kind == "limits" => match resource {
            "cpu" => i128::from(surroundings.node_cpu_milli),
            "memory" => i128::from(surroundings.node_memory_bytes) * 1000,
            _ => 0,
        },
        None => 0,
    };
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(quantity::milli)
        .filter(|d| *d > 0);
    let divisor = divisor.unwrap_or(1000);
    Ok((milli.div_euclid(divisor) + i128::from(milli.rem_euclid(divisor) != 0)).to_string())
}
