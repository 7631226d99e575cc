//! Through the test network: Fairlead, and nftables DNAT with the same hosts, links and client.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use testbed::cluster::{Baseline, CLIENT, Cluster, Host, Spec, TestCluster};
use testbed::table::Table;
use testbed::traffic::{FloodReport, Report, SinkReport};
use testbed::{Deadline, Launch, Progress, Workspace};

/// How many requests each measurement of requests sends.
const REQUESTS: u64 = 20_000;

/// How many clients send them at once: enough to keep two cores busy.
const CLIENTS: u32 = 8;

/// How long datagrams are sent.
const FLOOD_S: u64 = 5;

/// The UDP port of the Service, and of the sinks in the pods.
const UDP_PORT: u16 = 9999;

/// What was measured of one way to reach the pods.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    /// Requests a second, each on a connection of its own.
    new_connections_per_s: f64,
    /// The median time of such a request, in microseconds.
    new_connection_us_p50: u64,
    /// The 99th percentile.
    new_connection_us_p99: u64,
    /// Requests a second on connections that stay open.
    kept_connections_per_s: f64,
    /// The median time of such a request, in microseconds.
    kept_connection_us_p50: u64,
    /// Datagrams a second that reached the pods.
    datagrams_per_s: f64,
    /// Whether the pods saw the client's own address.
    client_address_kept: bool,
}

/// Both, measured in one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    fairlead: Measured,
    nftables: Measured,
}

impl Comparison {
    /// The comparison for people.
    pub(crate) fn table(&self) -> Table {
        let (ours, theirs) = (&self.fairlead, &self.nftables);
        let row = |what: &str, ours: f64, theirs: f64| {
            vec![
                what.to_owned(),
                format!("{ours:.0}"),
                format!("{theirs:.0}"),
                format!("{:.2}", ours / theirs.max(f64::MIN_POSITIVE)),
            ]
        };
        let yes_no = |kept: bool| if kept { "yes" } else { "no" }.to_owned();
        let mut table = Table::new(
            "Through the test network",
            ["", "Fairlead", "nftables DNAT", "ratio"],
        );
        for cells in [
            row(
                "requests/s, new connections",
                ours.new_connections_per_s,
                theirs.new_connections_per_s,
            ),
            row(
                "  median, us",
                ours.new_connection_us_p50 as f64,
                theirs.new_connection_us_p50 as f64,
            ),
            row(
                "  99th percentile, us",
                ours.new_connection_us_p99 as f64,
                theirs.new_connection_us_p99 as f64,
            ),
            row(
                "requests/s, kept connections",
                ours.kept_connections_per_s,
                theirs.kept_connections_per_s,
            ),
            row(
                "  median, us",
                ours.kept_connection_us_p50 as f64,
                theirs.kept_connection_us_p50 as f64,
            ),
            row(
                "UDP datagrams/s at the pods",
                ours.datagrams_per_s,
                theirs.datagrams_per_s,
            ),
            vec![
                "client's address kept".to_owned(),
                yes_no(ours.client_address_kept),
                yes_no(theirs.client_address_kept),
                String::new(),
            ],
        ] {
            table.add(cells);
        }
        table
    }
}

/// Measures both, one after the other, with three pods on three nodes each.
///
/// # Errors
/// A cluster does not come up, or requests fail.
pub(crate) fn compare(workspace: &Workspace, progress: &Progress) -> Result<Comparison> {
    let traffic = workspace.binary("traffic")?;
    progress.step("measure: nftables DNAT through the test network");
    let nftables = {
        let baseline = Baseline::up("bench-nft", workspace, UDP_PORT)?;
        let sinks = baseline
            .pods()
            .iter()
            .map(|pod| Sink::start(Launch::new(&traffic).netns(pod.file()?)))
            .collect::<Result<Vec<_>>>()?;
        let client = || baseline.launch(Host::Client, &traffic);
        measure(&client, baseline.vip(), baseline.vip(), sinks)?
    };

    progress.step("measure: Fairlead through the test network");
    let cluster = TestCluster::up_in(workspace, Spec::named("bench-xdp"))?;
    let published = cluster.apply_hello(&Progress::quiet())?;
    let udp_vip = datagram_service(&cluster, published.pods)?;
    let sinks = cluster
        .pods_of("hello", "app=hello")?
        .iter()
        .map(|pod| {
            let process = cluster.pod_process(pod, Deadline::seconds(10))?;
            Sink::start(cluster.launch_in_pod(&process, &traffic)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let client = || cluster.launch(Host::Client, &traffic);
    let fairlead = measure(&client, &published.vip, &udp_vip, sinks)?;
    Ok(Comparison { fairlead, nftables })
}

/// A second Service of the same pods, for datagrams; answers its virtual address.
fn datagram_service(cluster: &Cluster, pods: u64) -> Result<String> {
    let manifest = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: datagrams, namespace: hello}}, spec: \
         {{type: LoadBalancer, selector: {{app: hello}}, ports: [{{port: {UDP_PORT}, protocol: \
         UDP}}]}}}}"
    );
    let kubectl = cluster.kubectl()?;
    let applied = kubectl.run_with("apply -f -", &manifest)?;
    ensure!(applied.success, "kubectl apply: {}", applied.stderr.trim());
    let deadline = Deadline::seconds(30);
    cluster.wait_for(deadline, "virtual address for datagrams", || {
        let service = kubectl.json("get service datagrams -n hello -o json")?;
        let Some(vip) = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str() else {
            return Ok(None);
        };
        let everywhere = cluster.nodes_without(vip, pods)?.is_empty();
        Ok(everywhere.then(|| vip.to_owned()))
    })
}

/// Sends everything to the virtual addresses and counts.
fn measure(
    client: &dyn Fn() -> Result<Launch>,
    vip: &str,
    udp_vip: &str,
    sinks: Vec<Sink>,
) -> Result<Measured> {
    let target = format!("{vip}:80");
    let (requests, clients) = (REQUESTS.to_string(), CLIENTS.to_string());
    let http = |extra: &[&str]| -> Result<Report> {
        let options = [
            "http",
            &target,
            "--requests",
            &requests,
            "--clients",
            &clients,
        ];
        let report: Report = run(client()?.arguments(options).arguments(extra))?;
        ensure!(
            report.failed == 0,
            "{} of {REQUESTS} requests to {target} failed: {:?}",
            report.failed,
            report.errors
        );
        Ok(report)
    };
    let new = http(&[])?;
    let kept = http(&["--keep-alive"])?;
    let (udp_target, seconds) = (format!("{udp_vip}:{UDP_PORT}"), FLOOD_S.to_string());
    let _: FloodReport =
        run(client()?.arguments(["udp-flood", &udp_target, "--seconds", &seconds]))?;
    let received = sinks.into_iter().map(Sink::finish).sum::<Result<u64>>()?;
    let own_address = CLIENT.to_string();
    Ok(Measured {
        new_connections_per_s: new.per_second(),
        new_connection_us_p50: new.latency_us_p50,
        new_connection_us_p99: new.latency_us_p99,
        kept_connections_per_s: kept.per_second(),
        kept_connection_us_p50: kept.latency_us_p50,
        datagrams_per_s: received as f64 / FLOOD_S as f64,
        client_address_kept: new
            .answers
            .iter()
            .all(|answer| answer.client == own_address),
    })
}

fn run<T: DeserializeOwned>(launch: Launch) -> Result<T> {
    let done = launch.command()?.output().context("run traffic")?;
    ensure!(
        done.status.success(),
        "traffic: {}",
        String::from_utf8_lossy(&done.stderr).trim()
    );
    serde_json::from_slice(&done.stdout).context("understand the traffic report")
}

/// A process in a pod that counts datagrams.
struct Sink {
    process: Child,
}

impl Sink {
    /// Starts counting; returns when the port is open.
    fn start(launch: Launch) -> Result<Self> {
        let address = format!("0.0.0.0:{UDP_PORT}");
        let mut process = launch
            .arguments(["udp-sink", &address])
            .command()?
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start a sink for datagrams")?;
        let errors = process.stderr.take().expect("it is a pipe");
        let mut line = String::new();
        BufReader::new(errors)
            .read_line(&mut line)
            .context("wait for a sink")?;
        ensure!(line.trim() == "ready", "a sink did not start: {line}");
        Ok(Self { process })
    }

    /// The number of datagrams it received.
    fn finish(self) -> Result<u64> {
        let done = self
            .process
            .wait_with_output()
            .context("wait for a sink to end")?;
        let report: SinkReport =
            serde_json::from_slice(&done.stdout).context("understand a sink's report")?;
        Ok(report.received)
    }
}
