//! How newcomers become part of the cluster: join tokens, kept as Secrets with only the hash of
//! their secret half, and what a valid one is exchanged for; and how nodes stay part of it.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use fairlead_pki::{JoinToken, Role, Subject, Usage};
use fairlead_proto::node::{JoinRequest, JoinResponse, RenewRequest, RenewResponse};
use fairlead_publisher::Enrollment;
use fairlead_store::{Key, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    certificates::Authorities,
    config::{Cluster, NODE_PORT, peer_ip},
};

/// The namespace of tokens.
pub(crate) const TOKEN_NAMESPACE: &str = "kube-system";
/// The `type` of their Secrets.
const TOKEN_TYPE: &str = "net.fairlead.io/join-token";

/// What a new member needs to be one: travels only over TLS that the token's pin verified.
#[derive(Serialize, Deserialize)]
pub(crate) struct MemberBundle {
    pub(crate) cluster: Cluster,
    pub(crate) ca_pem: String,
    pub(crate) ca_key: String,
    pub(crate) peer_ca_pem: String,
    pub(crate) peer_ca_key: String,
    /// A member to be added through.
    pub(crate) peer_endpoint: String,
}

/// The name of a token's Secret.
pub(crate) fn secret_name(token_id: &str) -> String {
    format!("join-token-{token_id}")
}

/// The Secret of a token that may be used until `expires` (RFC 3339).
pub(crate) fn token_secret(token: &JoinToken, role: Role, expires: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(&token.id), "namespace": TOKEN_NAMESPACE},
        "type": TOKEN_TYPE,
        "data": {
            "secret-hash": STANDARD.encode(token.secret_hash()),
            "role": STANDARD.encode(role.as_str()),
            "expires": STANDARD.encode(expires),
        },
    })
}

/// A token's Secret, read back.
struct Record {
    secret_hash: String,
    role: Role,
    expires: jiff::Timestamp,
}

impl Record {
    fn read(secret: &[u8]) -> Option<Self> {
        let secret: Value = serde_json::from_slice(secret).ok()?;
        if secret["type"] != TOKEN_TYPE {
            return None;
        }
        let text = |field: &str| {
            let bytes = STANDARD.decode(secret["data"][field].as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        Some(Self {
            secret_hash: text("secret-hash")?,
            role: text("role")?.parse().ok()?,
            expires: text("expires")?.parse().ok()?,
        })
    }
}

/// Answers `Node.Join`.
pub(crate) struct Enroller {
    pub(crate) store: Store,
    pub(crate) authorities: Arc<Authorities>,
    pub(crate) cluster: Cluster,
    pub(crate) peer_endpoint: String,
}

impl Enroller {
    /// The role a token grants, or why it grants none. One message for every kind of wrong token:
    /// it must not tell a guesser which half was right.
    async fn role(&self, token: &str) -> Result<Role, Status> {
        let token: JoinToken = token
            .parse()
            .map_err(|error| Status::unauthenticated(format!("token: {error}")))?;
        let refused = || {
            Status::unauthenticated(
                "the join token is unknown or has expired: make a new one with \
                 `fairlead-control token create`",
            )
        };
        let snapshot = self
            .store
            .linearizable()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let key = Key::object(
            "",
            "secrets",
            Some(TOKEN_NAMESPACE),
            &secret_name(&token.id),
        );
        let record = snapshot
            .get(&key)
            .and_then(|entry| Record::read(&entry.value))
            .ok_or_else(refused)?;
        if !token.matches(&record.secret_hash) || record.expires < jiff::Timestamp::now() {
            return Err(refused());
        }
        Ok(record.role)
    }

    /// A certificate for the key of a request, as the node of this name.
    fn certify(&self, node: &str, csr_pem: &str) -> Result<String, Status> {
        let subject = Subject {
            common_name: &format!("system:node:{node}"),
            organization: Some("system:nodes"),
            names: &[],
        };
        let cluster = &self.authorities.cluster;
        cluster
            .sign(csr_pem, &subject, Usage::Client)
            .map_err(|error| Status::invalid_argument(format!("csr_pem: {error}")))
    }

    fn control_endpoints(&self) -> Vec<String> {
        self.store
            .members()
            .iter()
            .filter_map(|member| Some(SocketAddr::new(peer_ip(member)?, NODE_PORT).to_string()))
            .collect()
    }
}

#[async_trait]
impl Enrollment for Enroller {
    async fn join(&self, request: JoinRequest) -> Result<JoinResponse, Status> {
        let role = self.role(&request.token).await?;
        let name = request.node_name;
        if let Some(problem) = fairlead_api::names::dns_1123_subdomain(&name) {
            return Err(Status::invalid_argument(format!(
                "node_name {name:?}: {problem}"
            )));
        }
        let mut response = JoinResponse {
            ca_pem: self.authorities.cluster.certificate_pem().to_owned(),
            control_endpoints: self.control_endpoints(),
            ..JoinResponse::default()
        };
        match role {
            Role::Node => {
                response.certificate_pem = self.certify(&name, &request.csr_pem)?;
            }
            Role::Control => {
                let bundle = MemberBundle {
                    cluster: self.cluster.clone(),
                    ca_pem: self.authorities.cluster.certificate_pem().to_owned(),
                    ca_key: self.authorities.cluster.key_pem().to_owned(),
                    peer_ca_pem: self.authorities.peers.certificate_pem().to_owned(),
                    peer_ca_key: self.authorities.peers.key_pem().to_owned(),
                    peer_endpoint: self.peer_endpoint.clone(),
                };
                response.member_bundle_json = serde_json::to_vec(&bundle)
                    .map_err(|error| Status::internal(error.to_string()))?
                    .into();
            }
        }
        tracing::info!(name, role = role.as_str(), "a newcomer joined");
        Ok(response)
    }

    async fn renew(&self, node: &str, request: RenewRequest) -> Result<RenewResponse, Status> {
        let certificate_pem = self.certify(node, &request.csr_pem)?;
        tracing::info!(node, "certificate renewed");
        Ok(RenewResponse { certificate_pem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_secret_reads_back_and_keeps_no_secret() {
        let authority = fairlead_pki::Authority::generate("test").unwrap();
        let token = JoinToken::generate(authority.certificate_pem()).unwrap();
        let secret = token_secret(&token, Role::Control, "2030-01-01T00:00:00Z").to_string();
        assert!(!secret.contains(&STANDARD.encode(&token.secret)));
        let record = Record::read(secret.as_bytes()).unwrap();
        assert_eq!(record.role, Role::Control);
        assert!(token.matches(&record.secret_hash));
        assert_eq!(record.expires.to_string(), "2030-01-01T00:00:00Z");
    }

    #[test]
    fn a_secret_of_another_type_is_no_token() {
        let secret = json!({"type": "Opaque", "data": {}}).to_string();
        assert!(Record::read(secret.as_bytes()).is_none());
    }
}
