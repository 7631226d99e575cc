//! What figures are true of: which code, on which machine, and how busy that was.

use std::fs;
use std::process::Command;
use std::thread;

use testbed::Workspace;

use crate::cargo;

/// In one line, for people. What cannot be found out is left out.
pub(crate) fn describe(workspace: &Workspace) -> String {
    let load = read("/proc/loadavg").and_then(|text| Some(text.split(' ').next()?.to_owned()));
    let cpus = thread::available_parallelism().map(|count| format!("{count} CPUs"));
    let parts = [
        commit(workspace).map(|commit| format!("commit {commit}")),
        cpu_model(),
        cpus.ok(),
        read("/proc/sys/kernel/osrelease").map(|kernel| format!("Linux {kernel}")),
        load.map(|load| format!("load average {load} at the start")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The commit that is checked out, and whether anything was changed since.
fn commit(workspace: &Workspace) -> Option<String> {
    let root = workspace.root().to_str()?;
    let commit = cargo::probe("git", &["-C", root, "rev-parse", "--short", "HEAD"])?;
    let is_same = Command::new("git")
        .args(["-C", root, "diff", "--quiet", "HEAD"])
        .status()
        .is_ok_and(|status| status.success());
    Some(if is_same {
        commit
    } else {
        format!("{commit} with changes")
    })
}

fn cpu_model() -> Option<String> {
    let text = read("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}
