//! How much the noting of flows may take of a node.

use fairlead_dataplane_common::{Config, noting};

/// What a node gives for noting flows: services whose flows are all noted, and table slots that have
/// changed hands. What is beyond goes where it goes when the table is full, and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    /// Flows noted in a second at most. 0: as many as come.
    pub notes_per_second: u32,
    /// Percent of what the other services leave that one service may have: of the table, and of the
    /// notes of a moment. 100: nothing is kept for the others.
    pub service_share_percent: u8,
}

impl Default for FlowLimits {
    /// A note costs some 150 ns, so a flood takes less than a fiftieth of a processor. A single service
    /// leaves a quarter of the table free, 65,536 flows.
    fn default() -> Self {
        Self {
            notes_per_second: 100_000,
            service_share_percent: 75,
        }
    }
}

impl FlowLimits {
    /// `config` with these limits in it.
    pub(crate) fn in_config(self, config: Config) -> Config {
        Config {
            notes_per_window: match self.notes_per_second {
                0 => 0,
                notes => noting::per_window(notes),
            },
            service_share_percent: self.service_share_percent,
            ..config
        }
    }
}
