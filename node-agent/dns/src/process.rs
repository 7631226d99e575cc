//! The process that answers. It belongs to nobody: it ends when it is told to, and its names are in
//! a file, so that it answers after a start before anybody has told it anything.

use std::{
    ffi::OsString,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Notify,
};
use tokio_util::codec::Framed;

use crate::{
    Changes,
    counters::Counters,
    protocol::{self, Command, Hello, Response, Update},
    server::{Resolver, Sockets},
    upstream::{Servers, Upstream},
    view,
};

/// The first argument of a program that is to be this process.
pub const PROCESS_ARGUMENT: &str = "dns";

/// How often changes are written down at most.
const KEEP_PERIOD: Duration = Duration::from_millis(500);
/// How often an address that cannot be listened at is tried again.
const OPEN_PERIOD: Duration = Duration::from_secs(1);
const THREADS: usize = 2;

/// What the process is told when it starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Where the agent finds it.
    pub socket: PathBuf,
    /// Where it keeps its names.
    pub state: PathBuf,
    /// Where it answers.
    pub listen: Vec<Listen>,
    /// The node's own addresses: its processes may ask, too.
    pub node: Vec<IpAddr>,
    /// Who is asked for other names: these, or those that `resolv_conf` names.
    pub upstreams: Vec<SocketAddr>,
    /// A file in the form of resolv.conf(5).
    pub resolv_conf: PathBuf,
}

/// An address at which one VPC's names are answered for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Listen {
    /// Whose names.
    pub vpc: u32,
    /// UDP and TCP.
    pub address: SocketAddr,
}

/// Runs the process; `arguments` are those after [`PROCESS_ARGUMENT`]. Returns its exit code.
pub fn main(arguments: &[OsString]) -> u8 {
    match run(arguments) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "the DNS of this node cannot run");
            1
        }
    }
}

fn run(arguments: &[OsString]) -> io::Result<()> {
    let [config] = arguments else {
        return Err(io::Error::other("the one argument is a configuration"));
    };
    let config: Config = serde_json::from_slice(config.as_encoded_bytes())?;
    // Signals for the agent's process group are not meant for this one.
    if let Err(error) = nix::unistd::setsid() {
        tracing::debug!(%error, "leads a session already");
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()?
        .block_on(serve(config))
}

/// A program by its file, so that one that replaces it can be told from it.
pub(crate) fn program(path: &Path) -> io::Result<String> {
    let file = fs::metadata(path)?;
    Ok(format!("{}:{}", file.dev(), file.ino()))
}

/// A process at work.
struct Process {
    config: Config,
    resolver: Arc<Resolver>,
    /// All names, as they are kept.
    whole: Mutex<Changes>,
    changed: Notify,
    stopped: Notify,
}

async fn serve(config: Config) -> io::Result<()> {
    let counters = Arc::new(Counters::default());
    let servers = if config.upstreams.is_empty() {
        Servers::File(config.resolv_conf.clone())
    } else {
        Servers::Fixed(config.upstreams.clone())
    };
    let upstream = Upstream::new(servers, Arc::clone(&counters));
    let process = Arc::new(Process {
        resolver: Arc::new(Resolver::new(upstream, counters, config.node.clone())),
        whole: Mutex::default(),
        changed: Notify::new(),
        stopped: Notify::new(),
        config,
    });
    match protocol::kept(&process.config.state) {
        Ok(Some(changes)) => {
            if let Err(error) = process.take(changes) {
                tracing::error!(%error, "the names that were kept cannot be used");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "the names that were kept cannot be read"),
    }
    for listen in process.config.listen.clone() {
        tokio::spawn(answer(listen, Arc::clone(&process.resolver)));
    }
    let listener = bind(&process.config.socket)?;
    tracing::info!(listen = ?process.config.listen, "answering for names");
    tokio::select! {
        () = process.keep() => {}
        () = accept(listener, &process) => {}
        () = process.stopped.notified() => {}
    }
    tracing::info!("stopped");
    Ok(())
}

async fn answer(listen: Listen, resolver: Arc<Resolver>) {
    let mut is_told = false;
    let sockets = loop {
        match Sockets::open(listen.vpc, listen.address) {
            Ok(sockets) => break sockets,
            Err(error) => {
                if !is_told {
                    tracing::warn!(address = %listen.address, %error, "cannot listen; trying again");
                    is_told = true;
                }
                tokio::time::sleep(OPEN_PERIOD).await;
            }
        }
    };
    sockets.serve(resolver).await;
}

/// Binds the agent's way in, for its owner alone. One that another process left, or still has, makes
/// place for this.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _absent_now => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept(listener: UnixListener, process: &Arc<Process>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, Arc::clone(process)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept the agent");
                tokio::time::sleep(OPEN_PERIOD).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, process: Arc<Process>) {
    let mut frames = Framed::new(stream, protocol::codec());
    let program = program(Path::new("/proc/self/exe")).unwrap_or_default();
    let hello = Hello { program }.encode_to_vec();
    if frames.send(Bytes::from(hello)).await.is_err() {
        return;
    }
    while let Some(Ok(frame)) = frames.next().await {
        let (response, is_end) = match Command::decode(frame) {
            Ok(command) => {
                let is_end = command.stop;
                (process.obey(command).await, is_end)
            }
            Err(error) => (failed(error.to_string()), false),
        };
        // An error means that the agent is gone: it comes again when it likes.
        let _agent_gone = frames.send(Bytes::from(response.encode_to_vec())).await;
        if is_end {
            process.stopped.notify_one();
            // The agent takes the connection's end for the process'.
            return std::future::pending().await;
        }
    }
}

fn failed(error: String) -> Response {
    Response {
        error,
        ..Response::default()
    }
}

impl Process {
    async fn obey(&self, command: Command) -> Response {
        if let Some(update) = command.update
            && let Err(error) = self.update(update)
        {
            return failed(error.to_string());
        }
        let Some(asked) = command.view else {
            return Response::default();
        };
        match view::of(&self.resolver, &self.config, &asked).await {
            Ok(view) => Response {
                view: Bytes::from(view.to_string()),
                ..Response::default()
            },
            Err(error) => failed(error),
        }
    }

    fn update(&self, update: Update) -> Result<(), crate::Invalid> {
        self.take(update.into())?;
        self.changed.notify_one();
        Ok(())
    }

    fn take(&self, changes: Changes) -> Result<(), crate::Invalid> {
        let own = {
            let zones = &self.resolver.zones;
            let mut zones = zones.write().unwrap_or_else(PoisonError::into_inner);
            zones.apply(&changes)?;
            zones.cluster().map(|cluster| cluster.addresses.clone())
        };
        self.resolver.upstream.set_own(own.unwrap_or_default());
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.merge(changes);
        whole.forget_removed();
        Ok(())
    }

    /// Writes the names down whenever they have changed.
    async fn keep(&self) {
        loop {
            self.changed.notified().await;
            let whole = {
                let whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
                whole.clone()
            };
            let path = self.config.state.clone();
            let kept = tokio::task::spawn_blocking(move || protocol::keep(&path, whole)).await;
            if let Ok(Err(error)) = kept {
                tracing::error!(%error, "the names cannot be written down");
            }
            tokio::time::sleep(KEEP_PERIOD).await;
        }
    }
}
