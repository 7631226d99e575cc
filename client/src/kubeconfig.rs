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
    /// None of the files in the list exists.
    #[error("none of the kubeconfigs {list} exists")]
    NoneExists {
        /// The files, as in `KUBECONFIG`.
        list: String,
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

/// One file, or several merged.
#[derive(Default, Deserialize)]
#[serde(default)]
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
    /// The file it stands in, which paths in it are relative to.
    #[serde(skip)]
    origin: PathBuf,
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
    /// As of a cluster.
    #[serde(skip)]
    origin: PathBuf,
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
        File::read(path)?.resolve(path)
    }

    /// Reads the files of a list as kubectl reads `KUBECONFIG`: merged, where the first that names
    /// a context, a cluster or a user has its way; files that do not exist are left out.
    ///
    /// # Errors
    /// As [`Self::load`], and when none of the files exists.
    pub fn load_list(paths: &[PathBuf]) -> Result<Self, KubeconfigError> {
        let mut merged = File::default();
        let mut first = None;
        for path in paths {
            match File::read(path) {
                Ok(file) => merged.append(file),
                Err(KubeconfigError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            }
            first.get_or_insert(path);
        }
        let Some(first) = first else {
            let list: Vec<String> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            return Err(KubeconfigError::NoneExists {
                list: list.join(":"),
            });
        };
        merged.resolve(first)
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
    fn read(path: &Path) -> Result<Self, KubeconfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| KubeconfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut file: Self =
            serde_yaml_ng::from_str(&text).map_err(|source| KubeconfigError::Parse {
                path: path.to_owned(),
                source,
            })?;
        for cluster in &mut file.clusters {
            cluster.origin = path.to_owned();
        }
        for user in &mut file.users {
            user.origin = path.to_owned();
        }
        Ok(file)
    }

    /// Adds what `later` has; of two with one name the first is found.
    fn append(&mut self, later: Self) {
        if self.current_context.is_empty() {
            self.current_context = later.current_context;
        }
        self.clusters.extend(later.clusters);
        self.contexts.extend(later.contexts);
        self.users.extend(later.users);
    }

    /// What the current context says. `path` is named where no other file can be.
    fn resolve(self, path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let content = |message: String| KubeconfigError::Content {
            path: path.to_owned(),
            message,
        };
        let pem = |origin: &Path, field: &str, data: Option<String>, file: Option<PathBuf>| match (
            data, file,
        ) {
            (Some(data), _) => {
                let bytes = STANDARD
                    .decode(data)
                    .map_err(|_| content(format!("{field}-data is not base64")))?;
                String::from_utf8(bytes).map_err(|_| content(format!("{field}-data is not PEM")))
            }
            (None, Some(file)) => {
                let file = origin.parent().unwrap_or(Path::new(".")).join(file);
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
        let cluster_origin = found.origin;
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
        let origin = found.origin;
        Ok(Kubeconfig {
            server,
            authority_pem: pem(
                &cluster_origin,
                "certificate-authority",
                authority_data,
                authority_file,
            )?,
            user: Leaf {
                certificate_pem: pem(
                    &origin,
                    "client-certificate",
                    certificate_data,
                    certificate_file,
                )?,
                key_pem: pem(&origin, "client-key", key_data, key_file)?,
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
    fn list_of_files_is_merged_and_the_first_to_name_something_has_its_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let good = example().render("fairlead", "admin");
        let other = good.replace("127.0.0.1", "127.0.0.2");
        std::fs::write(path("context"), "current-context: fairlead\n").unwrap();
        std::fs::write(path("one"), &good).unwrap();
        std::fs::write(path("two"), &other).unwrap();
        let server = |names: &[&str]| {
            let paths: Vec<PathBuf> = names.iter().map(|name| path(name)).collect();
            Kubeconfig::load_list(&paths).map(|config| config.server)
        };
        let first = server(&["absent", "context", "one", "two"]).unwrap();
        assert_eq!(first, "https://127.0.0.1:6443");
        assert_eq!(server(&["two", "one"]).unwrap(), "https://127.0.0.2:6443");
        let error = server(&["absent", "missing"]).unwrap_err().to_string();
        assert!(
            error.contains("absent") && error.contains("missing"),
            "{error}"
        );
        let error = server(&["context"]).unwrap_err().to_string();
        assert!(error.contains("current-context \"fairlead\""), "{error}");
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
