use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{Clients, Leaf};

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM text is not what it should be.
    #[error("{0} is not valid PEM")]
    Pem(&'static str),
    /// The parts do not make a configuration.
    #[error("the certificate, its key and its authority do not fit together")]
    Config(#[source] rustls::Error),
    /// The authority cannot verify clients.
    #[error("the certificate authority cannot verify clients")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
}

/// Makes ring the process's one crypto provider. Call it first in `main`; later calls change
/// nothing.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already: the same one, as there is no other.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
}

/// A server that asks for a client certificate but takes every client: who it is, `clients` says,
/// and what it may do is not decided here.
///
/// # Errors
/// When a PEM text is malformed or the key does not belong to the certificate.
pub fn server_config(leaf: &Leaf, clients: Arc<Clients>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain(&leaf.certificate_pem)?, key(&leaf.key_pem)?)
        .map_err(TlsError::Config)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that trusts `authority_pem` alone and shows `leaf` if it has one.
///
/// # Errors
/// When a PEM text is malformed or the key does not belong to the certificate.
pub fn client_config(leaf: Option<&Leaf>, authority_pem: &str) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder().with_root_certificates(roots(authority_pem)?);
    match leaf {
        Some(leaf) => builder
            .with_client_auth_cert(chain(&leaf.certificate_pem)?, key(&leaf.key_pem)?)
            .map_err(TlsError::Config),
        None => Ok(builder.with_no_client_auth()),
    }
}

pub(crate) fn roots(authority_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(authority_pem)? {
        roots.add(certificate).map_err(TlsError::Config)?;
    }
    Ok(roots)
}

fn chain(certificate_pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Pem("the certificate"))?;
    if chain.is_empty() {
        return Err(TlsError::Pem("the certificate"));
    }
    Ok(chain)
}

fn key(key_pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| TlsError::Pem("the private key"))
}
