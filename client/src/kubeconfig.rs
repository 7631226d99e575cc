use std::{
    io,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use fairlead_pki::Leaf;
use serde::Deserialize;

/// The current context of a kubeconfig, resolved: where the API server is, whom to trust, and who
/// one is.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    /// `https://host:port`.
    pub server: String,
    /// The certificate authority, PEM.
    pub authority_pem: String,
    /// The user's client certificate.
    pub user: Leaf,
}

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not a kubeconfig.
    #[error("{path} is not a kubeconfig")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// Something in it is missing or not supported.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What.
        message: String,
    },
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "current-context")]
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    server: String,
    #[serde(rename = "certificate-authority-data")]
    authority_data: Option<String>,
    #[serde(rename = "certificate-authority")]
    authority_file: Option<PathBuf>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
struct User {
    #[serde(rename = "client-certificate-data")]
    certificate_data: Option<String>,
    #[serde(rename = "client-certificate")]
    certificate_file: Option<PathBuf>,
    #[serde(rename = "client-key-data")]
    key_data: Option<String>,
    #[serde(rename = "client-key")]
    key_file: Option<PathBuf>,
}

impl Kubeconfig {
    /// Reads a file and resolves its current context. Paths in it are relative to it.
    ///
    /// # Errors
    /// When it cannot be read, is malformed, or lacks what a client certificate user needs.
    pub fn load(path: &Path) -> Result<Self, KubeconfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| KubeconfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let file: File =
            serde_yaml_ng::from_str(&text).map_err(|source| KubeconfigError::Parse {
                path: path.to_owned(),
                source,
            })?;
        file.resolve(path)
    }

    /// The file's text, with everything in it: it can be copied to another machine.
    pub fn render(&self, cluster: &str, user: &str) -> String {
        let Self {
            server,
            authority_pem,
            user: leaf,
        } = self;
        format!(
            "apiVersion: v1
kind: Config
current-context: {cluster}
clusters:
- name: {cluster}
  cluster:
    server: {server}
    certificate-authority-data: {authority}
contexts:
- name: {cluster}
  context:
    cluster: {cluster}
    user: {user}
users:
- name: {user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
",
            authority = STANDARD.encode(authority_pem),
            certificate = STANDARD.encode(&leaf.certificate_pem),
            key = STANDARD.encode(&leaf.key_pem),
        )
    }
}

impl File {
    fn resolve(self, path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let content = |message: String| KubeconfigError::Content {
            path: path.to_owned(),
            message,
        };
        let pem = |field: &str, data: Option<String>, file: Option<PathBuf>| match (data, file) {
            (Some(data), _) => {
                let bytes = STANDARD
                    .decode(data)
                    .map_err(|_| content(format!("{field}-data is not base64")))?;
                String::from_utf8(bytes).map_err(|_| content(format!("{field}-data is not PEM")))
            }
            (None, Some(file)) => {
                let file = path.parent().unwrap_or(Path::new(".")).join(file);
                std::fs::read_to_string(&file)
                    .map_err(|source| KubeconfigError::Read { path: file, source })
            }
            (None, None) => Err(content(format!("{field} is missing"))),
        };
        let name = &self.current_context;
        let Some(context) = self
            .contexts
            .into_iter()
            .find(|context| &context.name == name)
        else {
            return Err(content(format!(
                "current-context {name:?} is not among its contexts"
            )));
        };
        let NamedContext {
            context: Context { cluster, user },
            ..
        } = context;
        let Some(found) = self
            .clusters
            .into_iter()
            .find(|candidate| candidate.name == cluster)
        else {
            return Err(content(format!(
                "cluster {cluster:?} is not among its clusters"
            )));
        };
        let Cluster {
            server,
            authority_data,
            authority_file,
        } = found.cluster;
        let Some(found) = self
            .users
            .into_iter()
            .find(|candidate| candidate.name == user)
        else {
            return Err(content(format!("user {user:?} is not among its users")));
        };
        let User {
            certificate_data,
            certificate_file,
            key_data,
            key_file,
        } = found.user;
        Ok(Kubeconfig {
            server,
            authority_pem: pem("certificate-authority", authority_data, authority_file)?,
            user: Leaf {
                certificate_pem: pem("client-certificate", certificate_data, certificate_file)?,
                key_pem: pem("client-key", key_data, key_file)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Kubeconfig {
        Kubeconfig {
            server: "https://127.0.0.1:6443".into(),
            authority_pem: "authority".into(),
            user: Leaf {
                certificate_pem: "certificate".into(),
                key_pem: "key".into(),
            },
        }
    }

    fn load(text: &str) -> Result<Kubeconfig, KubeconfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, text).unwrap();
        Kubeconfig::load(&path)
    }

    #[test]
    fn rendered_kubeconfig_reads_back() {
        let read = load(&example().render("fairlead", "admin")).unwrap();
        assert_eq!(read.server, "https://127.0.0.1:6443");
        assert_eq!(read.authority_pem, "authority");
        assert_eq!(read.user.key_pem, "key");
    }

    #[test]
    fn broken_kubeconfig_names_what_is_wrong() {
        let good = example().render("fairlead", "admin");
        for (from, to, expected) in [
            (
                "current-context: fairlead",
                "current-context: other",
                "current-context \"other\"",
            ),
            ("user: admin", "user: nobody", "user \"nobody\""),
            (
                "client-key-data",
                "client-kei-data",
                "client-key is missing",
            ),
        ] {
            let error = load(&good.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
