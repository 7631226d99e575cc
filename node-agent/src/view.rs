//! Looks into the packet path, for whoever asks.

use std::sync::Arc;

use fairlead_dataplane::Dataplane;
use serde_json::Value;

/// A view of the dataplane, made on a thread that nobody waits for: a large one takes milliseconds,
/// a trace a fraction of a second.
pub(crate) async fn of(
    dataplane: Arc<Dataplane>,
    name: String,
    parameters: Value,
) -> Result<Value, String> {
    let made = tokio::task::spawn_blocking(move || {
        dataplane
            .view(&name, &parameters)
            .map_err(|error| fairlead_api::error_chain(&error))
    });
    match made.await {
        Ok(view) => view,
        Err(_panicked) => Err("the view could not be made: the agent's log says why".to_owned()),
    }
}
