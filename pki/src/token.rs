use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 24;
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// What a token lets its holder become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A node: gets a client certificate.
    Node,
    /// A member of the control plane: gets the authorities' keys.
    Control,
}

impl Role {
    /// `node` or `control`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Control => "control",
        }
    }
}

impl FromStr for Role {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        match text {
            "node" => Ok(Self::Node),
            "control" => Ok(Self::Control),
            _ => Err(TokenError::Role(text.to_owned())),
        }
    }
}

/// `<id>.<secret>.<hash>`: the id finds the record, the secret proves the right to join, the hash
/// pins the authority, so that a newcomer talks to no impostor.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Six lower-case letters and digits; not secret.
    pub id: String,
    /// Twenty-four of the same; 124 bits.
    pub secret: String,
    /// SHA-256 over the authority's SubjectPublicKeyInfo (RFC 7469 §2.4), hex.
    pub authority_hash: String,
}

/// Why a token is not one.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The text has another shape.
    #[error("a join token has the form <id>.<secret>.<hash>: {0}")]
    Form(&'static str),
    /// Neither node nor control.
    #[error("role {0:?}: must be \"node\" or \"control\"")]
    Role(String),
}

impl JoinToken {
    /// A fresh token for the cluster whose authority has this certificate.
    ///
    /// # Errors
    /// When the certificate is not one.
    pub fn generate(authority_pem: &str) -> Result<Self, TokenError> {
        let der = pem::parse(authority_pem)
            .map_err(|_| TokenError::Form("the authority's certificate is not PEM"))?;
        let authority_hash = spki_hash(der.contents())
            .ok_or(TokenError::Form("the authority's certificate is not X.509"))?;
        Ok(Self {
            id: random_text(ID_LENGTH),
            secret: random_text(SECRET_LENGTH),
            authority_hash,
        })
    }

    /// What is stored in place of the secret.
    pub fn secret_hash(&self) -> String {
        hex(&Sha256::digest(self.secret.as_bytes()))
    }

    /// Whether `stored` is this secret's hash. Takes the same time wherever they differ.
    pub fn matches(&self, stored: &str) -> bool {
        let ours = self.secret_hash();
        ours.len() == stored.len()
            && ours
                .bytes()
                .zip(stored.bytes())
                .fold(0, |differ, (a, b)| differ | (a ^ b))
                == 0
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.id, self.secret, self.authority_hash)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}.…)", self.id)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [id, secret, hash] = parts[..] else {
            return Err(TokenError::Form("it needs exactly two dots"));
        };
        let plain = |part: &str| part.bytes().all(|byte| ALPHABET.contains(&byte));
        if id.len() != ID_LENGTH || !plain(id) {
            return Err(TokenError::Form(
                "the id is six lower-case letters and digits",
            ));
        }
        if secret.len() != SECRET_LENGTH || !plain(secret) {
            return Err(TokenError::Form(
                "the secret is 24 lower-case letters and digits",
            ));
        }
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TokenError::Form("the hash is 64 hexadecimal digits"));
        }
        Ok(Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            authority_hash: hash.to_ascii_lowercase(),
        })
    }
}

/// SHA-256 over a certificate's SubjectPublicKeyInfo, hex; `None` when it is not X.509.
pub(crate) fn spki_hash(certificate_der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate_der).ok()?;
    Some(hex(&Sha256::digest(certificate.public_key().raw)))
}

fn random_text(length: usize) -> String {
    (0..length)
        .map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    #[test]
    fn token_survives_being_printed_and_read() {
        let authority = Authority::generate("test").unwrap();
        let token = JoinToken::generate(authority.certificate_pem()).unwrap();
        let read: JoinToken = token.to_string().parse().unwrap();
        assert_eq!(read, token);
        assert!(read.matches(&token.secret_hash()));
    }

    #[test]
    fn another_secret_does_not_match() {
        let authority = Authority::generate("test").unwrap();
        let token = JoinToken::generate(authority.certificate_pem()).unwrap();
        let other = JoinToken::generate(authority.certificate_pem()).unwrap();
        assert!(!other.matches(&token.secret_hash()));
        assert!(!token.matches(""));
    }

    #[test]
    fn malformed_token_is_refused_with_the_part_that_is_wrong() {
        let hash = "0".repeat(64);
        for (text, expected) in [
            (String::new(), "two dots"),
            ("abcdef.short.00".to_owned(), "secret"),
            (format!("ABCDEF.{}.{hash}", "a".repeat(24)), "id"),
            (format!("abcdef.{}.xyz", "a".repeat(24)), "hash"),
        ] {
            let error = text.parse::<JoinToken>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
