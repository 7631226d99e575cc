//! `fairlead-control run`: the rooms, wired.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use bytes::Bytes;
use fairlead_api::cluster_dns;
use fairlead_apiserver::FrontProxy;
use fairlead_pki::Clients;
use fairlead_proto::node::{ClusterDns, Parameters};
use fairlead_store::{Limits, MemberId, Store, Timing};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tonic::transport::{
    Certificate, ClientTlsConfig, Identity, Server, ServerTlsConfig, server::TcpIncoming,
};

use crate::{
    certificates::{Authorities, load_leaf},
    config::{API_PORT, Cluster, Config, Layout, NODE_PORT, PEER_PORT, peer_ip},
    enrollment::Enroller,
    nodes::ConnectedNodes,
};

/// The Kubernetes release whose API is spoken, then our own.
const API_VERSION: &str = concat!("1.37.0+fairlead-", env!("CARGO_PKG_VERSION"));
/// RFC 7348 §5.
const VXLAN_PORT: u32 = 4789;

pub(crate) async fn run(data_dir: &Path) -> anyhow::Result<()> {
    let layout = Layout::new(data_dir);
    let config = layout.load_config()?;
    let authorities = Arc::new(Authorities::load(&layout)?);
    authorities
        .renew(&layout, &config)
        .context("cannot renew this member's certificates")?;
    // Every port is bound before anything starts, so that a taken one is the first thing said.
    let api = api_listeners(&config)?;
    let nodes = bind(&config, NODE_PORT)?;
    let peers = bind(&config, PEER_PORT)?;
    let stop = stop_signal()?;

    let store = Store::open(store_config(&layout, &config, &authorities)?)
        .await
        .context("cannot open the store")?;
    let peer_tls = ServerTlsConfig::new()
        .identity(tonic_identity(&layout, "peer")?)
        .client_ca_root(Certificate::from_pem(authorities.peers.certificate_pem()));
    let mut peer_server = tokio::spawn(
        Server::builder()
            .tls_config(peer_tls)?
            .add_service(store.raft_service())
            .serve_with_incoming_shutdown(incoming(peers)?, stopped(stop.clone())),
    );
    match &config.member.join_through {
        None => store
            .initialize()
            .await
            .context("cannot initialise the store")?,
        Some(peer) => store.join(peer).await.context("cannot join the cluster")?,
    }

    let enroller = Enroller {
        store: store.clone(),
        authorities: Arc::clone(&authorities),
        cluster: config.cluster.clone(),
        peer_endpoint: config.member.peer_endpoint(),
    };
    let publisher = fairlead_publisher::Publisher::new(
        store.clone(),
        publisher_config(&config)?,
        Arc::new(enroller),
    );
    let node_tls = ServerTlsConfig::new()
        .identity(tonic_identity(&layout, "api")?)
        .client_ca_root(Certificate::from_pem(authorities.cluster.certificate_pem()))
        // A newcomer has no certificate yet; sessions require one.
        .client_auth_optional(true);
    let mut node_server = tokio::spawn(
        Server::builder()
            .tls_config(node_tls)?
            .add_service(publisher.node_service())
            .serve_with_incoming_shutdown(incoming(nodes)?, stopped(stop.clone())),
    );
    let publishing = publisher.clone();
    let until_stopped = stopped(stop.clone());
    let mut publisher_task = tokio::spawn(async move { publishing.run(until_stopped).await });
    let mut controllers = tokio::spawn(fairlead_controllers::run(
        store.clone(),
        controllers_config(&config),
        stopped(stop.clone()),
    ));
    let clients = Arc::new(Clients::of_authority(
        authorities.cluster.certificate_pem(),
    )?);
    let api_tls = fairlead_pki::server_config(&load_leaf(&layout, "api")?, Arc::clone(&clients))?;
    let api_config = fairlead_apiserver::Config {
        listeners: api,
        tls: Arc::new(api_tls),
        clients,
        service_cidr: config.cluster.service_cidr,
        version: API_VERSION.to_owned(),
        front_proxy: Some(front_proxy(&authorities)?),
    };
    let mut api_server = tokio::spawn(fairlead_apiserver::serve(
        api_config,
        store.clone(),
        Arc::new(ConnectedNodes(publisher)),
        stopped(stop.clone()),
    ));
    tracing::info!(member = config.member.name, "running");

    // None of these ends before the stop signal unless it failed; then the member must not go on
    // as a half of itself.
    tokio::select! {
        () = stopped(stop.clone()) => {}
        () = store.stopped() => anyhow::bail!("the store stopped: its disk failed (see the log above)"),
        ended = &mut api_server => ended?.context("the API server ended")?,
        ended = &mut node_server => ended?.context("the agents' server ended")?,
        ended = &mut peer_server => ended?.context("the members' server ended")?,
        ended = &mut publisher_task => ended.context("the publisher ended")?,
        ended = &mut controllers => ended.context("the controllers ended")?,
    }
    store.shutdown().await;
    tracing::info!(member = config.member.name, "stopped");
    Ok(())
}

/// How this member asks the leader while it is not the leader itself.
fn front_proxy(authorities: &Authorities) -> anyhow::Result<FrontProxy> {
    let leaf = authorities.front_proxy()?;
    let tls = fairlead_pki::client_config(Some(&leaf), authorities.cluster.certificate_pem())?;
    Ok(FrontProxy {
        tls: Arc::new(tls),
        api_address: |member| Some(SocketAddr::new(peer_ip(member)?, API_PORT)),
    })
}

/// The API's own port, and any socket that was passed in by the service manager
/// (`sd_listen_fds(3)`): one way to serve it in another network namespace.
fn api_listeners(config: &Config) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = vec![bind(config, API_PORT)?];
    let mut passed = listenfd::ListenFd::from_env();
    for index in 0..passed.len() {
        let listener = passed
            .take_tcp_listener(index)
            .with_context(|| format!("the socket passed in as number {index} is not TCP"))?;
        listeners.extend(listener);
    }
    for listener in &listeners {
        listener
            .set_nonblocking(true)
            .context("cannot make the API's socket non-blocking")?;
    }
    Ok(listeners)
}

fn bind(config: &Config, port: u16) -> anyhow::Result<TcpListener> {
    let address = config.member.listen(port);
    let listener = TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address} (member.advertise must be an address of this host)")
    })?;
    listener
        .set_nonblocking(true)
        .context("cannot make a socket non-blocking")?;
    Ok(listener)
}

fn incoming(listener: TcpListener) -> anyhow::Result<TcpIncoming> {
    // Small answers must not wait for the peer's delayed acknowledgement.
    Ok(TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?).with_nodelay(Some(true)))
}

fn tonic_identity(layout: &Layout, name: &str) -> anyhow::Result<Identity> {
    let leaf = load_leaf(layout, name)?;
    Ok(Identity::from_pem(leaf.certificate_pem, leaf.key_pem))
}

fn store_config(
    layout: &Layout,
    config: &Config,
    authorities: &Authorities,
) -> anyhow::Result<fairlead_store::Config> {
    let tls = ClientTlsConfig::new()
        .identity(tonic_identity(layout, "peer")?)
        .ca_certificate(Certificate::from_pem(authorities.peers.certificate_pem()))
        .domain_name(fairlead_pki::CONTROL_SERVER_NAME);
    Ok(fairlead_store::Config {
        data_dir: layout.store(),
        member: MemberId(config.member.id),
        cluster_id: config.cluster.id.clone(),
        endpoint: config.member.peer_endpoint(),
        tls: Some(tls),
        timing: Timing::default(),
        limits: Limits::default(),
    })
}

fn publisher_config(config: &Config) -> anyhow::Result<fairlead_publisher::Config> {
    let parameters = Parameters {
        hash_seed: config.cluster.hash_seed_bytes()?.into(),
        cluster_cidrs: config
            .cluster
            .cluster_cidr
            .iter()
            .map(|range| range.to_string())
            .collect(),
        vxlan_port: VXLAN_PORT,
        dns: Some(cluster_dns(config)),
    };
    Ok(fairlead_publisher::Config {
        node_port: NODE_PORT,
        ..fairlead_publisher::Config::new(parameters)
    })
}

fn cluster_dns(config: &Config) -> ClusterDns {
    let ranges = config.cluster.service_cidr;
    let addresses = ranges.iter().filter_map(cluster_dns::address);
    ClusterDns {
        domain: cluster_dns::DOMAIN.to_owned(),
        addresses: addresses.map(octets).collect(),
        service_cidrs: ranges.iter().map(|range| range.to_string()).collect(),
    }
}

fn octets(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

fn controllers_config(config: &Config) -> fairlead_controllers::Config {
    let Cluster {
        cluster_cidr,
        service_cidr,
        vip_pools,
        ..
    } = config.cluster.clone();
    fairlead_controllers::Config {
        api_port: API_PORT,
        ..fairlead_controllers::Config::new(cluster_cidr, service_cidr, vip_pools)
    }
}

/// Turns true once SIGTERM or SIGINT has come.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, and it goes only after the signal.
    let _sender_gone = stop.wait_for(|stopped| *stopped).await;
}
