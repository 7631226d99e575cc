//! How long the agent's dataplane takes to program its maps, and the memory it needs: the real maps,
//! on a node of its own in a network namespace.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use fairlead_api::{Generation, NodeName};
use fairlead_dataplane::{Changes, Config, Dataplane, FlowLimits};
use fairlead_proto::node::{
    Backend, BackendState, DataplaneState, Frontend, FrontendScope, NodeAddress, Parameters,
    Protocol, Route, RouteKey, Service,
};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;
use testbed::{NetNs, Progress};

use crate::maglev_quality::{self, Quality, Weighted};
use crate::timing::Times;
use testbed::table::Table;

const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 10;
/// Nodes that the backends are spread over, this one included.
const NODES: u32 = 100;

/// Times a first state is programmed.
const FIRST_TRIALS: usize = 5;

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct Tables {
    /// A table of 65537 slots for 100 backends.
    maglev_build: Times,
    maglev_quality: Vec<Quality>,
    maglev_weighted: Vec<Weighted>,
    services: u32,
    backends_per_service: u32,
    /// From empty maps to all services in force.
    from_nothing: Times,
    /// The same in time of the CPU: what a machine that does nothing else would take at most.
    from_nothing_cpu: Times,
    /// From one endpoint's change to it in force, nothing else being under way.
    one_change: Times,
    /// From such a change to the traces of the state before being gone: at the soonest a grace
    /// period of the kernel, by when the next change can begin.
    change_and_clearing_away: Times,
    /// The whole state again, as after a new session with the control plane.
    same_state_again: Times,
    /// Reading the maps back and comparing them with what they should hold.
    resync: Times,
    /// Resident memory of the process before, in MiB.
    rss_before_mib: f64,
    /// With all services programmed, without the message that brought them.
    rss_mib: f64,
}

/// Measures, with so many trials of what is short.
pub(crate) fn measure(trials: usize, progress: &Progress) -> Result<Tables> {
    progress.step("measure: Maglev tables");
    let maglev_build = maglev_quality::build_time(trials);
    let maglev_quality = maglev_quality::measure();
    let node = Node::new()?;
    let rss_before_mib = rss_mib()?;
    let mut first = Vec::new();
    let mut first_cpu = Vec::new();
    let mut last = None;
    for trial in 1..=FIRST_TRIALS {
        let is_last = trial == FIRST_TRIALS;
        progress.state(format!(
            "measure: {SERVICES} services, {trial} of {FIRST_TRIALS}"
        ));
        let ((time, cpu_time), rest) = node.live(async |config| {
            let dataplane = Dataplane::open(config).await?;
            let whole = Arc::new(Changes::whole(state()));
            let (begun, cpu_begun) = (Instant::now(), cpu_time()?);
            dataplane.apply(whole, Generation(1)).await?;
            let time = (begun.elapsed(), cpu_time()?.saturating_sub(cpu_begun));
            let rest = if is_last {
                Some(measure_filled(&dataplane, trials).await?)
            } else {
                None
            };
            Ok((time, rest))
        })?;
        node.clear()?;
        first.push(time);
        first_cpu.push(cpu_time);
        last = rest.or(last);
    }
    let filled = last.context("the last trial measures the rest")?;
    Ok(Tables {
        maglev_build,
        maglev_quality,
        maglev_weighted: maglev_quality::weighted(),
        services: SERVICES,
        backends_per_service: BACKENDS,
        from_nothing: first.into(),
        from_nothing_cpu: first_cpu.into(),
        one_change: filled.one_change.into(),
        change_and_clearing_away: filled.change_and_clearing_away.into(),
        same_state_again: filled.same_state_again.into(),
        resync: filled.resync.into(),
        rss_before_mib,
        rss_mib: filled.rss_mib,
    })
}

/// What is measured with all services programmed.
#[derive(Default)]
struct Filled {
    rss_mib: f64,
    one_change: Vec<Duration>,
    change_and_clearing_away: Vec<Duration>,
    same_state_again: Vec<Duration>,
    resync: Vec<Duration>,
}

async fn measure_filled(dataplane: &Dataplane, trials: usize) -> Result<Filled> {
    dataplane.settle().await?;
    let mut filled = Filled {
        rss_mib: rss_mib()?,
        ..Filled::default()
    };
    let mut generation = 1;
    for trial in 0..trials as u32 {
        let mut service = service(1 + trial * 97 % SERVICES);
        service.backends.pop();
        for changed in [service.clone(), self::service(service.id)] {
            let changes = Changes {
                services: [(changed.id, Some(changed))].into(),
                ..Changes::default()
            };
            let changes = Arc::new(changes);
            generation += 1;
            let begun = Instant::now();
            let applied = dataplane.apply(changes, Generation(generation)).await?;
            filled.one_change.push(begun.elapsed());
            dataplane.settle().await?;
            filled.change_and_clearing_away.push(begun.elapsed());
            ensure!(
                (1..20).contains(&applied.actions),
                "one change took {} actions",
                applied.actions
            );
        }
    }
    for _ in 0..FIRST_TRIALS {
        let whole = Arc::new(Changes::whole(state()));
        generation += 1;
        let begun = Instant::now();
        let applied = dataplane.apply(whole, Generation(generation)).await?;
        filled.same_state_again.push(begun.elapsed());
        ensure!(applied.actions == 0, "the maps did not hold the state");
        let begun = Instant::now();
        ensure!(dataplane.resync().await? == 0, "the maps were not in sync");
        filled.resync.push(begun.elapsed());
    }
    Ok(filled)
}

/// A node in a network namespace, with its bpffs directory and cgroup. Gone with the value.
struct Node {
    host: NetNs,
    config: Config,
    _files: tempfile::TempDir,
}

impl Node {
    fn new() -> Result<Self> {
        let name = format!("fairlead-bench-tables-{}", std::process::id());
        testbed::mounts::ensure_bpffs()?;
        let cgroups = testbed::cgroup::Hierarchies::mounted()?;
        let files = tempfile::tempdir().context("make a directory for the node's files")?;
        let config = Config {
            node_name: NodeName::new("node-1"),
            address: address(1).into(),
            other_address: None,
            uplinks: vec!["eth0".to_owned()],
            bpffs: PathBuf::from("/sys/fs/bpf").join(&name),
            cgroup: cgroups.unified.join(&name),
            state_dir: files.path().join("state"),
            flow_limits: FlowLimits::default(),
        };
        fs::create_dir(&config.cgroup)
            .with_context(|| format!("make {}", config.cgroup.display()))?;
        let host = NetNs::unique("bench-tables")?;
        host.ip("link add eth0 type veth peer name eth1")?;
        host.ip(&format!("address add {}/16 dev eth0", address(1)))?;
        for link in ["eth0", "eth1"] {
            host.ip(&format!("link set {link} up"))?;
        }
        Ok(Self {
            host,
            config,
            _files: files,
        })
    }

    /// Runs `work` in the node's namespace, on a runtime of its own: one life of the agent.
    fn live<T: Send, F: Future<Output = Result<T>>>(
        &self,
        work: impl FnOnce(Config) -> F + Send,
    ) -> Result<T> {
        let config = self.config.clone();
        let life = self.host.run(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .context("make a runtime")?;
            runtime.block_on(work(config))
        });
        life.map_err(|error| anyhow!(error))?
    }

    /// Removes all maps.
    fn clear(&self) -> Result<()> {
        self.live(async |config| Ok(Dataplane::destroy(&config).await?))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("remove the node's maps: {error:#}");
        }
        if let Err(error) = fs::remove_dir(&self.config.cgroup) {
            eprintln!("remove {}: {error}", self.config.cgroup.display());
        }
    }
}

fn state() -> DataplaneState {
    DataplaneState {
        parameters: Some(Parameters {
            hash_seed: (0..16).collect(),
            cluster_cidrs: vec!["10.128.0.0/9".to_owned()],
            vxlan_port: 4789,
            dns: None,
        }),
        services: (1..=SERVICES).map(service).collect(),
        nodes: (1..=NODES)
            .map(|id| NodeAddress {
                name: format!("node-{id}"),
                id,
                address: address(id).octets().to_vec().into(),
                ..NodeAddress::default()
            })
            .collect(),
        routes: (1..=NODES)
            .map(|id| Route {
                key: Some(RouteKey {
                    vpc: 0,
                    prefix: format!("10.128.{id}.0/24"),
                }),
                node: format!("node-{id}"),
            })
            .collect(),
        ..DataplaneState::default()
    }
}

/// A service with a VIP and a ClusterIP.
fn service(id: u32) -> Service {
    let [_, _, high, low] = id.to_be_bytes();
    let frontend = |address: [u8; 4], scope: FrontendScope| Frontend {
        address: address.to_vec().into(),
        port: 80,
        scope: scope.into(),
        prefix_length: 0,
    };
    let backend = |index: u32| {
        let number = (id - 1) * BACKENDS + index;
        Backend {
            id: number + 1,
            address: (u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number)
                .to_be_bytes()
                .to_vec()
                .into(),
            port: 8080,
            node: format!("node-{}", number % NODES + 1),
            weight: 1,
            state: BackendState::Active.into(),
            name: format!("pod-{number}"),
        }
    };
    Service {
        id,
        namespace: "bench".to_owned(),
        name: format!("service-{id}"),
        port_name: "http".to_owned(),
        protocol: Protocol::Tcp.into(),
        vpc: 0,
        frontends: vec![
            frontend([10, 96, high, low], FrontendScope::Cluster),
            frontend([198, 19, high, low], FrontendScope::External),
        ],
        backends: (0..BACKENDS).map(backend).collect(),
        scheduler: "maglev".to_owned(),
        forwarding: "auto".to_owned(),
        ..Service::default()
    }
}

fn address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 100)) + node)
}

/// What this process has had of the CPUs so far.
fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("ask for the time of the CPU")?;
    let used = usage.user_time() + usage.system_time();
    let micros = u64::try_from(used.num_microseconds()).context("time goes forward")?;
    Ok(Duration::from_micros(micros))
}

fn rss_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .context("/proc/self/status has no VmRSS")?;
    Ok(kib / 1024.0)
}

/// All tables.
pub(crate) fn tables(measured: &Tables) -> [Table; 4] {
    let filled = format!("{} x {}", measured.services, measured.backends_per_service);
    let mut times = Table::new(
        "Tables, in milliseconds",
        ["what", "trials", "min", "median", "max", "aim"],
    );
    for (what, taken, aim) in [
        (
            "Maglev, 65537 slots, 100 backends".to_owned(),
            measured.maglev_build,
            "2",
        ),
        (
            format!("{filled}, from nothing"),
            measured.from_nothing,
            "2,000",
        ),
        ("… of the CPU".to_owned(), measured.from_nothing_cpu, ""),
        ("one endpoint's change".to_owned(), measured.one_change, "5"),
        (
            "… and until the state before is gone".to_owned(),
            measured.change_and_clearing_away,
            "",
        ),
        (
            format!("{filled}, the same again"),
            measured.same_state_again,
            "",
        ),
        ("resync with the maps".to_owned(), measured.resync, ""),
    ] {
        let ms = |ms: f64| format!("{ms:.2}");
        times.add([
            what,
            taken.trials.to_string(),
            ms(taken.min_ms),
            ms(taken.median_ms),
            ms(taken.max_ms),
            aim.to_owned(),
        ]);
    }
    let mut memory = Table::new("The agent's memory, resident, in MiB", ["state", "MiB"]);
    for (state, mib) in [
        ("none", measured.rss_before_mib),
        (&filled, measured.rss_mib),
    ] {
        memory.add([state.to_owned(), format!("{mib:.0}")]);
    }
    [
        times,
        memory,
        maglev_quality::table(&measured.maglev_quality),
        maglev_quality::weighted_table(&measured.maglev_weighted),
    ]
}
