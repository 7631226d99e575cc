//! An unmodified kubectl with the kubeconfig of one cluster.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Runs kubectl against one cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

/// How a kubectl command ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether it ended with 0.
    pub success: bool,
    /// What it printed on standard output.
    pub stdout: String,
    /// What it printed on standard error.
    pub stderr: String,
}

impl Kubectl {
    /// The kubectl at `program`, with a cache of its own: another cluster may have had the same
    /// port.
    pub fn new(program: PathBuf, kubeconfig: PathBuf, cache: PathBuf) -> Self {
        Self {
            program,
            kubeconfig,
            cache,
        }
    }

    /// The kubeconfig it uses.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubectl command that is not started yet.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env_remove("HTTPS_PROXY")
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl to its end; `arguments` are separated by spaces.
    ///
    /// # Errors
    /// kubectl cannot be run at all.
    pub fn run(&self, arguments: &str) -> Result<Outcome> {
        let output = self
            .command(arguments.split_whitespace())
            .output()
            .with_context(|| format!("run {}", self.program.display()))?;
        Ok(Outcome::of(output))
    }

    /// Runs kubectl with `input` on its standard input.
    ///
    /// # Errors
    /// kubectl cannot be run at all.
    pub fn run_with(&self, arguments: &str, input: &str) -> Result<Outcome> {
        let mut child = self
            .command(arguments.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {}", self.program.display()))?;
        child
            .stdin
            .take()
            .expect("its standard input is a pipe")
            .write_all(input.as_bytes())
            .context("hand kubectl its input")?;
        let output = child.wait_with_output().context("wait for kubectl")?;
        Ok(Outcome::of(output))
    }

    /// Runs kubectl and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error holds what it said.
    pub fn ok(&self, arguments: &str) -> Result<String> {
        let outcome = self.run(arguments)?;
        ensure!(
            outcome.success,
            "kubectl {arguments}: {}",
            outcome.stderr.trim()
        );
        Ok(outcome.stdout)
    }

    /// Runs kubectl and returns what it printed as JSON.
    ///
    /// # Errors
    /// It failed or did not print JSON.
    pub fn json(&self, arguments: &str) -> Result<Value> {
        let text = self.ok(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {arguments} printed no JSON"))
    }
}

impl Outcome {
    fn of(output: Output) -> Self {
        Self {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
