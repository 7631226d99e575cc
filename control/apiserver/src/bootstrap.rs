use std::{sync::Arc, time::Duration};

use fairlead_api::resource::NAMESPACE;
use serde_json::json;
use tokio::time::sleep;

use crate::{api::Api, write};

/// The namespaces every cluster has.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Creates the namespaces every cluster has, as soon as there is a leader.
pub(crate) async fn create_namespaces(api: Arc<Api>) {
    for name in NAMESPACES {
        let mut pause = PAUSE_MIN;
        loop {
            let namespace = json!({ "metadata": { "name": name } });
            let created = tokio::select! {
                created = write::create(&api, &NAMESPACE, None, namespace, false) => created,
                () = api.stopping.cancelled() => return,
            };
            match created {
                Ok(_) => {
                    tracing::info!(namespace = name, "created");
                    break;
                }
                Err(status) if status.reason == "AlreadyExists" => break,
                Err(status) => {
                    tracing::debug!(namespace = name, %status, "cannot create it yet");
                }
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = api.stopping.cancelled() => return,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
