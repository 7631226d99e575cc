//! One run of a virtual machine, watched by what it prints.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a machine may take. Without hardware's help it takes a minute on a busy machine.
const ALLOWED: Duration = Duration::from_secs(300);

/// Memory, in MiB: the maps take most of it.
const MEMORY_MIB: u32 = 2048;

/// Boots `kernel` with `initramfs`, and answers all it printed up to the line that begins with `last`.
///
/// # Errors
/// The machine cannot be started, ends, or does not get there in time; the error has what it printed.
pub(super) fn run(kernel: &Path, initramfs: &Path, last: &str) -> Result<Vec<String>> {
    let mut machine = Machine::start(kernel, initramfs)?;
    let output = machine.0.stdout.take().expect("it is a pipe");
    let (sender, lines) = mpsc::channel();
    // Ends with the machine, which is stopped in any case.
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + ALLOWED;
    let mut printed = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) => {
                let is_last = line.starts_with(last);
                printed.push(line);
                if is_last {
                    return Ok(printed);
                }
            }
            Err(error) => {
                let what = match error {
                    mpsc::RecvTimeoutError::Timeout => "took too long",
                    mpsc::RecvTimeoutError::Disconnected => "ended",
                };
                bail!("the machine {what}; it printed:\n{}", printed.join("\n"));
            }
        }
    }
}

/// A running machine, switched off when dropped.
struct Machine(Child);

impl Machine {
    fn start(kernel: &Path, initramfs: &Path) -> Result<Self> {
        let child = Command::new("qemu-system-x86_64")
            // By translation: inside of another virtual machine, the processor's help is often
            // absent, or there and broken.
            .args(["-machine", "accel=tcg", "-cpu", "max", "-smp", "1"])
            .args(["-m", &MEMORY_MIB.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-serial", "stdio"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("start qemu-system-x86_64")?;
        Ok(Self(child))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Either it runs and can be stopped, or it has ended and only has to be collected.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
