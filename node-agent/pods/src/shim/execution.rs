//! A command in a container, run for a client by a step of its own.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Child;

use super::exec::TIMED_OUT;
use super::protocol::{EXEC_OUTPUT_BYTES_MAX, Executed};

/// A command that runs in a container for a client.
pub(super) struct Execution {
    pub(super) client: u64,
    pub(super) step: Child,
    pub(super) ended: OwnedFd,
    /// `None` once it has ended.
    pub(super) pipe: Option<fs::File>,
    pub(super) output: Vec<u8>,
}

impl Execution {
    pub(super) fn read(&mut self) {
        let mut chunk = [0; 4096];
        while let Some(Ok(count)) = self.pipe.as_mut().map(|pipe| pipe.read(&mut chunk)) {
            if count == 0 {
                self.pipe = None;
            }
            let room = EXEC_OUTPUT_BYTES_MAX.saturating_sub(self.output.len());
            self.output.extend_from_slice(&chunk[..count.min(room)]);
        }
    }

    pub(super) fn finish(&mut self) -> Executed {
        self.read();
        let code = self
            .step
            .wait()
            .ok()
            .and_then(|status| status.code())
            .unwrap_or(255);
        Executed {
            code,
            timed_out: code == TIMED_OUT,
            output: String::from_utf8_lossy(&self.output).into_owned(),
        }
    }
}
