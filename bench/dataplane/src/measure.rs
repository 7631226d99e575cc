//! Running a case and reading the clock.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::maps::Array;
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use fairlead_dataplane_common::maps;
use fairlead_dataplane_common::traffic::Whole;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use packet_tests::{World, frame, frame_v6};
use serde::Serialize;

use crate::cases::{Case, Program, V4};

/// What a case cost.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// The case.
    pub(crate) case: &'static str,
    /// The address family of its packet.
    pub(crate) family: &'static str,
    /// Services in the maps.
    pub(crate) services: u32,
    /// Flows its packets belong to.
    pub(crate) flows: u32,
    /// The fastest trial.
    pub(crate) ns_min: u128,
    /// The middle one.
    pub(crate) ns_median: u128,
    /// How the frame became again what it was.
    #[serde(skip)]
    pub(crate) method: &'static str,
    /// The case that it is compared with.
    #[serde(skip)]
    pub(crate) over: Option<&'static str>,
}

/// How long a case is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Timed runs.
    pub(crate) trials: usize,
    /// Packets of each.
    pub(crate) packets: u32,
}

/// The measured programs, over maps that others have pinned.
pub(crate) struct Measured {
    ebpf: Ebpf,
    loaded: BTreeSet<&'static str>,
}

impl Measured {
    /// Loads the programs of `object` over the maps pinned in `pins`.
    pub(crate) fn load(object: &[u8], pins: &Path) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for name in maps::ALL {
            loader.map_pin_path(name, pins.join(name));
        }
        let ebpf = loader.load(object).context("load the measured object")?;
        Ok(Self {
            ebpf,
            loaded: BTreeSet::new(),
        })
    }

    /// Runs a case in timed runs, after one that warms up. Its flows are forgotten before and after.
    pub(crate) fn run(
        &mut self,
        world: &mut World,
        case: &Case,
        services: u32,
        effort: Effort,
    ) -> Result<Row> {
        self.set_whole(case)?;
        let begins = case.noted > 1;
        // More would find the flows of the first.
        let packets = if begins { case.flows } else { effort.packets };
        forget_flows(world)?;
        let mut times = Vec::with_capacity(effort.trials);
        for trial in 0..=effort.trials {
            let time = self.time(case, packets).context(case.name)?;
            if trial > 0 {
                times.push(time);
            }
            let noted = world.tables.flows.keys().count();
            ensure!(
                noted == case.noted as usize,
                "{}: {noted} flows were noted, not {}",
                case.name,
                case.noted
            );
            if begins {
                forget_flows(world)?;
            }
        }
        forget_flows(world)?;
        times.sort_unstable();
        Ok(Row {
            case: case.name,
            family: case.family,
            services,
            flows: case.flows,
            ns_min: times.first().copied().context("at least one trial")?,
            ns_median: times[times.len() / 2],
            method: case.program.method(),
            over: case.over,
        })
    }

    /// Nanoseconds a packet of one run.
    fn time(&mut self, case: &Case, packets: u32) -> Result<u128> {
        let program = self.program(case.program.name())?;
        let mut out = vec![0; case.frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(&case.frame),
            data_out: Some(&mut out),
            repeat: packets,
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).context("run the program")?;
        ensure!(
            result.return_value == case.action as u32,
            "the program answered {}, not {:?}",
            result.return_value,
            case.action
        );
        out.truncate(result.data_size_out as usize);
        ensure!(is_restored(&out, case), "the frame was not restored");
        Ok(result.duration.as_nanos())
    }

    /// A program, which is loaded if it was not: to verify one takes seconds.
    fn program(&mut self, name: &'static str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name);
        let program = program.with_context(|| format!("the object has no {name}"))?;
        let program: &mut Xdp = program.try_into()?;
        if self.loaded.insert(name) {
            program
                .load()
                .with_context(|| format!("load program {name}"))?;
        }
        Ok(program)
    }

    /// Says what headers are put back.
    fn set_whole(&mut self, case: &Case) -> Result<()> {
        let is_needed = matches!(case.program, Program::FloorPutBack | Program::PutBack);
        let Some(whole) = Whole::new(&case.frame) else {
            ensure!(!is_needed, "{}: the frame is too short", case.name);
            return Ok(());
        };
        let map = self.ebpf.map_mut("whole");
        let map = map.context("the object has no map of headers")?;
        let mut map: Array<_, Whole> = map.try_into()?;
        map.set(0, whole, 0).context("write the headers")
    }
}

/// Removes what is noted of flows.
fn forget_flows(world: &mut World) -> Result<()> {
    let flows = &mut world.tables.flows;
    let noted: Vec<u64> = flows
        .keys()
        .collect::<Result<_, _>>()
        .context("read flows")?;
    for flow in &noted {
        flows.remove(flow).context("forget a flow")?;
    }
    Ok(())
}

/// Whether all is as it was but the MAC addresses, where the cheapest way leaves the inner Ethernet header
/// of an encapsulated packet, and the source port of many flows.
fn is_restored(out: &[u8], case: &Case) -> bool {
    const MACS: usize = 12;
    let mut frame = case.frame.clone();
    if out.len() != frame.len() {
        return false;
    }
    if case.flows > 1 {
        let transport = match case.family {
            V4 => frame::TRANSPORT,
            _ => frame_v6::TRANSPORT,
        };
        frame[transport..transport + 2].copy_from_slice(&out[transport..transport + 2]);
    }
    out[MACS..] == frame[MACS..]
}

/// Keeps this process on one CPU.
pub(crate) fn pin_to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("name CPU {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("run on CPU {cpu}"))
}
