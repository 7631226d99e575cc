//! Traffic that goes on while something else happens.

use std::io::{BufRead, BufReader};
use std::marker::PhantomData;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use testbed::cluster::{Cluster, Host};

/// A program at the client that sends until its standard input ends, and then prints a report `R`.
pub struct Running<R> {
    process: Child,
    report: PhantomData<R>,
}

impl<R: DeserializeOwned> Running<R> {
    /// Starts `traffic` with these arguments, and returns when it says that all its connections or
    /// flows are open.
    ///
    /// # Errors
    /// It cannot be started, or says something else.
    pub fn start(cluster: &Cluster, arguments: &str) -> Result<Self> {
        let mut process = cluster
            .launch(Host::Client, cluster.workspace().binary("traffic")?)?
            .arguments(arguments.split_whitespace())
            .command()?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start traffic {arguments}"))?;
        let notices = process.stderr.take().expect("it is a pipe");
        let mut line = String::new();
        BufReader::new(notices)
            .read_line(&mut line)
            .context("wait for traffic")?;
        ensure!(line.trim() == "open", "traffic {arguments} said {line:?}");
        Ok(Self {
            process,
            report: PhantomData,
        })
    }

    /// Ends it, and returns what became of it.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(mut self) -> Result<R> {
        drop(self.process.stdin.take());
        let done = self
            .process
            .wait_with_output()
            .context("wait for traffic")?;
        serde_json::from_slice(&done.stdout).context("understand the report of traffic")
    }
}
