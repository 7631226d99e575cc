//! Running the probes of a pod's containers and keeping their verdicts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::pod::{ProbeCounter, ProbeFailure, ProbeKind, Verdict};
use crate::runtime::Runtime;

/// Enough of an HTTP answer to see its status.
const STATUS_LINE_BYTES_MAX: usize = 4096;

/// Called with the kind of a probe and why it failed, each time it does.
pub(crate) type OnFailure = Arc<dyn Fn(ProbeKind, &str) + Send + Sync>;

/// The probes of one pod: a task for each running container that has any.
pub(crate) struct Probes {
    uid: String,
    runtime: Arc<dyn Runtime>,
    board: Arc<Board>,
    tasks: BTreeMap<String, JoinHandle<()>>,
    on_failure: OnFailure,
}

/// Verdicts by container id.
struct Board {
    verdicts: Mutex<BTreeMap<String, Verdict>>,
    changed: watch::Sender<()>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Verdict>> {
        // Each change is one insertion: a panic elsewhere leaves no half of one.
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, id: &str, change: impl FnOnce(&mut Verdict)) {
        let mut verdicts = self.lock();
        let Some(verdict) = verdicts.get_mut(id) else {
            return;
        };
        let before = verdict.clone();
        change(verdict);
        if *verdict != before {
            self.changed.send_replace(());
        }
    }
}

/// A running container, as its probes see it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) uid: String,
    pub(crate) id: String,
    pub(crate) container: Container,
    pub(crate) address: IpAddr,
    pub(crate) started_at: Timestamp,
}

impl Probes {
    pub(crate) fn new(uid: &str, runtime: Arc<dyn Runtime>, on_failure: OnFailure) -> Self {
        Self {
            uid: uid.to_owned(),
            runtime,
            board: Arc::new(Board {
                verdicts: Mutex::new(BTreeMap::new()),
                changed: watch::Sender::new(()),
            }),
            tasks: BTreeMap::new(),
            on_failure,
        }
    }

    /// Changes whenever a verdict does.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.board.changed.subscribe()
    }

    /// All verdicts.
    pub(crate) fn verdicts(&self) -> BTreeMap<String, Verdict> {
        self.board.lock().clone()
    }

    /// Begins to probe a running container, if it has probes and is not probed yet. `known` is
    /// what was said of this very run before the agent was restarted.
    pub(crate) fn begin(
        &mut self,
        id: &str,
        container: &Container,
        address: IpAddr,
        started_at: Timestamp,
        known: Option<(bool, bool)>,
    ) {
        let has_probes = container.startup_probe.is_some()
            || container.liveness_probe.is_some()
            || container.readiness_probe.is_some();
        if !has_probes || self.tasks.contains_key(id) {
            return;
        }
        let (started, ready) = known.unwrap_or((
            container.startup_probe.is_none(),
            container.readiness_probe.is_none(),
        ));
        let verdict = Verdict {
            started,
            ready,
            failed: None,
        };
        self.board.lock().insert(id.to_owned(), verdict);
        let target = Target {
            uid: self.uid.clone(),
            id: id.to_owned(),
            container: container.clone(),
            address,
            started_at,
        };
        let (runtime, board) = (Arc::clone(&self.runtime), Arc::clone(&self.board));
        let on_failure = Arc::clone(&self.on_failure);
        let task = tokio::spawn(async move {
            let run = |kind, probe| run(kind, probe, &target, &*runtime, &board, &on_failure);
            if let (Some(probe), false) = (&target.container.startup_probe, started) {
                run(ProbeKind::Startup, probe).await;
            }
            let liveness = async {
                if let Some(probe) = &target.container.liveness_probe {
                    run(ProbeKind::Liveness, probe).await;
                }
            };
            let readiness = async {
                if let Some(probe) = &target.container.readiness_probe {
                    run(ProbeKind::Readiness, probe).await;
                }
            };
            tokio::join!(liveness, readiness);
        });
        self.tasks.insert(id.to_owned(), task);
    }

    /// Stops probing every container but these.
    pub(crate) fn keep(&mut self, running: &[&str]) {
        self.tasks.retain(|id, task| {
            let keep = running.contains(&id.as_str());
            if !keep {
                task.abort();
                self.board.lock().remove(id);
            }
            keep
        });
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

/// Probes until the container is to be ended, or, for a startup probe, until it has started.
async fn run(
    kind: ProbeKind,
    probe: &Probe,
    target: &Target,
    runtime: &dyn Runtime,
    board: &Board,
    on_failure: &OnFailure,
) {
    let seconds = |value: Option<i32>, default: u64| {
        let value = value
            .and_then(|value| u64::try_from(value).ok())
            .filter(|v| *v > 0);
        Duration::from_secs(value.unwrap_or(default))
    };
    let timeout = seconds(probe.timeout_seconds, 1);
    let mut counter = ProbeCounter::new(probe);
    let first = target.started_at + seconds(probe.initial_delay_seconds, 0);
    let until_first = Timestamp::now()
        .until(first)
        .ok()
        .and_then(|d| d.try_into().ok());
    tokio::time::sleep(until_first.unwrap_or(Duration::ZERO)).await;
    let mut ticks = tokio::time::interval(seconds(probe.period_seconds, 10));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = match tokio::time::timeout(timeout, ask(probe, target, runtime, timeout)).await
        {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {}s", timeout.as_secs())),
        };
        if let Err(message) = &answer {
            on_failure(kind, message);
        }
        match (kind, counter.observe(answer.is_ok())) {
            (_, None) | (ProbeKind::Liveness, Some(true)) => {}
            (ProbeKind::Readiness, Some(ready)) => {
                board.update(&target.id, |verdict| verdict.ready = ready);
            }
            (ProbeKind::Startup, Some(true)) => {
                board.update(&target.id, |verdict| verdict.started = true);
                return;
            }
            (ProbeKind::Startup | ProbeKind::Liveness, Some(false)) => {
                let grace_s = probe.termination_grace_period_seconds;
                board.update(&target.id, |verdict| {
                    verdict.failed = Some(ProbeFailure { kind, grace_s });
                });
                return;
            }
        }
    }
}

/// Asks once.
pub(crate) async fn ask(
    probe: &Probe,
    target: &Target,
    runtime: &dyn Runtime,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(http) = &probe.http_get {
        return ask_http(http, target).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let address = address(tcp.host.as_deref(), &tcp.port, target)?;
        return match TcpStream::connect(address).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("dial tcp {address}: {error}")),
        };
    }
    if let Some(exec) = &probe.exec {
        let argv = exec.command.clone().unwrap_or_default();
        let timeout_ms = timeout.as_millis() as u64;
        let executed = runtime
            .exec(&target.uid, &target.id, &argv, timeout_ms)
            .await
            .map_err(|error| error.to_string())?;
        return match executed.code {
            0 => Ok(()),
            code => Err(format!("exit code {code}: {}", executed.output.trim())),
        };
    }
    Err("this kind of probe is not offered by the node".to_owned())
}

/// GET, by HTTP/1.1; a status from 200 to 399 is success (kubelet's prober).
async fn ask_http(http: &HTTPGetAction, target: &Target) -> Result<(), String> {
    if http
        .scheme
        .as_deref()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
    {
        return Err("HTTPS probes are not offered by the node".to_owned());
    }
    let address = address(http.host.as_deref(), &http.port, target)?;
    let path = http
        .path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = format!("http://{address}{slash}{path}");
    let fail = |error: std::io::Error| format!("Get {url:?}: {error}");
    let mut request = format!("GET {slash}{path} HTTP/1.1\r\nconnection: close\r\n");
    let headers = http.http_headers.iter().flatten();
    let mut has = (false, false);
    for header in headers {
        has.0 |= header.name.eq_ignore_ascii_case("host");
        has.1 |= header.name.eq_ignore_ascii_case("user-agent");
        request.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    if !has.0 {
        request.push_str(&format!("host: {address}\r\n"));
    }
    if !has.1 {
        request.push_str("user-agent: kube-probe/fairlead\r\n");
    }
    request.push_str("\r\n");
    let mut stream = TcpStream::connect(address).await.map_err(fail)?;
    stream.write_all(request.as_bytes()).await.map_err(fail)?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < STATUS_LINE_BYTES_MAX {
        if stream.read_buf(&mut answer).await.map_err(fail)? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.trim().parse::<u16>().ok())
        .ok_or_else(|| format!("Get {url:?}: malformed HTTP response"))?;
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

/// Where to dial: the pod, unless the probe names another host; ports may be named.
fn address(host: Option<&str>, port: &IntOrString, target: &Target) -> Result<SocketAddr, String> {
    let ip = match host.filter(|host| !host.is_empty()) {
        None => target.address,
        Some(host) => host
            .parse()
            .map_err(|_| format!("probe host {host:?} is not an address"))?,
    };
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => target
            .container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    let port = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("probe port {port:?} is neither a number nor a port's name"))?;
    Ok(SocketAddr::new(ip, port))
}
