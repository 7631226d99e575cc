//! What people see of it: `netctl dns`.

use std::{str::FromStr, sync::PoisonError};

use hickory_proto::{
    op::Query,
    rr::{Name, Record, RecordType},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{process::Config, server::Resolver};

/// What is asked to be shown: one name's answer, or all there is to know.
#[derive(Deserialize)]
struct Asked {
    name: Option<String>,
    #[serde(rename = "type", default = "address_type")]
    kind: String,
    #[serde(default)]
    vpc: u32,
}

fn address_type() -> String {
    "A".to_owned()
}

pub(crate) async fn of(
    resolver: &Resolver,
    config: &Config,
    asked: &[u8],
) -> Result<Value, String> {
    let asked: Asked =
        serde_json::from_slice(asked).map_err(|error| format!("malformed request: {error}"))?;
    match &asked.name {
        Some(name) => answer(resolver, name, &asked).await,
        None => Ok(summary(resolver, config)),
    }
}

fn summary(resolver: &Resolver, config: &Config) -> Value {
    let zones = resolver
        .zones
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    let sizes = zones.sizes().map(|(vpc, namespaces, services)| {
        json!({"vpc": vpc, "namespaces": namespaces, "services": services})
    });
    let cluster = zones.cluster();
    let listen = config.listen.iter().map(|one| one.address.to_string());
    let upstreams = resolver.upstream.servers();
    json!({
        "domain": cluster.map(|cluster| &cluster.domain),
        "addresses": cluster.map(|cluster| &cluster.addresses),
        "listen": listen.collect::<Vec<_>>(),
        "upstreams": upstreams,
        "zones": sizes.collect::<Vec<_>>(),
        "cached": resolver.upstream.cached(),
        "counters": resolver.counters.view(),
    })
}

async fn answer(resolver: &Resolver, name: &str, asked: &Asked) -> Result<Value, String> {
    let mut name = Name::from_ascii(name).map_err(|error| format!("name: {error}"))?;
    name.set_fqdn(true);
    let kind = RecordType::from_str(&asked.kind.to_ascii_uppercase())
        .map_err(|_| format!("type: {:?} is no type of records", asked.kind))?;
    let reply = resolver.look_up(asked.vpc, Query::query(name, kind)).await;
    let texts =
        |records: &[Record]| -> Vec<String> { records.iter().map(ToString::to_string).collect() };
    Ok(json!({
        // As `dig` writes it.
        "status": format!("{:?}", reply.code).to_ascii_uppercase(),
        "authoritative": reply.is_authoritative,
        "answers": texts(&reply.answers),
        "authorities": texts(&reply.authorities),
    }))
}
