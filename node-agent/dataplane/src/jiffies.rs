//! The kernel's clock by which programs note when they saw a flow last.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::moving::Seconds;
use crate::sys;

/// Reads `bpf_jiffies64` as programs do, and knows how many make a second.
#[derive(Debug)]
pub(crate) struct Jiffies {
    /// Returns the low half of `bpf_jiffies64`. No clock of user space tells jiffies: they begin at a
    /// number of the kernel's own (`INITIAL_JIFFIES`), at a moment of its boot.
    program: OwnedFd,
    /// The kernel's `HZ`.
    per_second: u32,
}

impl Jiffies {
    pub(crate) fn open() -> io::Result<Self> {
        // The coarse clocks advance with the tick, and their resolution is one jiffy
        // (kernel/time/posix-timers.c: `KTIME_LOW_RES`). `getconf CLK_TCK` is another number: what
        // user space is told, 100 on most.
        let tick = sys::coarse_resolution()?;
        let nanoseconds = u32::try_from(tick.as_nanos()).unwrap_or(u32::MAX).max(1);
        Ok(Self {
            program: sys::load_jiffies_program()?,
            per_second: (1_000_000_000_u32 + nanoseconds / 2) / nanoseconds,
        })
    }

    /// The low half of the count.
    pub(crate) fn now(&self) -> io::Result<u32> {
        sys::run_jiffies_program(self.program.as_fd())
    }

    /// How long ago `seen` was at `now`. Right for 49 days, even at 1000 jiffies a second.
    pub(crate) fn age(&self, seen: u64, now: u32) -> Seconds {
        age(seen, now, self.per_second)
    }
}

#[cfg(test)]
impl Jiffies {
    /// What a program would have noted so many seconds ago.
    pub(crate) fn before(&self, seconds: Seconds) -> u64 {
        // Far enough from the beginning to subtract from; only the low half counts.
        (1 << 40) + u64::from(self.now().unwrap()) - u64::from(seconds * self.per_second)
    }
}

fn age(seen: u64, now: u32, per_second: u32) -> Seconds {
    let passed = now.wrapping_sub(seen as u32);
    // What a program saw after the clock was read is of now.
    if passed > u32::MAX - 60 * per_second {
        0
    } else {
        passed / per_second
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn age_counts_across_the_end_of_the_low_half() {
        assert_eq!(age(0x1_0000_0000 - 500, 500, 250), 4);
        assert_eq!(age(0x5_0000_1000, 0x1000 + 2_500, 250), 10);
        assert_eq!(
            age(0x5_0000_1000, 0x0fff, 250),
            0,
            "seen after the clock was read"
        );
    }

    #[test]
    fn jiffies_advance_as_time_does() {
        if testbed::skip_without_root() {
            return;
        }
        let jiffies = Jiffies::open().unwrap();
        assert!(
            [100, 250, 300, 1_000].contains(&jiffies.per_second),
            "{jiffies:?}"
        );
        let (start, first) = (Instant::now(), jiffies.now().unwrap());
        // Jiffies are the thing that is waited for here.
        let wanted = jiffies.per_second / 5;
        while jiffies.now().unwrap().wrapping_sub(first) < wanted {
            std::hint::spin_loop();
        }
        let took = start.elapsed();
        assert!(
            took > Duration::from_millis(180) && took < Duration::from_secs(2),
            "a fifth of a second's jiffies took {took:?}"
        );
    }
}
