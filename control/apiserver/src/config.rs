use std::{net::TcpListener, sync::Arc};

use fairlead_api::FamilyRanges;

use crate::FrontProxy;

/// What an API server is started with.
pub struct Config {
    /// Where to accept connections; each speaks TLS.
    pub listeners: Vec<TcpListener>,
    /// Asks for a client certificate but does not require one: who shows none is anonymous.
    pub tls: Arc<rustls::ServerConfig>,
    /// Who the client with a certificate is; anonymous, when the certificate is a stranger's.
    pub clients: Arc<fairlead_pki::Clients>,
    /// What ClusterIPs are allocated from.
    pub service_cidr: FamilyRanges,
    /// What `/version` answers, as `1.37.0+fairlead-0.1.0`: the Kubernetes version whose API is
    /// spoken, then our own.
    pub version: String,
    /// How to ask the leader what only it can answer. Without, such requests are refused on other
    /// members.
    pub front_proxy: Option<FrontProxy>,
}
