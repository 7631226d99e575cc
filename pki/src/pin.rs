use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{CONTROL_SERVER_NAME, token::spki_hash};

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a cluster was not recognised.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It could not be reached.
    #[error("cannot reach {server}")]
    Dial {
        /// The address that was dialled.
        server: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What answered is another cluster, or an impostor.
    #[error(
        "{server} is not of the cluster this token was made for (its certificate authority has \
         another key): check the address, or make a new token there"
    )]
    Mismatch {
        /// The address that was dialled.
        server: SocketAddr,
    },
}

/// Connects to a member of the control plane, checks that its chain holds an authority whose
/// public key has the hash of the join token and that this authority signed it, and returns that
/// authority's certificate as PEM.
///
/// # Errors
/// When nobody answers, or somebody else.
pub fn fetch_authority(server: SocketAddr, authority_hash: &str) -> Result<String, PinError> {
    let dial = |source| PinError::Dial { server, source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pin = Arc::new(Pin {
        authority_hash: authority_hash.to_owned(),
        found: Mutex::new(None),
        provider: Arc::clone(&provider),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| dial(io::Error::other(source)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&pin) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(CONTROL_SERVER_NAME).expect("the constant is a DNS name");
    let mut connection = ClientConnection::new(Arc::new(config), name)
        .map_err(|source| dial(io::Error::other(source)))?;
    let mut socket = TcpStream::connect_timeout(&server, DIAL_TIMEOUT).map_err(dial)?;
    socket.set_read_timeout(Some(DIAL_TIMEOUT)).map_err(dial)?;
    let handshake = connection.complete_io(&mut socket);
    let found = pin
        .found
        .lock()
        .expect("the verifier does not panic")
        .take();
    match (found, handshake) {
        (Some(authority), Ok(_)) => Ok(pem::encode(&pem::Pem::new(
            "CERTIFICATE",
            authority.as_ref(),
        ))),
        (None, Err(error)) if error.kind() != io::ErrorKind::InvalidData => Err(dial(error)),
        _ => Err(PinError::Mismatch { server }),
    }
}

/// Trusts whatever authority has the pinned key, and remembers it.
#[derive(Debug)]
struct Pin {
    authority_hash: String,
    found: Mutex<Option<CertificateDer<'static>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let authority = intermediates
            .iter()
            .find(|certificate| spki_hash(certificate).is_some_and(|h| h == self.authority_hash))
            .ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|_| unknown())?;
        let verified = verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        *self.found.lock().expect("nothing panics while it is held") =
            Some(authority.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;
    use crate::{Authority, JoinToken, Subject, Usage, server_config};

    /// A TLS server of `authority` that completes one handshake.
    fn serve_once(authority: &Authority) -> SocketAddr {
        crate::install_crypto_provider();
        let names = [CONTROL_SERVER_NAME.to_owned()];
        let subject = Subject {
            common_name: "control",
            organization: None,
            names: &names,
        };
        let leaf = authority.issue(&subject, Usage::Server).unwrap();
        let clients = crate::Clients::of_authority(authority.certificate_pem()).unwrap();
        let config = Arc::new(server_config(&leaf, clients.into()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut connection = rustls::ServerConnection::new(config).unwrap();
            // A client that does not trust us hangs up; that is its test's matter.
            let _refused = connection.complete_io(&mut socket);
        });
        address
    }

    #[test]
    fn the_cluster_of_the_token_is_recognised() {
        let authority = Authority::generate("cluster").unwrap();
        let token = JoinToken::generate(authority.certificate_pem()).unwrap();
        let fetched = fetch_authority(serve_once(&authority), &token.authority_hash).unwrap();
        assert_eq!(
            pem::parse(fetched).unwrap().contents(),
            pem::parse(authority.certificate_pem()).unwrap().contents()
        );
    }

    #[test]
    fn another_cluster_is_refused() {
        let authority = Authority::generate("cluster").unwrap();
        let other = Authority::generate("other").unwrap();
        let token = JoinToken::generate(other.certificate_pem()).unwrap();
        let error = fetch_authority(serve_once(&authority), &token.authority_hash).unwrap_err();
        assert!(matches!(error, PinError::Mismatch { .. }), "{error}");
    }
}
