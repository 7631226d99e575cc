//! Looks into the packet path and the DNS, for whoever asks.

use std::sync::Arc;

use fairlead_dataplane::Dataplane;
use fairlead_dns::Keeper;
use serde_json::Value;

/// The name of the one view that is not the dataplane's.
const DNS: &str = "dns";

/// What can be looked into.
#[derive(Clone)]
pub(crate) struct Views {
    pub(crate) dataplane: Arc<Dataplane>,
    /// A standalone balancer has none.
    pub(crate) dns: Option<Arc<Keeper>>,
}

impl Views {
    /// A view of this name. The dataplane's are made on a thread that nobody waits for: a large one
    /// takes milliseconds, a trace a fraction of a second.
    pub(crate) async fn of(&self, name: String, parameters: Value) -> Result<Value, String> {
        if let Some(dns) = &self.dns
            && name == DNS
        {
            return dns.view(&parameters).await;
        }
        let dataplane = Arc::clone(&self.dataplane);
        let made = tokio::task::spawn_blocking(move || {
            dataplane
                .view(&name, &parameters)
                .map_err(|error| fairlead_api::error_chain(&error))
        });
        match made.await {
            Ok(view) => view,
            Err(_panicked) => {
                Err("the view could not be made: the agent's log says why".to_owned())
            }
        }
    }
}
