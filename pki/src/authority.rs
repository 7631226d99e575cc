use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

use crate::Error;

/// How long an authority is valid.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a leaf is valid.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far a certificate's start lies in the past, for hosts whose clocks differ.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// A certificate authority with its private key.
pub struct Authority {
    leaf_lifetime: Duration,
    certificate_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its private key, both PEM; the certificate is followed by its authority's,
/// so that a newcomer can check the authority against the hash in its join token.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The chain, leaf first.
    pub certificate_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

/// Whom a certificate names.
#[derive(Clone, Debug, Default)]
pub struct Subject<'a> {
    /// CN: the user, as the API server sees it.
    pub common_name: &'a str,
    /// O: the user's group.
    pub organization: Option<&'a str>,
    /// DNS names and IP addresses the certificate may serve.
    pub names: &'a [String],
}

/// What a certificate is for (RFC 5280 §4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To serve TLS.
    Server,
    /// To authenticate to a server.
    Client,
    /// Both: members of the control plane dial each other.
    Peer,
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// When the key or the certificate cannot be made.
    pub fn generate(common_name: &str) -> Result<Self, Error> {
        let make = |source| Error::Make {
            subject: common_name.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(make)?;
        params.distinguished_name = distinguished_name(common_name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, AUTHORITY_LIFETIME);
        let certificate = params.self_signed(&key).map_err(make)?;
        Self::load(&certificate.pem(), &key.serialize_pem())
    }

    /// Reads an authority back from PEM.
    ///
    /// # Errors
    /// When the certificate or the key is not valid PEM of its kind.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key_pem).map_err(|source| Error::Read {
            what: "private key",
            source,
        })?;
        let issuer =
            Issuer::from_ca_cert_pem(certificate_pem, key).map_err(|source| Error::Read {
                what: "certificate authority",
                source,
            })?;
        Ok(Self {
            leaf_lifetime: LEAF_LIFETIME,
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            issuer,
        })
    }

    /// The same authority, whose leaves are valid for as long as this from when they are made; a year
    /// otherwise.
    #[must_use]
    pub fn with_leaf_lifetime(self, leaf_lifetime: Duration) -> Self {
        Self {
            leaf_lifetime,
            ..self
        }
    }

    /// The authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// When the key or the certificate cannot be made.
    pub fn issue(&self, subject: &Subject<'_>, usage: Usage) -> Result<Leaf, Error> {
        let make = |source| Error::Make {
            subject: subject.common_name.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::new(subject.names).map_err(make)?;
        self.fill_leaf(&mut params, subject, usage);
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(Leaf {
            certificate_pem: certificate.pem() + &self.certificate_pem,
            key_pem: key.serialize_pem(),
        })
    }

    /// Signs a request's key for `subject`. Only the key is taken from the request: who the holder
    /// is, is the signer's to say.
    ///
    /// # Errors
    /// When the request is malformed or its signature is wrong.
    pub fn sign(
        &self,
        request_pem: &str,
        subject: &Subject<'_>,
        usage: Usage,
    ) -> Result<String, Error> {
        let make = |source| Error::Make {
            subject: subject.common_name.to_owned(),
            source,
        };
        let mut request =
            CertificateSigningRequestParams::from_pem(request_pem).map_err(|source| {
                Error::Read {
                    what: "certificate request",
                    source,
                }
            })?;
        request.params = CertificateParams::new(subject.names).map_err(make)?;
        self.fill_leaf(&mut request.params, subject, usage);
        let certificate = request.signed_by(&self.issuer).map_err(make)?;
        Ok(certificate.pem() + &self.certificate_pem)
    }

    fn fill_leaf(&self, params: &mut CertificateParams, subject: &Subject<'_>, usage: Usage) {
        params.distinguished_name = distinguished_name(subject.common_name, subject.organization);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Peer => {
                vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ]
            }
        };
        set_validity(params, self.leaf_lifetime);
    }
}

/// Makes a key and a request for a certificate over it; returns (request, key), both PEM.
///
/// # Errors
/// When the key or the request cannot be made.
pub fn certificate_request(common_name: &str) -> Result<(String, String), Error> {
    let make = |source| Error::Make {
        subject: common_name.to_owned(),
        source,
    };
    let key = KeyPair::generate().map_err(make)?;
    let request = request_for(&key, common_name).map_err(make)?;
    Ok((request, key.serialize_pem()))
}

/// Makes a request for another certificate over a key, PEM both: what the certificate replaces is
/// one file, and the key goes with either.
///
/// # Errors
/// When the key is malformed or the request cannot be made.
pub fn renewal_request(key_pem: &str, common_name: &str) -> Result<String, Error> {
    let key = KeyPair::from_pem(key_pem).map_err(|source| Error::Read {
        what: "private key",
        source,
    })?;
    request_for(&key, common_name).map_err(|source| Error::Make {
        subject: common_name.to_owned(),
        source,
    })
}

fn request_for(key: &KeyPair, common_name: &str) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = distinguished_name(common_name, None);
    params.serialize_request(key)?.pem()
}

fn distinguished_name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW_MAX;
    params.not_after = now + lifetime;
}
