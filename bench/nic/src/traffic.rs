use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use fairlead_dataplane_common::traffic::{
    FRAME_BYTES_MIN, LATENCY_BUCKETS, QUEUES_MAX, Received, Template,
};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use packet_tests::frame;

use crate::Histogram;

/// Frames that the kernel hands to a driver at once.
const BATCH: u32 = 64;

/// The largest frame: a live frame has to fit a page, with what the kernel puts around it.
const FRAME_BYTES_MAX: usize = 1514;

/// What is sent: UDP over IPv4, without a checksum.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    /// Of the sending interface.
    pub source_mac: [u8; 6],
    /// Of whoever is to get the frames.
    pub destination_mac: [u8; 6],
    /// The address, and the port of the first flow; each has the next port.
    pub source: SocketAddrV4,
    /// For whom the packets are.
    pub destination: SocketAddrV4,
    /// How many flows take turns.
    pub count: u32,
    /// Bytes of a frame, without Ethernet's checksum.
    pub frame_bytes: usize,
    /// Whether frames carry the time, for a sink on the same machine.
    pub is_timed: bool,
}

impl Flows {
    /// A frame of the first flow.
    fn frame(&self) -> Vec<u8> {
        const HEADERS: usize = 14 + 20 + 8;
        let payload = vec![0; self.frame_bytes - HEADERS];
        let source = (*self.source.ip(), self.source.port());
        let destination = (*self.destination.ip(), self.destination.port());
        let mut frame = frame::udp(source, destination, &payload);
        frame[..6].copy_from_slice(&self.destination_mac);
        frame[6..12].copy_from_slice(&self.source_mac);
        // The flows' payloads differ, and so would their checksums.
        frame[40..42].fill(0);
        frame
    }
}

/// The generator and the sink, loaded.
pub struct Traffic {
    ebpf: Ebpf,
    received: PerCpuArray<MapData, Received>,
    latency: PerCpuArray<MapData, u64>,
    template: Array<MapData, Template>,
}

impl Traffic {
    /// Loads the programs of `object`, what `cargo xtask build-ebpf` makes of
    /// `dataplane-ebpf/src/bin/traffic.rs`.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn load(object: &[u8]) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(object).context("load traffic.o")?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut Xdp = program.try_into().with_context(|| name.to_owned())?;
            program
                .load()
                .with_context(|| format!("load program {name}"))?;
        }
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("traffic.o has no map {name}"))
        };
        Ok(Self {
            received: PerCpuArray::try_from(take("received")?)?,
            latency: PerCpuArray::try_from(take("latency")?)?,
            template: Array::try_from(take("template")?)?,
            ebpf,
        })
    }

    /// Counts and drops what arrives at an interface of this thread's namespace, if a generator sent it.
    ///
    /// # Errors
    /// There is no such interface, or it has an XDP program already.
    pub fn attach_sink(&mut self, interface: &str) -> Result<()> {
        let program: &mut Xdp = self
            .ebpf
            .program_mut("sink")
            .context("traffic.o has no sink")?
            .try_into()?;
        program
            .attach(interface, XdpMode::Default)
            .with_context(|| format!("attach the sink to {interface}"))?;
        Ok(())
    }

    /// Says what is sent from now on.
    ///
    /// # Errors
    /// The frames are too short or too long, or there is no flow.
    pub fn set_flows(&mut self, flows: &Flows) -> Result<()> {
        ensure!(
            (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&flows.frame_bytes),
            "frames have {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX} bytes, not {}",
            flows.frame_bytes
        );
        ensure!(
            (1..=u32::from(u16::MAX)).contains(&flows.count),
            "there are 1 to 65535 flows, not {}",
            flows.count
        );
        let frame = flows.frame();
        let (words, _) = frame.as_chunks::<2>();
        let mut template = Template {
            first_port: flows.source.port(),
            flows: flows.count,
            is_timed: flows.is_timed.into(),
            ..Template::default()
        };
        for (header, word) in template.headers.iter_mut().zip(words) {
            *header = u16::from_ne_bytes(*word);
        }
        self.template
            .set(0, template, 0)
            .context("write the template")
    }

    /// What sends `flows` out of the interface with this index in the namespace of the thread that
    /// sends.
    ///
    /// # Errors
    /// The object has no generator.
    pub fn sender(&self, ifindex: u32, flows: &Flows) -> Result<Sender<'_>> {
        let program = self
            .ebpf
            .program("generate")
            .context("traffic.o has no generator")?;
        let frame = flows.frame();
        // `struct xdp_md` of linux/bpf.h: data, data_end, data_meta, ingress_ifindex,
        // rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
        Ok(Sender {
            program: program.try_into()?,
            frame,
            context: context.into_iter().flat_map(u32::to_ne_bytes).collect(),
        })
    }

    /// What sinks have received so far, by queue and CPU.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn received(&self) -> Result<Vec<Vec<Received>>> {
        (0..QUEUES_MAX)
            .map(|queue| {
                let counts = self.received.get(&queue, 0);
                Ok(counts.context("read what was received")?.to_vec())
            })
            .collect()
    }

    /// How many frames sinks have received so far.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn received_frames(&self) -> Result<u64> {
        let counts = self.received()?;
        Ok(counts.iter().flatten().map(|count| count.packets).sum())
    }

    /// How long what was received with a time took.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn latency(&self) -> Result<Histogram> {
        let counts: Result<Vec<u64>> = (0..LATENCY_BUCKETS)
            .map(|bucket| {
                let counts = self.latency.get(&bucket, 0).context("read latencies")?;
                Ok(counts.iter().sum())
            })
            .collect();
        Ok(Histogram { counts: counts? })
    }
}

/// Sends frames out of one interface.
pub struct Sender<'a> {
    program: &'a Xdp,
    frame: Vec<u8>,
    context: Vec<u8>,
}

impl Sender<'_> {
    /// Sends so many frames as fast as this CPU can.
    ///
    /// # Errors
    /// The kernel has no live frames (before 5.18), or the interface has no XDP program, without
    /// which drivers have no queues for them.
    pub fn send(&self, frames: u32) -> Result<()> {
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(&self.context),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        self.program.test_run(options).context("send live frames")?;
        Ok(())
    }
}

/// Keeps this thread, and what it starts, on one CPU.
///
/// # Errors
/// There is no such CPU.
pub fn pin_to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("name CPU {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("run on CPU {cpu}"))
}
