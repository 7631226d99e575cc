//! Certificates and join tokens: the cluster's authorities, the leaves they issue, the TLS
//! configurations made of them, and how a newcomer recognises a cluster it has never seen.
//!
//! Refuses to know: what a certificate entitles to (the API server's authoriser decides), where
//! files lie.

#![forbid(unsafe_code)]

mod authority;
mod clients;
mod identity;
mod pin;
mod tls;
mod token;
mod validity;

pub use authority::{Authority, Leaf, Subject, Usage, certificate_request, renewal_request};
pub use clients::Clients;
pub use identity::{Identity, identity};
pub use pin::{PinError, fetch_authority};
pub use tls::{TlsError, client_config, install_crypto_provider, server_config};
pub use token::{JoinToken, Role, TokenError};
pub use validity::Validity;

/// The DNS name every control-plane certificate carries, so that a client that knows a member only
/// by its address can verify it.
pub const CONTROL_SERVER_NAME: &str = "fairlead-control";

/// What failed while making or reading a certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or a certificate could not be made.
    #[error("cannot make the certificate of {subject}")]
    Make {
        /// The common name.
        subject: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A PEM text is not what it should be.
    #[error("{what} is not valid")]
    Read {
        /// `certificate authority`, `private key`, `certificate request`.
        what: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}
