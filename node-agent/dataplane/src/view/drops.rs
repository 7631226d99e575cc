//! What was dropped, and what was counted beside.

use fairlead_dataplane_common::DropReason;
use serde_json::{Value, json};

use crate::Error;
use crate::state::State;

pub(super) fn drops(state: &State) -> Result<Value, Error> {
    let mut rows = Vec::new();
    for reason in DropReason::ALL {
        let stats = state.loaded.tables.stats_of_drops(*reason as u32)?;
        rows.push(json!({
            "reason": reason.name(),
            "description": reason.description(),
            "packets": stats.packets,
            "bytes": stats.bytes,
        }));
    }
    Ok(rows.into())
}
