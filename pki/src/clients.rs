//! Who the clients of a TLS server are.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{
    Identity, identity,
    tls::{TlsError, roots},
};

/// Tells clients by the certificates of one authority.
///
/// The handshake takes any certificate whose key the client holds: a stranger is then told so in
/// the words of the protocol above TLS, not by a broken connection. Who a client is, only
/// [`identity`](Self::identity) says.
#[derive(Debug)]
pub struct Clients {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Clients {
    /// Clients of the authority whose certificate this is.
    ///
    /// # Errors
    /// When the PEM text is malformed.
    pub fn of_authority(authority_pem: &str) -> Result<Self, TlsError> {
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots(authority_pem)?))
            .allow_unauthenticated()
            .build()
            .map_err(TlsError::Verifier)?;
        Ok(Self { verifier })
    }

    /// The identity in a chain that a client showed, its own certificate first. `None` unless the
    /// authority issued it for clients and it is valid now.
    pub fn identity(&self, chain: &[CertificateDer<'_>]) -> Option<Identity> {
        let (own, intermediates) = chain.split_first()?;
        self.verifier
            .verify_client_cert(own, intermediates, UnixTime::now())
            .ok()?;
        identity(own)
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _own: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::{Authority, Subject, Usage};

    fn certificate(authority: &Authority, usage: Usage) -> CertificateDer<'static> {
        let subject = Subject {
            common_name: "admin",
            organization: Some("system:masters"),
            names: &[],
        };
        let leaf = authority.issue(&subject, usage).unwrap();
        CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap()
    }

    #[test]
    fn only_a_client_certificate_of_the_authority_has_an_identity() {
        crate::install_crypto_provider();
        let ours = Authority::generate("cluster").unwrap();
        // Of the same name: only the key tells them apart.
        let theirs = Authority::generate("cluster").unwrap();
        let clients = Clients::of_authority(ours.certificate_pem()).unwrap();

        let known = clients.identity(&[certificate(&ours, Usage::Client)]);
        assert_eq!(known.map(|client| client.user).as_deref(), Some("admin"));
        let strangers: [&[CertificateDer<'_>]; 3] = [
            &[],
            &[certificate(&theirs, Usage::Client)],
            &[certificate(&ours, Usage::Server)],
        ];
        for chain in strangers {
            assert_eq!(clients.identity(chain), None);
        }
    }
}
