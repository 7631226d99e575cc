//! Where answers come from: the control plane, which passes questions on to the agents, or one
//! agent's socket.

use std::{env, path::PathBuf};

use anyhow::{Context, bail};
use fairlead_client::{Client, Kubeconfig};
use futures::future::join_all;
use serde_json::Value;

/// Whom to ask.
pub(crate) enum Source {
    /// The agents through the control plane: one, or all that are connected.
    Cluster {
        client: Client,
        node: Option<String>,
    },
    /// One agent at its socket.
    Agent(Client),
}

/// One node's answer.
pub(crate) struct Answer {
    /// The node's name.
    pub(crate) node: String,
    pub(crate) body: Value,
}

impl Source {
    pub(crate) fn new(
        kubeconfig: Option<PathBuf>,
        socket: Option<PathBuf>,
        node: Option<String>,
    ) -> anyhow::Result<Self> {
        if let Some(socket) = socket {
            return Ok(Self::Agent(Client::socket(&socket)));
        }
        let kubeconfig = match kubeconfig {
            Some(file) => Kubeconfig::load(&file)?,
            None => Kubeconfig::load_list(&usual_kubeconfigs())
                .context("whom to ask? give --kubeconfig FILE, or --socket FILE on a node")?,
        };
        let client = Client::new(&kubeconfig)?;
        Ok(Self::Cluster { client, node })
    }

    /// Asks for a view, with a query string (`a=1&b=2`, or empty). A node that fails to answer is
    /// named on stderr; only when none answers is that an error.
    pub(crate) async fn view(&self, view: &str, query: &str) -> anyhow::Result<Vec<Answer>> {
        let tail = if query.is_empty() {
            view.to_owned()
        } else {
            format!("{view}?{query}")
        };
        let (client, nodes) = match self {
            Self::Agent(client) => {
                let body = client.get(&format!("/{tail}")).await?;
                let status = client.get("/status").await?;
                let node = status["node"].as_str().unwrap_or_default().to_owned();
                return Ok(vec![Answer { node, body }]);
            }
            Self::Cluster {
                client,
                node: Some(node),
            } => {
                return Ok(vec![
                    through_control_plane(client, node.clone(), &tail).await?,
                ]);
            }
            Self::Cluster { client, node: None } => (client, connected(client).await?),
        };
        let mut answers = Vec::new();
        let mut failure = None;
        // At once, so that one that has just died holds up nobody else's answer.
        let asked = nodes.into_iter();
        let asked = asked.map(|node| through_control_plane(client, node, &tail));
        for answer in join_all(asked).await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    eprintln!("warning: {error:#}");
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if answers.is_empty() => Err(error),
            _ => Ok(answers),
        }
    }

    /// Asks the control plane itself.
    pub(crate) async fn status(&self) -> anyhow::Result<Vec<Value>> {
        match self {
            Self::Cluster { client, .. } => status(client).await,
            Self::Agent(client) => Ok(vec![client.get("/status").await?]),
        }
    }
}

async fn through_control_plane(
    client: &Client,
    node: String,
    tail: &str,
) -> anyhow::Result<Answer> {
    let path = format!("/fairlead/v1/nodes/{node}/{tail}");
    let answer = client.get(&path).await;
    let body = answer.with_context(|| format!("ask node {node}"))?;
    Ok(Answer { node, body })
}

/// Where kubectl looks: the files that `KUBECONFIG` lists, else the one in the home directory.
fn usual_kubeconfigs() -> Vec<PathBuf> {
    let listed: Vec<PathBuf> = env::var_os("KUBECONFIG")
        .iter()
        .flat_map(env::split_paths)
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    if !listed.is_empty() {
        return listed;
    }
    let home = env::home_dir().unwrap_or_default();
    vec![home.join(".kube/config")]
}

async fn status(client: &Client) -> anyhow::Result<Vec<Value>> {
    let status = client.get("/fairlead/v1/status").await?;
    let rows = status.as_array().or_else(|| status["nodes"].as_array());
    rows.cloned()
        .context("the control plane's status has no list of nodes")
}

async fn connected(client: &Client) -> anyhow::Result<Vec<String>> {
    let nodes: Vec<String> = status(client)
        .await?
        .iter()
        .filter(|node| node["connected"] == true)
        .filter_map(|node| Some(node["node"].as_str()?.to_owned()))
        .collect();
    if nodes.is_empty() {
        bail!("no agent is connected to the control plane (see `netctl status`)");
    }
    Ok(nodes)
}
