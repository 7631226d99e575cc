//! What would become of a packet, and why: it is run through the programs without consequences
//! ([`rehearsal`]), and told by what the tables say of its flow ([`facts`]).

pub mod explain;
pub mod facts;
pub mod packet;
pub mod rehearsal;

use std::path::Path;

use aya::maps::MapError;
use aya::programs::ProgramError;
use fairlead_dataplane_common::maps;

pub use self::facts::Facts;
pub use self::packet::Packet;
pub use self::rehearsal::{Outcome, Rehearsal, Step, Verdict};
use crate::loader::{self, Tables};

/// Why a packet cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be a packet.
    #[error(transparent)]
    Request(#[from] packet::Invalid),
    /// The second instance of the programs could not be loaded.
    #[error("load the programs a second time")]
    Load(#[source] loader::Error),
    /// A map could not be read or written.
    #[error("{operation} {name}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// With which map.
        name: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel did not run a program.
    #[error("run program {name}")]
    Run {
        /// Its name.
        name: &'static str,
        /// What it said.
        #[source]
        source: ProgramError,
    },
    /// The tables changed during every attempt.
    #[error("the tables change all the time: try again")]
    Unsteady,
}

impl Error {
    fn map<E>(operation: &'static str, name: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Map {
            operation,
            name,
            source: source.into(),
        }
    }

    fn run(name: &'static str) -> impl FnOnce(ProgramError) -> Self {
        move |source| Self::Run { name, source }
    }
}

/// Where the packet arrives.
#[derive(Clone, Copy, Debug)]
pub struct Uplink {
    /// The interface.
    pub ifindex: u32,
    /// Its address.
    pub mac: [u8; 6],
}

/// What would become of a packet.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What the tables say of its flow.
    pub facts: Facts,
    /// The frame as it arrives.
    pub frame: Vec<u8>,
    /// What the programs do with it.
    pub outcome: Outcome,
    /// The tags of the programs that ran, as [`rehearsal::PROGRAMS`].
    pub tags: [[u8; 8]; 2],
}

/// Runs `packet`, which arrives at `uplink`, through the programs of `object`; `pins` is where the
/// live maps are pinned that `live` has opened.
///
/// # Errors
/// When the programs cannot be loaded a second time, or a map cannot be read.
pub fn trace(
    object: &[u8],
    pins: &Path,
    live: &Tables,
    packet: &Packet,
    uplink: Uplink,
) -> Result<Trace, Error> {
    /// Changes of the tables, and ports that turn out to be taken, before giving up.
    const ATTEMPTS: usize = 16;
    let frame = packet.frame(uplink.mac);
    let mut known_nat = Vec::new();
    for _ in 0..ATTEMPTS {
        let before = version(live)?;
        let facts = Facts::read(live, packet.key())?;
        let mut rehearsal = Rehearsal::load(object, pins, live)?;
        let [first, second] = rehearsal::PROGRAMS;
        let tags = [rehearsal.tag(first)?, rehearsal.tag(second)?];
        let outcome = rehearsal.run(live, &facts, &frame, uplink.ifindex, &known_nat)?;
        if version(live)? != before {
            continue;
        }
        // A port that was free here may be taken in the live map: then another is looked for, with
        // that known.
        if let Some((key, _)) = outcome.nat
            && let Some(taken) = absent(live.nat.get(&key, 0), maps::NAT)?
            && facts.flow.is_none()
        {
            known_nat.push((key, taken));
            continue;
        }
        return Ok(Trace {
            facts,
            frame,
            outcome,
            tags,
        });
    }
    Err(Error::Unsteady)
}

/// What changes with every state that comes into force.
fn version(live: &Tables) -> Result<(u32, u64), Error> {
    let config = live.config.get(&0, 0);
    let meta = live.meta.get(&0, 0);
    Ok((
        config.map_err(Error::map("read", maps::CONFIG))?.bank,
        meta.map_err(Error::map("read", maps::META))?.generation,
    ))
}

/// What a lookup found, if anything.
fn absent<V>(found: Result<V, MapError>, name: &'static str) -> Result<Option<V>, Error> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(Error::map("read", name)(error)),
    }
}
