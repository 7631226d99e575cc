use x509_parser::prelude::{FromDer, X509Certificate};

/// Whom a client certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// CN.
    pub user: String,
    /// O, one a group.
    pub groups: Vec<String>,
}

impl Identity {
    /// The node of a node's certificate: CN `system:node:<name>`, O `system:nodes`.
    pub fn node_name(&self) -> Option<&str> {
        let name = self.user.strip_prefix("system:node:")?;
        self.groups
            .iter()
            .any(|group| group == "system:nodes")
            .then_some(name)
    }
}

/// Reads the identity from a certificate in DER. `None` when it cannot be parsed or has no CN.
/// The caller has verified the chain; this only reads.
pub fn identity(certificate_der: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(certificate_der).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|organization| organization.as_str().ok().map(str::to_owned))
        .collect();
    Some(Identity { user, groups })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Subject, Usage};

    #[test]
    fn node_certificate_names_its_node_and_group() {
        let authority = Authority::generate("test").unwrap();
        let leaf = authority
            .issue(
                &Subject {
                    common_name: "system:node:node-1",
                    organization: Some("system:nodes"),
                    names: &[],
                },
                Usage::Client,
            )
            .unwrap();
        let der = pem::parse(leaf.certificate_pem).unwrap().into_contents();
        let identity = identity(&der).unwrap();
        assert_eq!(identity.node_name(), Some("node-1"));
        assert_eq!(identity.groups, ["system:nodes"]);
    }

    #[test]
    fn user_outside_the_nodes_group_is_no_node() {
        let identity = Identity {
            user: "system:node:node-1".into(),
            groups: vec![],
        };
        assert_eq!(identity.node_name(), None);
    }
}
