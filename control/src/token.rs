//! `fairlead-control token create`.

use std::time::{Duration, Instant};

use anyhow::Context;
use fairlead_client::{Client, Error, Kubeconfig};
use fairlead_config::read;
use fairlead_pki::JoinToken;

use crate::{
    TokenCreate,
    config::Layout,
    enrollment::{TOKEN_NAMESPACE, token_secret},
};

/// How long a cluster that was just started may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_PERIOD: Duration = Duration::from_millis(200);

pub(crate) async fn create(create: TokenCreate) -> anyhow::Result<()> {
    let layout = Layout::new(&create.data_dir.data_dir);
    let authority_pem = read(&layout.certificate("ca"))
        .context("tokens are made on a member of the control plane")?;
    let token = JoinToken::generate(&authority_pem)?;
    let expires = jiff::Timestamp::now()
        .checked_add(create.ttl)
        .context("--ttl ends after the end of time")?;
    let secret = token_secret(&token, create.role, &expires.to_string());
    let kubeconfig = Kubeconfig::load(&layout.admin_kubeconfig())?;
    let client = Client::new(&kubeconfig)?;
    let path = format!("/api/v1/namespaces/{TOKEN_NAMESPACE}/secrets");
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match client.post(&path, &secret).await {
            Ok(_created) => break,
            Err(error) if is_starting(&error) && Instant::now() < deadline => {
                tokio::time::sleep(RETRY_PERIOD).await;
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot make a token at {}: is the member running?",
                        kubeconfig.server
                    )
                });
            }
        }
    }
    println!("{token}");
    Ok(())
}

/// Whether the cluster answers as one that has only just begun: not listening, no leader, or the
/// namespace not made yet.
fn is_starting(error: &Error) -> bool {
    match error {
        Error::Dial { .. } => true,
        Error::Refused { code, .. } => code.as_u16() == 404 || code.as_u16() == 503,
        _ => false,
    }
}
