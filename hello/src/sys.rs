//! The system calls the standard library has no name for.

#![allow(unsafe_code)] // the one module that may

/// SIGTERM and SIGINT, blocked for the process so that they can be waited for.
pub(crate) struct StopSignals(libc::sigset_t);

impl StopSignals {
    /// Blocks the signals in this thread and in those it starts from now on.
    pub(crate) fn block() -> Self {
        // SAFETY: sigemptyset initialises the set before anything reads it, and the pointers are
        // to a live local.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            Self(set)
        }
    }

    /// Sleeps until one of them arrives and says which.
    pub(crate) fn wait(&self) -> &'static str {
        let mut signal = 0;
        // SAFETY: both pointers are to live values and the set was initialised by `block`.
        while unsafe { libc::sigwait(&self.0, &mut signal) } != 0 {}
        if signal == libc::SIGINT {
            "SIGINT"
        } else {
            "SIGTERM"
        }
    }
}
