//! The agent's hold on the process that answers: it starts it where there is none, adopts the one it
//! finds, has one of another version replaced, and passes on what changes.

use std::{
    ffi::OsString,
    io,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use prost::Message;
use serde_json::Value;
use tokio::{
    net::UnixStream,
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::{
    Changes, ClusterDns, Invalid, check,
    process::{Config, PROCESS_ARGUMENT, program},
    protocol::{self, Command, Hello, Response},
};

/// How long a new process may take until it listens.
const START_MAX: Duration = Duration::from_secs(10);
const START_LOOK: Duration = Duration::from_millis(20);
/// Between two processes that ended.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long a look at it may take: others may have to be asked for a name.
const VIEW_MAX: Duration = Duration::from_secs(6);
/// Looks that wait.
const VIEWS_MAX: usize = 16;

/// Keeps the process, in the background.
pub struct Keeper {
    held: Arc<Held>,
    views: mpsc::Sender<Asked>,
}

struct Held {
    names: Mutex<Names>,
    changed: Notify,
}

#[derive(Default)]
struct Names {
    /// All of them, once the control plane has told them.
    whole: Option<Changes>,
    /// What the process has not been told.
    untold: Changes,
    cluster: Option<ClusterDns>,
}

struct Asked {
    what: Bytes,
    answer: oneshot::Sender<Result<Value, String>>,
}

type Connection = Framed<UnixStream, LengthDelimitedCodec>;

impl Keeper {
    /// Starts to keep it. `program` calls [`process::main`](crate::process::main) when its first
    /// argument is [`PROCESS_ARGUMENT`]. Must be called in a runtime.
    pub fn start(program: OsString, config: Config) -> Self {
        let kept = protocol::kept(&config.state).ok().flatten();
        let parameters = kept.and_then(|kept| kept.parameters);
        let settings = parameters.and_then(|known| check::settings(&known).ok().flatten());
        let names = Names {
            cluster: settings.map(|settings| settings.cluster),
            ..Names::default()
        };
        let held = Arc::new(Held {
            names: Mutex::new(names),
            changed: Notify::new(),
        });
        let (views, asked) = mpsc::channel(VIEWS_MAX);
        tokio::spawn(keep(Arc::clone(&held), program, config, asked));
        Self { held, views }
    }

    /// Takes changes in; the process is told as soon as there is one.
    ///
    /// # Errors
    /// The first field that cannot be; then nothing has changed.
    pub fn update(&self, changes: Changes) -> Result<(), Invalid> {
        changes.check()?;
        let mut names = self.held.names();
        if let Some(parameters) = &changes.parameters {
            let settings = check::settings(parameters)?;
            names.cluster = settings.map(|settings| settings.cluster);
        }
        if changes.is_whole {
            names.whole = Some(Changes::default());
        }
        if let Some(whole) = &mut names.whole {
            whole.merge(changes.clone());
            whole.forget_removed();
        }
        names.untold.merge(changes);
        drop(names);
        self.held.changed.notify_one();
        Ok(())
    }

    /// How names of the cluster are resolved, as far as anybody has said.
    pub fn cluster(&self) -> Option<ClusterDns> {
        self.held.names().cluster.clone()
    }

    /// A look at the process: all of it, or its answer to `name` (of `type`, in `vpc`).
    ///
    /// # Errors
    /// A sentence for people.
    pub async fn view(&self, parameters: &Value) -> Result<Value, String> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            what: Bytes::from(parameters.to_string()),
            answer,
        };
        let away = || "the DNS of this node does not run: the agent's log says why".to_owned();
        self.views.try_send(asked).map_err(|_| away())?;
        match timeout(VIEW_MAX, answered).await {
            Ok(Ok(view)) => view,
            Ok(Err(_)) | Err(_) => Err(away()),
        }
    }

    /// Ends the process that is found at this socket, if there is one, and waits until it has ended.
    ///
    /// # Errors
    /// It does not end.
    pub async fn stop(socket: &Path) -> io::Result<()> {
        let Ok((mut connection, _)) = connect(socket).await else {
            return Ok(());
        };
        end(&mut connection).await
    }
}

impl Held {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn keep(
    held: Arc<Held>,
    command: OsString,
    config: Config,
    mut asked: mpsc::Receiver<Asked>,
) {
    loop {
        let began = Instant::now();
        let kept = match find(&command, &config).await {
            Ok((mut connection, former)) => talk(&held, &mut connection, former, &mut asked).await,
            Err(error) => Err(error),
        };
        let Err(error) = kept else {
            return;
        };
        if asked.is_closed() {
            // The agent has let go of it, and somebody else has ended it.
            return;
        }
        tracing::warn!(%error, "the DNS of this node is away; starting it again");
        if began.elapsed() < RESTART_PAUSE {
            sleep(RESTART_PAUSE).await;
        }
    }
}

/// The process that runs, or a new one; of one that runs another program, the former too: it answers
/// until the new one does.
async fn find(command: &OsString, config: &Config) -> io::Result<(Connection, Option<Connection>)> {
    let ours = program(Path::new(command))?;
    let former = match connect(&config.socket).await {
        Ok((connection, hello)) if hello.program == ours => {
            tracing::info!("adopted the DNS of this node");
            return Ok((connection, None));
        }
        Ok((former, _)) => Some(former),
        Err(_nobody_there) => None,
    };
    let mut child = tokio::process::Command::new(command)
        .arg(PROCESS_ARGUMENT)
        .arg(serde_json::to_string(config)?)
        .stdin(Stdio::null())
        .spawn()?;
    tracing::info!(pid = child.id(), "started the DNS of this node");
    let deadline = Instant::now() + START_MAX;
    loop {
        if let Ok((connection, hello)) = connect(&config.socket).await
            && hello.program == ours
        {
            // Whatever its end is, the connection's end tells of it.
            tokio::spawn(async move { child.wait().await });
            return Ok((connection, former));
        }
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("it ended: {status}")));
        }
        if Instant::now() > deadline {
            child.start_kill()?;
            return Err(io::Error::other("it did not listen in time"));
        }
        sleep(START_LOOK).await;
    }
}

async fn connect(socket: &Path) -> io::Result<(Connection, Hello)> {
    let stream = UnixStream::connect(socket).await?;
    let mut connection = Framed::new(stream, protocol::codec());
    let frame = timeout(START_MAX, connection.next()).await?;
    let frame = frame.ok_or(io::ErrorKind::UnexpectedEof)??;
    let hello = Hello::decode(frame).map_err(io::Error::other)?;
    Ok((connection, hello))
}

/// Tells the process what changes and asks it what people ask, until it is gone. `Ok` once the agent
/// has let go.
async fn talk(
    held: &Held,
    connection: &mut Connection,
    former: Option<Connection>,
    asked: &mut mpsc::Receiver<Asked>,
) -> io::Result<()> {
    let whole = {
        let mut names = held.names();
        names.untold = Changes::default();
        names.whole.clone()
    };
    if let Some(whole) = whole {
        tell(connection, whole).await?;
    }
    if let Some(mut former) = former {
        end(&mut former).await?;
        tracing::info!("the DNS of this node has been replaced");
    }
    loop {
        let untold = std::mem::take(&mut held.names().untold);
        if !untold.is_empty() {
            tell(connection, untold).await?;
        }
        tokio::select! {
            () = held.changed.notified() => {}
            question = asked.recv() => {
                let Some(question) = question else {
                    return Ok(());
                };
                let command = Command { view: Some(question.what), ..Command::default() };
                let view = request(connection, command).await?;
                // Whoever asked may be gone.
                let _nobody_waits = question.answer.send(read(&view));
            }
            // It says nothing unasked.
            end = connection.next() => {
                return Err(end.and_then(Result::err).unwrap_or(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

fn read(view: &Response) -> Result<Value, String> {
    if !view.error.is_empty() {
        return Err(view.error.clone());
    }
    serde_json::from_slice(&view.view).map_err(|error| error.to_string())
}

async fn tell(connection: &mut Connection, changes: Changes) -> io::Result<()> {
    let command = Command {
        update: Some(changes.into()),
        ..Command::default()
    };
    let response = request(connection, command).await?;
    if !response.error.is_empty() {
        // What the agent has checked an older process may refuse.
        tracing::error!(
            error = response.error,
            "the DNS of this node refuses the names"
        );
    }
    Ok(())
}

async fn end(connection: &mut Connection) -> io::Result<()> {
    let command = Command {
        stop: true,
        ..Command::default()
    };
    request(connection, command).await?;
    // The end of the connection is that of the process.
    while let Some(Ok(_)) = timeout(START_MAX, connection.next()).await? {}
    Ok(())
}

async fn request(connection: &mut Connection, command: Command) -> io::Result<Response> {
    let bytes = Bytes::from(command.encode_to_vec());
    connection.send(bytes).await?;
    let frame = connection
        .next()
        .await
        .ok_or(io::ErrorKind::UnexpectedEof)??;
    Response::decode(frame).map_err(io::Error::other)
}
