use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// From one announcement to the next after a take-over: three within a second, for the first may be
/// lost (RFC 5227 §1.1 has two, two seconds apart; a VIP's clients are waiting).
const FIRST: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(700)];

/// From then on: a switch forgets in minutes who is where, and so does who missed the first three.
const REPEAT: Duration = Duration::from_secs(60);

/// When which VIP is announced next.
#[derive(Debug, Default)]
pub(super) struct Turns {
    vips: BTreeMap<IpAddr, Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    at: Instant,
    said: usize,
}

impl Turns {
    /// Announces `vips` and no others; those that are new, at once.
    pub(super) fn set(&mut self, vips: &BTreeSet<IpAddr>, now: Instant) {
        self.vips.retain(|vip, _| vips.contains(vip));
        for vip in vips {
            self.vips.entry(*vip).or_insert(Turn { at: now, said: 0 });
        }
    }

    /// Those whose turn it is; their next one is later.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<IpAddr> {
        let due = self.vips.iter_mut().filter(|(_, turn)| turn.at <= now);
        due.map(|(vip, turn)| {
            turn.at = now + FIRST.get(turn.said).copied().unwrap_or(REPEAT);
            turn.said += 1;
            *vip
        })
        .collect()
    }

    /// When the next turn is.
    pub(super) fn next(&self) -> Option<Instant> {
        self.vips.values().map(|turn| turn.at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vips(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter()
            .map(|last| IpAddr::from([198, 18, 100, *last]))
            .collect()
    }

    /// When and what is announced within `seconds`, in milliseconds from `start`.
    fn said(turns: &mut Turns, start: Instant, seconds: u64) -> Vec<(u128, usize)> {
        let end = start + Duration::from_secs(seconds);
        let mut said = Vec::new();
        while let Some(next) = turns.next().filter(|next| *next <= end) {
            let due = turns.take_due(next);
            said.push(((next - start).as_millis(), due.len()));
        }
        said
    }

    #[test]
    fn vip_is_announced_three_times_in_a_second_and_then_each_minute() {
        let start = Instant::now();
        let mut turns = Turns::default();
        turns.set(&vips(&[1, 2]), start);
        let times = said(&mut turns, start, 130);
        assert_eq!(
            times,
            [(0, 2), (300, 2), (1000, 2), (61_000, 2), (121_000, 2)]
        );
    }

    #[test]
    fn new_vip_does_not_change_the_turns_of_others_and_one_that_left_has_none() {
        let start = Instant::now();
        let mut turns = Turns::default();
        turns.set(&vips(&[1]), start);
        assert_eq!(said(&mut turns, start, 5).len(), 3);
        let later = start + Duration::from_secs(5);
        turns.set(&vips(&[1, 2]), later);
        assert_eq!(turns.take_due(later), [IpAddr::from([198, 18, 100, 2])]);
        turns.set(&vips(&[1]), later);
        assert_eq!(turns.next(), Some(start + Duration::from_secs(61)));
        turns.set(&vips(&[]), later);
        assert_eq!(turns.next(), None);
    }
}
