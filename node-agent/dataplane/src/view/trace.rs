//! What would become of a packet.

use fairlead_api::{BackendId, ServiceId};
use serde_json::Value;

use super::Node;
use crate::Error;
use crate::loader::Tables;
use crate::state::State;
use crate::trace::Trace;
use crate::trace::explain::{self, Names};

/// Explains a trace in the names of the state in force.
pub(crate) fn trace(
    state: &State,
    node: &Node<'_>,
    live: &Tables,
    trace: &Trace,
    attached: &[Option<[u8; 8]>; 2],
) -> Result<Value, Error> {
    let mut explained = explain::explain(live, state, trace, attached)?;
    explained["node"] = node.name.into();
    explained["generation"] = state.observed.generation.0.into();
    Ok(explained)
}

impl Names for State {
    fn service(&self, id: u32) -> Option<String> {
        let service = self.desired.as_ref()?.services.get(&ServiceId(id))?;
        Some(service.name.clone())
    }

    fn backend(&self, id: u32) -> Option<String> {
        let desired = self.desired.as_ref()?;
        let service = desired.backends.get(&BackendId(id))?;
        let backend = desired
            .services
            .get(service)?
            .backends
            .get(&BackendId(id))?;
        Some(backend.name.clone())
    }

    fn node(&self, id: u32) -> Option<String> {
        let name = self.desired.as_ref()?.node_name(id)?;
        Some(name.as_str().to_owned())
    }
}
