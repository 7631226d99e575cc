//! Which process a shim is.

use std::fs;

/// A process' number and start time: together they are never reused.
pub(crate) struct Identity(pub(crate) String);

impl Identity {
    /// That of a living process.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name, field 2, is in parentheses and may hold anything (proc_pid_stat(5)).
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        // A zombie has ended; only its parent has not taken note yet.
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let start_time = fields.nth(18)?;
        Some(Self(format!("{pid} {start_time}")))
    }

    /// The process of an identity file, if it lives.
    pub(crate) fn living(text: &str) -> Option<i32> {
        let pid = text.split(' ').next()?.parse().ok()?;
        (Self::of(pid)?.0 == text).then_some(pid)
    }
}
