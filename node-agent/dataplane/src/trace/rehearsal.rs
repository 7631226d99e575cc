//! A second instance of the programs, for packets that never were.
//!
//! It reads the live tables, the very maps, and writes to maps of its own: what a packet does here
//! changes nothing, moves no counter and is seen by nobody else. Before a packet runs, the entries
//! that concern its flow are copied over from the live maps, so that the programs find what they
//! would find there.

use std::path::Path;

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use aya::programs::{Program, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader, Pod};
use fairlead_dataplane_common::{
    AffinityEntry, AffinityKey, BackendStats, Counter, DropReason, DropStats, FlowEntry, FlowKey,
    LoadEntry, NODE_LOCAL, NatEntry, NotedEntry, TrackEntry, maps,
};

use super::facts::{self, Facts};
use super::{Error, absent};
use crate::loader::{self, Tables};
use crate::sys;

/// The maps that the programs only read: the rehearsal has the live ones.
const SHARED: &[&str] = &[
    maps::CONFIG,
    maps::FRONTENDS,
    maps::SERVICES,
    maps::LUT,
    maps::BACKENDS,
    maps::BACKEND_IDS,
    maps::NODES,
    maps::NODE_ADDRESSES,
    maps::ENDPOINTS,
    maps::PODS,
    maps::ROUTES,
    maps::VIP_PREFIXES,
    maps::VPCS,
    maps::SOURCE_RANGES,
    maps::UPLINKS,
];
/// The maps of its own that need no more room than one packet's flow: the live ones take megabytes.
const SMALL: &[&str] = &[
    maps::REPLIES,
    maps::NEWCOMERS,
    maps::SNAT_OUT,
    maps::SNAT_IN,
    maps::SOCKET_ORIGINS,
    maps::FLOWS,
    maps::NAT,
    maps::AFFINITY,
    maps::FRAGMENTS,
    maps::SERVICE_DROPS,
    maps::CONFLICTS,
    maps::PROBES,
];
/// The maps of its own by backend slot: as long as the live ones are used.
const BY_BACKEND: &[&str] = &[maps::LOADS, maps::BACKEND_STATS];
/// The same by service slot.
const BY_SERVICE: &[&str] = &[maps::TURNS, maps::SERVICE_STATS];

/// Entries of a small map. An LRU map hands them to CPUs by the hundred.
const SMALL_ENTRIES: u32 = 4_096;
/// Room for headers that programs add.
const HEADERS_MAX: usize = 256;

/// The programs that a packet from an uplink meets, in their order.
pub const PROGRAMS: [&str; 2] = ["xdp_ingress", "tc_uplink_in"];

/// What a program made of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Given on: by XDP to TC, by TC to the stack.
    Pass,
    /// Dropped, for the reason whose counter moved.
    Drop(Option<DropReason>),
    /// Sent out by where it came in.
    Transmit,
    /// Given to another interface.
    Redirect,
    /// Something that no program of ours returns.
    Unknown(u32),
}

impl Verdict {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop(_) => "drop",
            Self::Transmit => "transmit",
            Self::Redirect => "redirect",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// One program's run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub program: &'static str,
    /// What it decided.
    pub verdict: Verdict,
    /// The frame as it left it.
    pub frame: Vec<u8>,
}

/// What the packet did, and would have written.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The programs it met.
    pub steps: Vec<Step>,
    /// The slot of the backend that it was counted for.
    pub counted: Option<u32>,
    /// The flow's entry in `flows` afterwards.
    pub flow: Option<TrackEntry>,
    /// An entry in `nat` that was not there before.
    pub nat: Option<(FlowKey, NatEntry)>,
    /// An entry in `replies` or `newcomers` that was not there before, or that the packet has met.
    pub reply: Option<(FlowKey, FlowEntry)>,
    /// Counters that moved.
    pub counters: Vec<Counter>,
}

impl Outcome {
    /// The last program's decision: the packet's fate on this node.
    pub fn verdict(&self) -> Verdict {
        self.steps.last().map_or(Verdict::Pass, |step| step.verdict)
    }
}

/// See the [module](self).
pub struct Rehearsal {
    ebpf: Ebpf,
    replies: HashMap<MapData, FlowKey, FlowEntry>,
    newcomers: HashMap<MapData, FlowKey, FlowEntry>,
    snat_out: HashMap<MapData, FlowKey, FlowEntry>,
    snat_in: HashMap<MapData, FlowKey, FlowEntry>,
    flows: HashMap<MapData, u64, TrackEntry>,
    nat: HashMap<MapData, FlowKey, NatEntry>,
    affinity: HashMap<MapData, AffinityKey, AffinityEntry>,
    turns: Array<MapData, u32>,
    loads: Array<MapData, LoadEntry>,
    noted: Array<MapData, NotedEntry>,
    backend_stats: PerCpuArray<MapData, BackendStats>,
    drops: PerCpuArray<MapData, DropStats>,
    counters: PerCpuArray<MapData, u64>,
}

/// What was copied over before a run: what is there afterwards and was not here is new.
#[derive(Default)]
struct Copied {
    replies: Vec<(FlowKey, FlowEntry)>,
    nat: Vec<FlowKey>,
}

impl Rehearsal {
    /// Loads the programs of `object` over the live maps, pinned in `pins`, that they only read.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load(object: &[u8], pins: &Path, live: &Tables) -> Result<Self, Error> {
        let (backends, services) = used_slots(live)?;
        let mut loader = EbpfLoader::new();
        for name in SHARED {
            loader.map_pin_path(name, pins.join(name));
        }
        for (names, entries) in [
            (SMALL, SMALL_ENTRIES),
            (BY_BACKEND, backends),
            (BY_SERVICE, services),
            (&[maps::NOTED], NotedEntry::of_service(services)),
        ] {
            for name in names {
                loader.map_max_entries(name, entries);
            }
        }
        let mut ebpf = loader
            .load(object)
            .map_err(|error| Error::Load(loader::Error::Load(Box::new(error))))?;
        for name in PROGRAMS {
            let program = ebpf
                .program_mut(name)
                .ok_or(Error::Load(loader::Error::Absent { name }))?;
            let loaded = match program {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                _ => return Err(Error::Load(loader::Error::Absent { name })),
            };
            loaded.map_err(|source| {
                let source = Box::new(source);
                Error::Load(loader::Error::Program { name, source })
            })?;
        }
        Ok(Self {
            replies: take(&mut ebpf, maps::REPLIES)?,
            newcomers: take(&mut ebpf, maps::NEWCOMERS)?,
            snat_out: take(&mut ebpf, maps::SNAT_OUT)?,
            snat_in: take(&mut ebpf, maps::SNAT_IN)?,
            flows: take(&mut ebpf, maps::FLOWS)?,
            nat: take(&mut ebpf, maps::NAT)?,
            affinity: take(&mut ebpf, maps::AFFINITY)?,
            turns: take(&mut ebpf, maps::TURNS)?,
            loads: take(&mut ebpf, maps::LOADS)?,
            noted: take(&mut ebpf, maps::NOTED)?,
            backend_stats: take(&mut ebpf, maps::BACKEND_STATS)?,
            drops: take(&mut ebpf, maps::DROPS)?,
            counters: take(&mut ebpf, maps::COUNTERS)?,
            ebpf,
        })
    }

    /// The tag of a program: the same for two whose instructions are.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn tag(&self, program: &'static str) -> Result<[u8; 8], Error> {
        let found = self.ebpf.program(program);
        let found = found.ok_or(Error::Load(loader::Error::Absent { name: program }))?;
        let fd = found.fd().map_err(Error::run(program))?;
        sys::program_tag(std::os::fd::AsFd::as_fd(fd))
            .map_err(Error::map("read the tag in", program))
    }

    /// Runs a packet that the uplink `ifindex` receives through the programs. Each rehearsal is for
    /// one packet: the maps are not emptied again.
    ///
    /// `known_nat` are entries of `nat` to find beside: ports that are taken.
    ///
    /// # Errors
    /// When a map cannot be read or written, or the kernel does not run the programs.
    pub fn run(
        &mut self,
        live: &Tables,
        facts: &Facts,
        frame: &[u8],
        ifindex: u32,
        known_nat: &[(FlowKey, NatEntry)],
    ) -> Result<Outcome, Error> {
        let slots = facts.backend_slots(live)?;
        let mut copied = self.prepare(live, facts, &slots)?;
        for (key, entry) in known_nat {
            self.nat
                .insert(*key, *entry, 0)
                .map_err(Error::map("write", maps::NAT))?;
            copied.nat.push(*key);
        }
        let mut outcome = Outcome::default();
        let mut frame = frame.to_vec();
        for program in PROGRAMS {
            let step = self.step(program, &frame, ifindex)?;
            frame.clone_from(&step.frame);
            let is_passed = step.verdict == Verdict::Pass;
            outcome.steps.push(step);
            if !is_passed {
                break;
            }
        }
        for slot in slots {
            let counts = self
                .backend_stats
                .get(&slot, 0)
                .map_err(Error::map("read", maps::BACKEND_STATS))?;
            if counts.iter().any(|count| count.packets > 0) {
                outcome.counted = Some(slot);
            }
        }
        outcome.flow = absent(self.flows.get(&facts.noted_by(), 0), maps::FLOWS)?;
        let nat = entries(&self.nat, maps::NAT)?;
        outcome.nat = nat.into_iter().find(|(key, _)| !copied.nat.contains(key));
        let mut replies = entries(&self.replies, maps::REPLIES)?;
        replies.extend(entries(&self.newcomers, maps::NEWCOMERS)?);
        outcome.reply = replies
            .into_iter()
            .find(|reply| !copied.replies.contains(reply));
        for counter in Counter::ALL {
            let counts = self
                .counters
                .get(&(*counter as u32), 0)
                .map_err(Error::map("read", maps::COUNTERS))?;
            if counts.iter().any(|count| *count > 0) {
                outcome.counters.push(*counter);
            }
        }
        Ok(outcome)
    }

    /// Copies what the programs may look for.
    fn prepare(
        &mut self,
        live: &Tables,
        facts: &Facts,
        slots: &std::collections::BTreeSet<u32>,
    ) -> Result<Copied, Error> {
        let mut copied = Copied::default();
        let key = facts.key;
        if let Some(flow) = facts.flow {
            let written = self.flows.insert(facts.noted_by(), flow, 0);
            written.map_err(Error::map("write", maps::FLOWS))?;
        }
        if copy(&live.nat, &mut self.nat, maps::NAT, key)?.is_some() {
            copied.nat.push(key);
        }
        copy(&live.snat_out, &mut self.snat_out, maps::SNAT_OUT, key)?;
        copy(&live.snat_in, &mut self.snat_in, maps::SNAT_IN, key)?;
        if let (Some(service), Some(affinity)) = (facts.service, facts.affinity) {
            let key = AffinityKey {
                client: key.source,
                service: service.id,
            };
            let written = self.affinity.insert(key, affinity, 0);
            written.map_err(Error::map("write", maps::AFFINITY))?;
        }
        if let Some(frontend) = facts.frontend {
            let turn = live
                .turns
                .get(&frontend.service, 0)
                .map_err(Error::map("read", maps::TURNS))?;
            let written = self.turns.set(frontend.service, turn, 0);
            written.map_err(Error::map("write", maps::TURNS))?;
            for index in [NotedEntry::OF_ALL, NotedEntry::of_service(frontend.service)] {
                let noted = live.noted.get(index);
                let noted = noted.map_err(Error::map("read", maps::NOTED))?;
                let written = self.noted.set(index, noted, 0);
                written.map_err(Error::map("write", maps::NOTED))?;
            }
        }
        for slot in slots {
            let load = facts::load(live, *slot)?;
            let written = self.loads.set(*slot, load, 0);
            written.map_err(Error::map("write", maps::LOADS))?;
            let Some(backend) = facts::backend(live, *slot)? else {
                continue;
            };
            if backend.node == NODE_LOCAL {
                let reply = FlowKey {
                    source: backend.address,
                    destination: key.source,
                    source_port_be: backend.port_be,
                    destination_port_be: key.source_port_be,
                    ..key
                };
                let found = copy(&live.replies, &mut self.replies, maps::REPLIES, reply)?;
                copied.replies.extend(found.map(|entry| (reply, entry)));
                let found = copy(&live.newcomers, &mut self.newcomers, maps::NEWCOMERS, reply)?;
                copied.replies.extend(found.map(|entry| (reply, entry)));
            }
        }
        Ok(copied)
    }

    fn step(&mut self, name: &'static str, frame: &[u8], ifindex: u32) -> Result<Step, Error> {
        let before = self.dropped()?;
        let mut out = vec![0; frame.len() + HEADERS_MAX];
        let program = self.ebpf.program(name);
        let program = program.ok_or(Error::Load(loader::Error::Absent { name }))?;
        let (context, is_xdp) = match program {
            Program::Xdp(_) => (xdp_context(frame.len(), ifindex), true),
            _ => (skb_context(ifindex), false),
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = match program {
            Program::Xdp(program) => program.test_run(options),
            Program::SchedClassifier(program) => program.test_run(options),
            _ => return Err(Error::Load(loader::Error::Absent { name })),
        };
        let result = result.map_err(Error::run(name))?;
        out.truncate(result.data_size_out as usize);
        let verdict = match (result.return_value, is_xdp) {
            (1, true) | (2, false) => Verdict::Drop(
                self.dropped()?
                    .into_iter()
                    .find(|reason| !before.contains(reason)),
            ),
            (2, true) | (0, false) => Verdict::Pass,
            (3, true) => Verdict::Transmit,
            (4, true) | (7, false) => Verdict::Redirect,
            (code, _) => Verdict::Unknown(code),
        };
        Ok(Step {
            program: name,
            verdict,
            frame: out,
        })
    }

    /// The reasons that something was dropped for so far.
    fn dropped(&self) -> Result<Vec<DropReason>, Error> {
        let mut reasons = Vec::new();
        for reason in DropReason::ALL {
            let counts = self
                .drops
                .get(&(*reason as u32), 0)
                .map_err(Error::map("read", maps::DROPS))?;
            if counts.iter().any(|count| count.packets > 0) {
                reasons.push(*reason);
            }
        }
        Ok(reasons)
    }
}

/// How far backends' and services' slots are used, with room for those that come meanwhile.
fn used_slots(live: &Tables) -> Result<(u32, u32), Error> {
    const MORE: u32 = 1_024;
    let backends = live
        .backends
        .read(0, maps::BACKENDS_MAX as usize)
        .map_err(Error::map("read", maps::BACKENDS))?;
    let services = live
        .services
        .read(0, 2 * maps::SERVICES_MAX as usize)
        .map_err(Error::map("read", maps::SERVICES))?;
    let backends = backends.iter().rposition(|backend| backend.id != 0);
    let services = (services.iter().enumerate())
        .filter(|(_, service)| service.id != 0)
        .map(|(index, _)| index as u32 % maps::SERVICES_MAX)
        .max();
    let backends = backends.map_or(0, |last| last as u32) + MORE;
    let services = services.unwrap_or(0) + MORE;
    Ok((
        backends.min(maps::BACKENDS_MAX),
        services.min(maps::SERVICES_MAX),
    ))
}

/// The context that says where a frame came in: `struct xdp_md` of linux/bpf.h.
fn xdp_context(length: usize, ifindex: u32) -> Vec<u8> {
    let data_end = length as u32;
    let fields = [0, data_end, 0, ifindex, 0, 0];
    fields.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// The same of `struct __sk_buff`, up to its field `ifindex`.
fn skb_context(ifindex: u32) -> Vec<u8> {
    let fields = [0, 0, 0, 0, 0, 0, 0, 0, 0, ifindex, ifindex];
    fields.into_iter().flat_map(u32::to_ne_bytes).collect()
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name);
    let map = map.ok_or(Error::Load(loader::Error::Absent { name }))?;
    M::try_from(map).map_err(Error::map("open", name))
}

fn copy<K: Pod, V: Pod>(
    from: &HashMap<MapData, K, V>,
    to: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: K,
) -> Result<Option<V>, Error> {
    let found = absent(from.get(&key, 0), name)?;
    if let Some(value) = found {
        to.insert(key, value, 0)
            .map_err(Error::map("write", name))?;
    }
    Ok(found)
}

fn entries<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<Vec<(K, V)>, Error> {
    let all: Result<Vec<_>, _> = map.iter().collect();
    all.map_err(Error::map("read", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_is_either_read_only_or_the_rehearsals_own() {
        // A map that is new has to be given a side here: shared only if no program writes to it.
        let own = [
            maps::META,
            maps::NOTED,
            maps::DROP_SAMPLES,
            maps::COUNTERS,
            maps::DROPS,
        ];
        let sides = [SHARED, SMALL, BY_BACKEND, BY_SERVICE, &own];
        let mut sided: Vec<&str> = sides.concat();
        let mut all = maps::ALL.to_vec();
        sided.sort_unstable();
        all.sort_unstable();
        assert_eq!(sided, all);
    }
}
