//! A balancer without a control plane: services and their real servers come from one file, which is
//! read again when it changes. What becomes of them is the same as what a control plane would send.

mod check;
mod compile;
mod field;
mod file;
mod ids;
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use fairlead_api::{Generation, NodeName, error_chain};
use fairlead_dataplane::{Changes, Dataplane};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    check::check,
    compile::compile,
    field::Seed,
    file::{File, Invalid, Node},
    watch::Watch,
};
use crate::{health, socket, view::Views};

/// Balances as the file at `path` says until told to stop. Traffic outlives it.
pub(crate) async fn run(path: &Path) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;

    let (text, file) = read(path)?;
    let node = file.node.value.clone();
    fairlead_config::create_private(std::slice::from_ref(&node.state_dir))?;
    let seed = seed(&node)?;
    let dataplane = Dataplane::open(node.dataplane()).await;
    let dataplane = Arc::new(dataplane.context("cannot open the dataplane")?);
    let listener = socket::bind(&node.socket()).context("cannot bind the agent's socket")?;
    let mut watch = Watch::new(path).with_context(|| format!("cannot watch {}", path.display()))?;
    let mut balancer = Balancer {
        path: path.to_owned(),
        dataplane: Arc::clone(&dataplane),
        seed,
        node,
        text,
    };
    balancer.apply(&file).await?;
    // Who announces what is the file's to say: nobody else knows better.
    dataplane.set_in_session(true);
    tracing::info!(
        node = balancer.node.name,
        services = file.services.len(),
        "balancing"
    );

    // Logged, and there is nobody else to be told.
    let tell = |_event| {};
    let record = balancer.node.state_dir.join("unhealthy");
    let health = health::follow(Arc::clone(&dataplane), record, tell);
    let views = Views {
        dataplane: Arc::clone(&dataplane),
        dns: None,
    };
    let serving = socket::serve(listener, views);
    tokio::pin!(serving, health);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = &mut serving => break,
            () = &mut health => break,
            _ = hang_up.recv() => balancer.reload().await,
            changed = watch.changed() => {
                changed.with_context(|| format!("cannot watch {} any more", path.display()))?;
                balancer.reload().await;
            }
        }
    }
    tracing::info!("stopped; traffic goes on");
    Ok(())
}

/// Says whether the file at `path` would be taken.
pub(crate) fn try_out(path: &Path) -> anyhow::Result<()> {
    let (_, file) = read(path)?;
    let seed = Seed([0; 16]);
    let changes = Changes::whole(compile(&file, seed));
    let own = NodeName::new(&file.node.value.name);
    fairlead_dataplane::desired::Desired::default()
        .advance(&changes, &own)
        .with_context(|| format!("{}", path.display()))?;
    println!("{}: fine, {} services", path.display(), file.services.len());
    Ok(())
}

/// Removes everything that a balancer with the file at `path` made, but for its state directory.
pub(crate) async fn cleanup(path: &Path) -> anyhow::Result<()> {
    let (_, file) = read(path)?;
    Dataplane::destroy(&file.node.value.dataplane())
        .await
        .context("cannot remove the dataplane")?;
    eprintln!("The machine is clean: no program, map or route of ours is left.");
    Ok(())
}

/// A file in force, and what it is compared with when it changes.
struct Balancer {
    path: PathBuf,
    dataplane: Arc<Dataplane>,
    seed: Seed,
    node: Node,
    text: String,
}

impl Balancer {
    /// Puts the file in force as it is now. If it cannot be, the one before stays in force.
    async fn reload(&mut self) {
        let (text, file) = match read(&self.path) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the file is refused, what was in force stays so"
                );
                return;
            }
        };
        if text == self.text {
            return;
        }
        if let Err(error) = self.take(&file).await {
            tracing::error!(
                error = format!("{error:#}"),
                "the file is refused, what was in force stays so"
            );
            return;
        }
        self.text = text;
    }

    async fn take(&self, file: &File) -> anyhow::Result<()> {
        if file.node.value != self.node {
            return Err(Invalid {
                path: self.path.clone(),
                line: file.node.referenced.line(),
                field: "node".to_owned(),
                problem: "changes take a restart, which costs no packet".to_owned(),
            }
            .into());
        }
        self.apply(file).await
    }

    async fn apply(&self, file: &File) -> anyhow::Result<()> {
        let changes = Arc::new(Changes::whole(compile(file, self.seed)));
        let next = Generation(self.dataplane.generation().0 + 1);
        let applied = self.dataplane.apply(changes, next).await.map_err(|error| {
            // What the file's own check lets pass and the dataplane does not has no line.
            anyhow::anyhow!("{}: {}", self.path.display(), error_chain(&error))
        })?;
        let (services, actions) = (file.services.len(), applied.actions);
        tracing::info!(generation = %next, services, actions, "the file is in force");
        Ok(())
    }
}

impl Node {
    fn dataplane(&self) -> fairlead_dataplane::Config {
        fairlead_dataplane::Config {
            node_name: NodeName::new(&self.name),
            address: self.address,
            other_address: self.other_address,
            uplinks: self.uplinks.clone(),
            bpffs: self.bpffs.clone(),
            cgroup: self.cgroup.clone(),
            state_dir: self.state_dir.clone(),
            flow_limits: self.flows.limits(),
        }
    }

    /// Where `netctl --socket` finds this agent.
    fn socket(&self) -> PathBuf {
        self.state_dir.join("agent.sock")
    }
}

fn read(path: &Path) -> anyhow::Result<(String, File)> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = File::parse(path, &text)?;
    check(path, &file)?;
    Ok((text, file))
}

/// The seed that the file gives, else one of this balancer's own, made once.
fn seed(node: &Node) -> anyhow::Result<Seed> {
    if let Some(seed) = node.hash_seed {
        return Ok(seed);
    }
    let path = node.state_dir.join("hash-seed");
    if path.exists() {
        let text = fairlead_config::read(&path)?;
        return Seed::parse(text.trim())
            .with_context(|| format!("{} is damaged: remove it", path.display()));
    }
    let seed = Seed(rand::random());
    fairlead_config::write_private(&path, &format!("{}\n", seed.to_text()))?;
    Ok(seed)
}
