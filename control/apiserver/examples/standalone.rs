//! The API alone, over a store of one member: no controllers, no nodes. For trying a client, which
//! has to create its namespaces itself.
//!
//! `cargo run -p fairlead-apiserver --example standalone -- DIR [PORT]` serves on 127.0.0.1, keeps
//! its data in DIR and writes DIR/kubeconfig.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use fairlead_api::{NodeName, status::Status};
use fairlead_apiserver::{Config, Nodes, serve};
use fairlead_pki::{Authority, Clients, Subject, Usage};
use fairlead_store::{Limits, MemberId, Store, Timing};
use serde_json::Value;
use tokio::sync::mpsc;

/// No node is connected.
struct NoNodes;

#[async_trait]
impl Nodes for NoNodes {
    async fn open(
        &self,
        node: &NodeName,
        _kind: &str,
        _request: Value,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, Status> {
        Err(Status::unavailable(format!("node {node} is not connected")))
    }

    async fn status(&self) -> Value {
        Value::Array(Vec::new())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory: PathBuf = arguments
        .next()
        .context("usage: standalone DIR [PORT]")?
        .into();
    let port: u16 = arguments.next().map_or(Ok(0), |port| port.parse())?;
    fairlead_pki::install_crypto_provider();

    let authority = Authority::generate("standalone")?;
    let server = Subject {
        common_name: "control",
        organization: None,
        names: &["127.0.0.1".to_owned()],
    };
    let server = authority.issue(&server, Usage::Server)?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
    let address = listener.local_addr()?;

    let store = Store::open(fairlead_store::Config {
        data_dir: directory.join("store"),
        member: MemberId(1),
        cluster_id: "standalone".to_owned(),
        endpoint: "http://127.0.0.1:1".to_owned(),
        tls: None,
        timing: Timing::default(),
        limits: Limits::default(),
    })
    .await?;
    store.initialize().await?;

    let kubeconfig = directory.join("kubeconfig");
    fs::write(
        &kubeconfig,
        kubeconfig_of(&authority, &address.to_string())?,
    )?;
    println!("export KUBECONFIG={}", kubeconfig.display());

    let clients = Arc::new(Clients::of_authority(authority.certificate_pem())?);
    let config = Config {
        listeners: vec![listener],
        tls: Arc::new(fairlead_pki::server_config(&server, Arc::clone(&clients))?),
        clients,
        service_cidr: "10.96.0.0/16".parse()?,
        version: concat!("1.37.0+fairlead-", env!("CARGO_PKG_VERSION")).to_owned(),
        front_proxy: None,
    };
    let shutdown = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            eprintln!("cannot wait for an interrupt: {error}");
        }
    };
    serve(config, store.clone(), Arc::new(NoNodes), shutdown).await?;
    store.shutdown().await;
    Ok(())
}

fn kubeconfig_of(authority: &Authority, address: &str) -> anyhow::Result<String> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let admin = Subject {
        common_name: "admin",
        organization: Some("system:masters"),
        names: &[],
    };
    let admin = authority.issue(&admin, Usage::Client)?;
    let encode = |pem: &str| BASE64_STANDARD.encode(pem);
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "standalone",
        "clusters": [{"name": "standalone", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": encode(authority.certificate_pem()),
        }}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": encode(&admin.certificate_pem),
            "client-key-data": encode(&admin.key_pem),
        }}],
        "contexts": [{"name": "standalone", "context": {
            "cluster": "standalone", "user": "admin",
        }}],
    });
    Ok(serde_json::to_string_pretty(&config)?)
}
