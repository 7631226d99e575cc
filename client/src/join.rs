use std::net::SocketAddr;

use fairlead_pki::{CONTROL_SERVER_NAME, JoinToken, PinError};
use fairlead_proto::node::{JoinRequest, JoinResponse, node_client::NodeClient};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

/// Why a newcomer was not let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No member was named.
    #[error("no member of the control plane is named to join through")]
    NoServer,
    /// A member could not be reached, or is not of the token's cluster.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The connection broke after the member was recognised.
    #[error("the connection to {server} failed")]
    Transport {
        /// The member.
        server: SocketAddr,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The member said no.
    #[error("{server} refused: {message}")]
    Refused {
        /// The member.
        server: SocketAddr,
        /// What it said.
        message: String,
    },
}

/// Presents a join token to the first of `servers` that answers. The member is recognised by the
/// token's pin before the token is shown to it.
///
/// # Errors
/// When none answers, or one refuses.
pub async fn join(
    servers: &[SocketAddr],
    token: &JoinToken,
    name: &str,
    csr_pem: &str,
) -> Result<JoinResponse, JoinError> {
    fairlead_pki::install_crypto_provider();
    let mut failure = JoinError::NoServer;
    for server in servers {
        match ask(*server, token, name, csr_pem).await {
            Err(unreachable @ (JoinError::Pin(_) | JoinError::Transport { .. })) => {
                failure = unreachable;
            }
            answer => return answer,
        }
    }
    Err(failure)
}

async fn ask(
    server: SocketAddr,
    token: &JoinToken,
    name: &str,
    csr_pem: &str,
) -> Result<JoinResponse, JoinError> {
    let transport = |source| JoinError::Transport { server, source };
    let hash = token.authority_hash.clone();
    let authority =
        tokio::task::spawn_blocking(move || fairlead_pki::fetch_authority(server, &hash))
            .await
            .expect("fetching the authority does not panic")?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority))
        .domain_name(CONTROL_SERVER_NAME);
    let channel = Endpoint::from_shared(format!("https://{server}"))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(transport)?
        .connect()
        .await
        .map_err(transport)?;
    let request = JoinRequest {
        token: token.to_string(),
        node_name: name.to_owned(),
        csr_pem: csr_pem.to_owned(),
    };
    NodeClient::new(channel)
        .join(request)
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| JoinError::Refused {
            server,
            message: status.message().to_owned(),
        })
}
