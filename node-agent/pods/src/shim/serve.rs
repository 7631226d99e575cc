//! The shim itself: one thread, one `poll`, everything it waits for in it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{chdir, dup2_stdout, pipe2, sethostname, setsid};

use super::client::Client;
use super::container::Container;
use super::execution::Execution;
use super::identity::Identity;
use super::protocol::{
    CONTAINERS_DIR, ContainerRecord, EXIT_FILE, Exit, IDENTITY_FILE, READY, RECORD_FILE, Request,
    Response, SANDBOX_FILE, SOCKET, Sandbox,
};
use super::rootfs;
use crate::files::{remove_tree_if_any, write_atomically};
use crate::sys;

/// How long a shutdown waits for killed containers before it ends regardless.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// Serves the pod of `pod_dir` until it is told to shut down.
pub(super) fn run(pod_dir: &Path) -> Result<(), String> {
    let fail = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what}: {error}");
    let sandbox: Sandbox = fs::read(pod_dir.join(SANDBOX_FILE))
        .map_err(|error| fail("read the sandbox", &error))
        .and_then(|bytes| {
            serde_json::from_slice(&bytes).map_err(|error| fail("understand the sandbox", &error))
        })?;
    detach().map_err(|error| fail("leave the agent's session", &error))?;
    isolate(&sandbox).map_err(|error| fail("make the pod's namespaces", &error))?;
    sandbox.tmpfs.iter().try_for_each(rootfs::mount_tmpfs)?;
    let containers = ended_containers(pod_dir).map_err(|error| fail("read past exits", &error))?;
    let listener = listen(pod_dir).map_err(|error| fail("listen", &error))?;
    let identity = Identity::of(std::process::id() as i32)
        .ok_or_else(|| "cannot read this process' start time".to_owned())?;
    write_atomically(&pod_dir.join(IDENTITY_FILE), identity.0.as_bytes())
        .map_err(|error| fail("write the shim's identity", &error))?;
    announce().map_err(|error| fail("say that the shim is ready", &error))?;
    Shim {
        pod_dir: pod_dir.to_owned(),
        sandbox,
        containers,
        listener,
        clients: Vec::new(),
        executions: Vec::new(),
        next_client: 0,
        shutdown: None,
    }
    .serve()
    .map_err(|error| fail("wait for events", &error))
}

fn detach() -> nix::Result<()> {
    // Fails only for a process that leads its group already, which is as good.
    let _ = setsid();
    set_child_subreaper(true)?;
    // Whatever ends the agent must not end the pods. The mask is not inherited: the standard
    // library clears it in the children it spawns.
    let mut ignored = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        ignored.add(signal);
    }
    ignored.thread_block()
}

fn isolate(sandbox: &Sandbox) -> nix::Result<()> {
    let mut namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    if !sandbox.host_ipc {
        namespaces |= CloneFlags::CLONE_NEWIPC;
    }
    unshare(namespaces)?;
    // Mounts made here stay here; those made outside later still arrive, where `/` is shared.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_SLAVE | MsFlags::MS_REC,
        None::<&str>,
    )?;
    sethostname(&sandbox.hostname)
}

/// Containers of an earlier shim of this pod, which the agent has seen to have ended.
fn ended_containers(pod_dir: &Path) -> io::Result<Vec<Container>> {
    let mut containers = Vec::new();
    let dir = pod_dir.join(CONTAINERS_DIR);
    fs::create_dir_all(&dir)?;
    for entry in fs::read_dir(dir)? {
        let dir = entry?.path();
        let record = fs::read(dir.join(RECORD_FILE)).ok();
        let exit = fs::read(dir.join(EXIT_FILE)).ok();
        if let (Some(record), Some(exit)) = (record, exit) {
            let record: ContainerRecord = serde_json::from_slice(&record)?;
            let exit: Exit = serde_json::from_slice(&exit)?;
            containers.push(Container::ended(record, exit, dir));
        }
    }
    Ok(containers)
}

fn listen(pod_dir: &Path) -> io::Result<UnixListener> {
    // A socket's address holds 107 bytes at most; a relative one always fits.
    chdir(pod_dir)?;
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(SOCKET)?;
    listener.set_nonblocking(true)?;
    chdir("/")?;
    Ok(listener)
}

/// Tells the agent that the socket accepts, then lets go of the pipe it was told by.
fn announce() -> io::Result<()> {
    println!("{READY}");
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    dup2_stdout(&null)?;
    Ok(())
}

struct Shim {
    pod_dir: PathBuf,
    sandbox: Sandbox,
    containers: Vec<Container>,
    listener: UnixListener,
    clients: Vec<Client>,
    executions: Vec<Execution>,
    next_client: u64,
    /// The client that asked for it, and when it is done regardless.
    shutdown: Option<(u64, Instant)>,
}

/// What a descriptor in the poll set belongs to, by index.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Client(usize),
    Process(usize),
    Output(usize, usize),
    Execution(usize),
    ExecutionOutput(usize),
}

impl Shim {
    fn serve(mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            let mut changed = false;
            // Later indices first: handling an event may remove its entry.
            for source in ready.into_iter().rev() {
                changed |= self.handle(source);
            }
            let now = Instant::now();
            for container in &mut self.containers {
                changed |= container.tick(now, &self.sandbox);
            }
            if changed {
                self.publish();
            }
            if self.shutdown_is_over(now) {
                return Ok(());
            }
            self.clients.iter_mut().for_each(Client::flush);
            self.clients.retain(|client| !client.gone);
        }
    }

    /// Sleeps until something happens and says what, in the order of the poll set.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Listener];
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::new(fd, flags));
        };
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::POLLIN;
            if client.is_behind() {
                flags |= PollFlags::POLLOUT;
            }
            add(Source::Client(index), client.stream(), flags);
        }
        for (index, container) in self.containers.iter().enumerate() {
            if let Some(fd) = container.waited() {
                add(Source::Process(index), fd, PollFlags::POLLIN);
            }
            for (pipe, output) in container.outputs.iter().enumerate() {
                add(
                    Source::Output(index, pipe),
                    output.pipe.as_fd(),
                    PollFlags::POLLIN,
                );
            }
        }
        for (index, execution) in self.executions.iter().enumerate() {
            add(
                Source::Execution(index),
                execution.ended.as_fd(),
                PollFlags::POLLIN,
            );
            if let Some(pipe) = &execution.pipe {
                add(
                    Source::ExecutionOutput(index),
                    pipe.as_fd(),
                    PollFlags::POLLIN,
                );
            }
        }
        let deadline = self
            .containers
            .iter()
            .filter_map(Container::deadline)
            .chain(self.shutdown.map(|(_, deadline)| deadline))
            .min();
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, or the last millisecond would be spun away.
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        Ok(sources
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| fd.any().unwrap_or(true))
            .map(|(source, _)| source)
            .collect())
    }

    /// Handles one event; says whether a container's state changed.
    fn handle(&mut self, source: Source) -> bool {
        match source {
            Source::Listener => {
                self.accept();
                false
            }
            Source::Client(index) => {
                let (client, requests) = {
                    let client = &mut self.clients[index];
                    (client.id, client.receive())
                };
                requests.into_iter().fold(false, |changed, request| {
                    self.answer(client, request) | changed
                })
            }
            Source::Process(index) => self.containers[index].process_ended(&self.sandbox),
            Source::Output(index, pipe) => self.containers[index].read_output(pipe, &self.sandbox),
            Source::ExecutionOutput(index) => {
                if let Some(execution) = self.executions.get_mut(index) {
                    execution.read();
                }
                false
            }
            Source::Execution(index) => {
                let mut execution = self.executions.remove(index);
                let client = execution.client;
                self.reply(client, &Response::Executed(execution.finish()));
                false
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.next_client += 1;
            self.clients.push(Client::new(self.next_client, stream));
        }
    }

    fn answer(&mut self, client: u64, request: Result<Request, String>) -> bool {
        let request = match request {
            Ok(request) => request,
            Err(message) => {
                self.reply(client, &Response::Failed(message));
                return false;
            }
        };
        let (result, changed) = match request {
            Request::Start { record } => (self.start(record), true),
            Request::Stop { id, grace_ms } => (
                self.container(&id).map(|container| {
                    container.stop(Duration::from_millis(grace_ms));
                }),
                false,
            ),
            Request::Remove { id } => (self.remove(&id), true),
            Request::ReopenLog { id } => (
                self.container(&id).and_then(|container| {
                    container
                        .reopen_log()
                        .map_err(|error| format!("cannot open the log: {error}"))
                }),
                false,
            ),
            Request::Exec {
                id,
                argv,
                timeout_ms,
            } => {
                match self.execute(client, &id, &argv, timeout_ms) {
                    // Answered when the command has ended.
                    Ok(()) => return false,
                    Err(message) => (Err(message), false),
                }
            }
            Request::Watch => {
                if let Some(client) = self.clients.iter_mut().find(|entry| entry.id == client) {
                    client.watches = true;
                }
                let state = self.state();
                self.reply(client, &state);
                return false;
            }
            Request::Shutdown => {
                self.shutdown = Some((client, Instant::now() + SHUTDOWN_MAX));
                for container in &mut self.containers {
                    container.kill(&self.sandbox);
                }
                return false;
            }
        };
        let response = result.map_or_else(Response::Failed, |()| Response::Done);
        self.reply(client, &response);
        changed
    }

    fn start(&mut self, record: ContainerRecord) -> Result<(), String> {
        if self.shutdown.is_some() {
            return Err("the pod is shutting down".to_owned());
        }
        // Asked twice, for instance by an agent that did not live to hear the answer.
        if self
            .containers
            .iter()
            .any(|container| container.state.record.id == record.id)
        {
            return Ok(());
        }
        self.containers
            .push(Container::create(&self.sandbox, &self.pod_dir, record));
        Ok(())
    }

    fn remove(&mut self, id: &str) -> Result<(), String> {
        let container = self.container(id)?;
        if !container.has_ended() {
            return Err(format!("container {id} has not ended"));
        }
        let record = &container.state.record;
        record
            .remove_files()
            .map_err(|error| format!("cannot remove the files of {id}: {error}"))?;
        let dir = container.dir();
        remove_tree_if_any(dir)
            .map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
        self.containers
            .retain(|container| container.state.record.id != id);
        Ok(())
    }

    fn execute(
        &mut self,
        client: u64,
        id: &str,
        argv: &[String],
        timeout_ms: u64,
    ) -> Result<(), String> {
        let dir = self.container(id)?.dir().to_owned();
        let fail = |error: &dyn std::fmt::Display| format!("cannot start the exec step: {error}");
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| fail(&error))?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| fail(&error))?;
        let stderr = writer.try_clone().map_err(|error| fail(&error))?;
        let step = Command::new("/proc/self/exe")
            .args(&self.sandbox.step_args)
            .arg("exec")
            .arg(dir)
            .arg(timeout_ms.to_string())
            .args(argv)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(stderr)
            .spawn()
            .map_err(|error| fail(&error))?;
        let ended = sys::pidfd_open(step.id() as i32).map_err(|error| fail(&error))?;
        let pipe = Some(fs::File::from(reader));
        self.executions.push(Execution {
            client,
            step,
            ended,
            pipe,
            output: Vec::new(),
        });
        Ok(())
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, String> {
        self.containers
            .iter_mut()
            .find(|container| container.state.record.id == id)
            .ok_or_else(|| format!("no container {id}"))
    }

    fn state(&self) -> Response {
        Response::State(
            self.containers
                .iter()
                .map(|container| container.state.clone())
                .collect(),
        )
    }

    fn publish(&mut self) {
        let state = self.state();
        for client in self.clients.iter_mut().filter(|client| client.watches) {
            client.send(&state);
        }
    }

    fn reply(&mut self, client: u64, response: &Response) {
        if let Some(client) = self.clients.iter_mut().find(|entry| entry.id == client) {
            client.send(response);
        }
    }

    /// Whether a shutdown was asked for and nothing runs any more; if so, answers it.
    fn shutdown_is_over(&mut self, now: Instant) -> bool {
        let Some((client, deadline)) = self.shutdown else {
            return false;
        };
        if !self.containers.iter().all(Container::has_ended) && now < deadline {
            return false;
        }
        self.publish();
        self.reply(client, &Response::Done);
        self.clients.iter_mut().for_each(Client::flush_and_end);
        let _ = fs::remove_file(self.pod_dir.join(SOCKET));
        true
    }
}
