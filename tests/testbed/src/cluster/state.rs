//! What runs, written down after every step so that a cluster that died half-way can be found.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::spec::Spec;
use crate::ProcessId;

/// The state of a cluster, as in its `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// What was asked for.
    pub spec: Spec,
    /// The process of each host that was started, by the host's name.
    pub processes: BTreeMap<String, ProcessId>,
    /// The port on 127.0.0.1 of each control host's API, by the host's name.
    pub api_ports: BTreeMap<String, u16>,
}

impl State {
    /// The state before anything was started.
    pub fn new(spec: Spec) -> Self {
        Self {
            spec,
            processes: BTreeMap::new(),
            api_ports: BTreeMap::new(),
        }
    }

    /// Reads a state.
    ///
    /// # Errors
    /// There is none, or it was written by another version.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
    }

    /// Writes the state so that a reader finds the old or the new one, never half of one.
    ///
    /// # Errors
    /// The folder is missing or full.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("write the state as JSON")?;
        let unfinished = path.with_extension("json.new");
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, path))
            .with_context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_state_is_loaded_as_it_was() {
        let folder = tempfile::tempdir().expect("make a folder");
        let path = folder.path().join("state.json");
        let mut state = State::new(Spec::named("a"));
        let process = ProcessId {
            pid: 7,
            start_time: 42,
        };
        state.processes.insert("node-1".to_owned(), process);
        state.save(&path).expect("save");
        assert_eq!(State::load(&path).expect("load"), state);
    }
}
