//! Running a case and reading the clock.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use fairlead_dataplane_common::maps;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use packet_tests::{frame, frame_v6};
use serde::Serialize;

use crate::cases::Case;

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
}

/// The measured programs, over maps that others have pinned.
pub(crate) struct Measured {
    ebpf: Ebpf,
}

impl Measured {
    /// Loads the programs of `object` over the maps pinned in `pins`.
    pub(crate) fn load(object: &[u8], pins: &Path) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for name in maps::ALL {
            loader.map_pin_path(name, pins.join(name));
        }
        let mut ebpf = loader.load(object).context("load the measured object")?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut Xdp = program.try_into().with_context(|| name.to_owned())?;
            program
                .load()
                .with_context(|| format!("load program {name}"))?;
        }
        Ok(Self { ebpf })
    }

    /// Runs a case in `trials` timed runs of `packets` each, after one that warms up.
    pub(crate) fn run(
        &mut self,
        case: &Case,
        services: u32,
        trials: usize,
        packets: u32,
    ) -> Result<Row> {
        let program: &mut Xdp = self
            .ebpf
            .program_mut(case.program)
            .with_context(|| format!("the object has no {}", case.program))?
            .try_into()?;
        let mut times = Vec::with_capacity(trials);
        for trial in 0..=trials {
            let mut out = vec![0; case.frame.len() + 256];
            let options = TestRunOptions {
                data_in: Some(&case.frame),
                data_out: Some(&mut out),
                repeat: packets,
                ..TestRunOptions::default()
            };
            let result = program.test_run(options).with_context(|| case.name)?;
            ensure!(
                result.return_value == case.action as u32,
                "{}: the program answered {}, not {:?}",
                case.name,
                result.return_value,
                case.action
            );
            out.truncate(result.data_size_out as usize);
            ensure!(
                is_restored(&out, case),
                "{}: the frame was not restored",
                case.name
            );
            if trial > 0 {
                times.push(result.duration.as_nanos());
            }
        }
        times.sort_unstable();
        Ok(Row {
            case: case.name,
            family: case.family,
            services,
            flows: case.flows,
            ns_min: times.first().copied().context("at least one trial")?,
            ns_median: times[times.len() / 2],
        })
    }
}

/// Whether all is as it was but the MAC addresses, where the inner Ethernet header of an encapsulated
/// packet is left, and the source port of many flows.
fn is_restored(out: &[u8], case: &Case) -> bool {
    const MACS: usize = 12;
    let mut frame = case.frame.clone();
    if out.len() != frame.len() {
        return false;
    }
    if case.flows > 1 {
        let transport = match case.family {
            "ipv4" => frame::TRANSPORT,
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
