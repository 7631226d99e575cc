use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How a node stands with this leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was heard just now.
    Live,
    /// This leader is new and has not heard of it yet.
    Unheard,
    /// It has not been heard for too long.
    Silent,
}

/// When each node was heard last. An agent that restarts is back before it counts as silent, or
/// not: that its session ended says nothing.
pub(crate) struct Liveness {
    silence_max: Duration,
    grace: Duration,
    heard: Mutex<Heard>,
}

struct Heard {
    /// Since when this member leads.
    since: Instant,
    nodes: HashMap<String, Instant>,
}

impl Liveness {
    /// A node is silent when it was not heard for `silence_max`, or not at all in the first `grace`
    /// of a leader.
    pub(crate) fn new(silence_max: Duration, grace: Duration) -> Self {
        let heard = Heard {
            since: Instant::now(),
            nodes: HashMap::new(),
        };
        Self {
            silence_max,
            grace,
            heard: Mutex::new(heard),
        }
    }

    /// This member begins to lead: what it heard before counts no more.
    pub(crate) fn begin(&self) {
        let mut heard = self.heard();
        heard.since = Instant::now();
        heard.nodes.clear();
    }

    /// A node said something.
    pub(crate) fn heard_of(&self, node: &str) {
        let now = Instant::now();
        let mut heard = self.heard();
        match heard.nodes.get_mut(node) {
            Some(last) => *last = now,
            None => drop(heard.nodes.insert(node.to_owned(), now)),
        }
    }

    /// How these nodes stand.
    pub(crate) fn standings<'a>(
        &self,
        nodes: impl Iterator<Item = &'a String>,
    ) -> BTreeMap<String, Standing> {
        let heard = self.heard();
        let is_new = heard.since.elapsed() < self.grace;
        nodes
            .map(|node| {
                let standing = match heard.nodes.get(node) {
                    Some(last) if last.elapsed() <= self.silence_max => Standing::Live,
                    None if is_new => Standing::Unheard,
                    Some(_) | None => Standing::Silent,
                };
                (node.clone(), standing)
            })
            .collect()
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::announcements::LOOK_PERIOD;

    const SILENCE_MAX: Duration = Duration::from_millis(1_500);
    const GRACE: Duration = Duration::from_secs(10);

    fn standing(liveness: &Liveness) -> Standing {
        liveness.standings([&"n1".to_owned()].into_iter())["n1"]
    }

    #[tokio::test(start_paused = true)]
    async fn node_that_falls_silent_is_told_within_two_seconds() {
        let liveness = Liveness::new(SILENCE_MAX, GRACE);
        for _ in 0..40 {
            liveness.heard_of("n1");
            advance(Duration::from_millis(250)).await;
            assert_eq!(standing(&liveness), Standing::Live);
        }
        let (fell_silent, mut noticed) = (Instant::now(), Duration::ZERO);
        while standing(&liveness) != Standing::Silent {
            advance(LOOK_PERIOD).await;
            noticed = fell_silent.elapsed();
        }
        assert!(noticed <= Duration::from_secs(2), "{noticed:?}");
        liveness.heard_of("n1");
        assert_eq!(standing(&liveness), Standing::Live);
    }

    #[tokio::test(start_paused = true)]
    async fn new_leader_waits_for_nodes_it_has_not_heard() {
        let liveness = Liveness::new(SILENCE_MAX, GRACE);
        advance(GRACE * 3).await;
        liveness.heard_of("n1");
        advance(Duration::from_secs(60)).await;
        liveness.begin();
        assert_eq!(standing(&liveness), Standing::Unheard);
        advance(GRACE - Duration::from_millis(1)).await;
        assert_eq!(standing(&liveness), Standing::Unheard);
        advance(Duration::from_millis(1)).await;
        assert_eq!(standing(&liveness), Standing::Silent);
        liveness.begin();
        liveness.heard_of("n1");
        advance(SILENCE_MAX + Duration::from_millis(1)).await;
        assert_eq!(standing(&liveness), Standing::Silent);
    }
}
