//! What a person watching a long command sees.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Instant;

/// Prints steps with the time elapsed, on standard error.
///
/// A step that is under way is rewritten in place on a terminal; elsewhere each change is a line.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    terminal: bool,
    quiet: bool,
    /// What the last line says, so that an unchanged state is not printed again.
    last: Mutex<String>,
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
            quiet: false,
            last: Mutex::new(String::new()),
        }
    }

    /// A progress that prints nothing.
    pub fn quiet() -> Self {
        Self {
            quiet: true,
            ..Self::start()
        }
    }

    /// Seconds since the clock started.
    pub fn elapsed_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Prints a step that has begun or happened.
    pub fn step(&self, text: impl AsRef<str>) {
        self.print(text.as_ref(), true);
    }

    /// Prints the state of a step that is under way, when it differs from the last one printed.
    pub fn state(&self, text: impl AsRef<str>) {
        self.print(text.as_ref(), false);
    }

    fn print(&self, text: &str, lasting: bool) {
        if self.quiet {
            return;
        }
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if !lasting && *last == text {
            return;
        }
        let mut err = std::io::stderr().lock();
        let overwrite = if self.terminal { "\r\x1b[K" } else { "" };
        let end = if self.terminal && !lasting { "" } else { "\n" };
        // A closed standard error must not stop the work that is being reported.
        let _ = write!(err, "{overwrite}[{:6.1}s] {text}{end}", self.elapsed_s());
        let _ = err.flush();
        text.clone_into(&mut last);
    }
}
