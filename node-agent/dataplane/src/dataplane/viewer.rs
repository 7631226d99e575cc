//! Looking at a dataplane while it works: beside its lock as far as possible.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use fairlead_dataplane_common::maps;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Dataplane, lock};
use crate::Error;
use crate::links;
use crate::loader::{self, Tables};
use crate::object;
use crate::rates::Rates;
use crate::sampler;
use crate::state::State;
use crate::trace::{self, Packet, Uplink};
use crate::view::{self, Gathered, Node};

/// What only those who look need.
pub(super) struct Viewer {
    /// The maps, opened once more: what is read by this waits for nobody and lets nobody wait.
    tables: Tables,
    /// The directory of all pins.
    pins: PathBuf,
    rates: Arc<Mutex<Rates>>,
    sampling: JoinHandle<()>,
}

impl fmt::Debug for Viewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Viewer")
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.sampling.abort();
    }
}

impl Viewer {
    /// Opens the maps of `state` a second time, and begins to sample their counters. `pins` is the
    /// directory of all pins.
    pub(super) fn open(pins: PathBuf, state: &Arc<Mutex<State>>) -> Result<Self, Error> {
        let maps_dir = pins.join("maps");
        let object = object::embedded().map_err(loader::Error::Object)?;
        let tables = Tables::open(object, &maps_dir)?;
        let counters = sampler::open(&maps_dir).map_err(|source| loader::Error::Map {
            name: maps::BACKEND_STATS,
            source: Box::new(source),
        })?;
        let rates = Arc::new(Mutex::new(Rates::default()));
        let sampling = sampler::keep_rates(Arc::clone(state), Arc::clone(&rates), counters);
        Ok(Self {
            tables,
            pins,
            rates,
            sampling: tokio::spawn(sampling),
        })
    }
}

impl Dataplane {
    /// What the maps hold, as JSON; the views are [`view::NAMES`]. Beside them there is `trace`:
    /// what would become of a packet. Takes time: nothing for a thread that others wait for.
    pub fn view(&self, view: &str, params: &Value) -> Result<Value, Error> {
        if view == "trace" {
            return self.trace(params);
        }
        let gathered = Gathered::read(&self.viewer.tables, view, params)?;
        let rates = self.rates();
        view::render(
            &lock(&self.state),
            &self.node(&rates),
            gathered,
            view,
            params,
        )
    }

    /// Runs the packet that `params` describe through a second instance of the programs.
    fn trace(&self, params: &Value) -> Result<Value, Error> {
        let packet = Packet::parse(params).map_err(trace::Error::Request)?;
        let object = object::embedded().map_err(loader::Error::Object)?;
        let Viewer { tables, pins, .. } = &self.viewer;
        let uplink = self.uplink(params)?;
        let trace = trace::trace(object, &pins.join("maps"), tables, &packet, uplink)?;
        let rates = self.rates();
        let state = lock(&self.state);
        let attached = state.loaded.attached_tags(uplink.ifindex)?;
        view::trace(&state, &self.node(&rates), tables, &trace, &attached)
    }

    /// The uplink that `params` name, or the first.
    fn uplink(&self, params: &Value) -> Result<Uplink, Error> {
        /// Of nobody: for an uplink whose address is not known.
        const UNKNOWN: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
        let uplinks = &self.config.uplinks;
        let name = params.get("interface").and_then(Value::as_str);
        let name = match name.or(uplinks.first().map(String::as_str)) {
            Some(name) if uplinks.iter().any(|uplink| uplink == name) => name,
            Some(name) => {
                return Err(Error::NoUplink {
                    name: name.to_owned(),
                });
            }
            None => return Err(Error::NoUplinks),
        };
        let ifindex = links::interface_index(name).map_err(loader::Error::Link)?;
        let entry = self.viewer.tables.uplinks.get(&ifindex, 0);
        let mac = entry.map_or(UNKNOWN, |uplink| uplink.mac);
        Ok(Uplink { ifindex, mac })
    }

    fn rates(&self) -> Rates {
        let rates = self.viewer.rates.lock();
        rates.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn node<'a>(&'a self, rates: &'a Rates) -> Node<'a> {
        Node {
            name: self.config.node_name.as_str(),
            attachments: json!({
                "uplinks": self.config.uplinks,
                "cgroup": self.config.cgroup,
                "pins": self.viewer.pins,
            }),
            rates,
            jiffies: &self.jiffies,
        }
    }
}
