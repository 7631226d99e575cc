//! How many flows are noted: as many a second as the node is to work for, and of each service so many
//! that there is room for the others.
//!
//! Both limits are shared the same way. A service may have a part, [`Config::service_share_percent`],
//! of what the *others* leave: alone it may take that part of everything, and with each further service
//! that takes all it can get, all of them have less, but never is there nothing left for one that comes
//! anew. (Choudhury and Hahne, "Dynamic queue length thresholds", 1998, for buffers of switches.) So a
//! flood of one service's flows costs the others none of their notes.
//!
//! A flow that is not noted goes where it goes when the table is full: a service that hashes still picks
//! the same backend for each of its packets.
//!
//! [`Config::service_share_percent`]: crate::Config::service_share_percent

/// Nanoseconds for which notes are counted together, as a power of two: nobody has to divide.
const WINDOW_BITS: u32 = 27;

/// Nanoseconds for which notes are counted together: 134 ms.
pub const WINDOW_NS: u64 = 1 << WINDOW_BITS;

/// The window that `now_ns`, nanoseconds of `CLOCK_MONOTONIC_COARSE`, is in. Comes again after 18
/// years.
#[inline(always)]
pub const fn window(now_ns: u64) -> u32 {
    (now_ns >> WINDOW_BITS) as u32
}

/// How many notes a window takes so that a second takes `per_second`, but one at least.
pub const fn per_window(per_second: u32) -> u32 {
    let notes = per_second as u64 * WINDOW_NS / 1_000_000_000;
    if notes == 0 { 1 } else { notes as u32 }
}

/// Whether a service that has `own` of the `all` that are taken may have one more of `capacity`, when
/// its share of what the others leave is `percent`.
///
/// The two numbers are counted apart from each other, and may be a little out of step.
#[inline(always)]
pub const fn has_room(capacity: u32, all: u32, own: u32, percent: u32) -> bool {
    let others = all.saturating_sub(own);
    let left = capacity.saturating_sub(others);
    (own as u64) * 100 < left as u64 * percent as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What services hold that take all they can get, turn by turn.
    fn flooded<const COUNT: usize>(capacity: u32, percent: u32) -> [u32; COUNT] {
        let mut held = [0; COUNT];
        loop {
            let before = held;
            for index in 0..COUNT {
                if has_room(capacity, held.iter().sum(), held[index], percent) {
                    held[index] += 1;
                }
            }
            if held == before {
                return held;
            }
        }
    }

    #[test]
    fn flooded_services_share_evenly_and_leave_room_for_another() {
        assert_eq!(flooded(1_000, 75), [750]);
        assert_eq!(flooded(1_000, 75), [429, 429], "three sevenths each");
        assert_eq!(flooded(1_000, 50), [334, 333], "a third each");
        assert_eq!(flooded(1_000, 100), [500, 500]);
        for held in [&flooded::<1>(1_000, 75)[..], &flooded::<5>(1_000, 75)] {
            let all = held.iter().sum();
            assert!(has_room(1_000, all, 0, 75), "{all} are taken");
        }
    }

    #[test]
    fn nothing_is_let_in_beyond_the_capacity() {
        assert!(!has_room(10, 10, 0, 100));
        assert!(!has_room(10, 12, 1, 100));
        assert!(!has_room(10, 3, 10, 100), "counted out of step");
        assert!(has_room(10, 3, 9, 100), "counted out of step");
    }

    #[test]
    fn window_takes_its_part_of_a_second() {
        assert_eq!(per_window(100_000), 13_421);
        assert_eq!(per_window(1), 1);
        assert_eq!(window(WINDOW_NS - 1) + 1, window(WINDOW_NS));
    }
}
