//! When nodes were heard last, and what that says of them.
//!
//! A leader that is new has heard of nobody, and must not take that for silence. Nodes come back to it
//! within moments, each as soon as it notices that the leader before is gone: so a node that is still
//! missing a while after *most* of them are back is dead, as the one is whose machine the leader before
//! was on. Where most do not come back it is likelier that they cannot, and all have the whole grace.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How often it is looked who went silent: a take-over is late by as much.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// The times that decide how a node stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Without a word for longer, a node is silent.
    pub(crate) silence_max: Duration,
    /// How long a new leader waits for nodes that it has not heard of.
    pub(crate) grace: Duration,
    /// How long it waits for the others once more than half of the nodes are back.
    pub(crate) return_max: Duration,
    /// How long an agent that ended its session may be away: its machine was alive to say so.
    pub(crate) restart_max: Duration,
    /// Heard without a break for so long, a node is steady.
    pub(crate) steady_min: Duration,
}

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

/// Whether a node's machine lives, as far as its agent's words tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contact {
    /// It has been heard for a while without a break.
    Steady,
    /// Too early to say: it is back, or its agent is away, or this leader is new.
    Unsure,
    /// It fell silent, and its connection was not even closed.
    Lost,
}

/// When each node was heard last.
pub(crate) struct Liveness {
    limits: Limits,
    heard: Mutex<Heard>,
}

struct Heard {
    /// Since when this member leads.
    since: Instant,
    /// Since when more than half of the nodes are back; `None` until then.
    most_since: Option<Instant>,
    /// The nodes there are.
    known: BTreeSet<String>,
    nodes: HashMap<String, Run>,
}

impl Heard {
    /// Whether a node that was not heard of yet may still come.
    fn is_new(&self, limits: &Limits) -> bool {
        let is_waiting = |most: Instant| most.elapsed() < limits.return_max;
        self.since.elapsed() < limits.grace && self.most_since.is_none_or(is_waiting)
    }

    /// Notes that most are back, if they are.
    fn count(&mut self) {
        let back = self
            .known
            .iter()
            .filter(|node| self.nodes.contains_key(*node));
        if self.most_since.is_none() && back.count() * 2 > self.known.len() {
            self.most_since = Some(Instant::now());
        }
    }
}

/// A time in which a node was heard without a break.
#[derive(Clone, Copy)]
struct Run {
    began: Instant,
    last: Instant,
    /// Whether its agent ended the session, and has not been heard since.
    has_left: bool,
}

impl Liveness {
    pub(crate) fn new(limits: Limits) -> Self {
        let heard = Heard {
            since: Instant::now(),
            most_since: None,
            known: BTreeSet::new(),
            nodes: HashMap::new(),
        };
        Self {
            limits,
            heard: Mutex::new(heard),
        }
    }

    /// This member begins to lead: what it heard before counts no more.
    pub(crate) fn begin(&self) {
        let mut heard = self.heard();
        heard.since = Instant::now();
        heard.most_since = None;
        heard.known.clear();
        heard.nodes.clear();
    }

    /// These are the nodes there are, but for those that have been given up: how many are most of them
    /// depends on that.
    pub(crate) fn expect(&self, nodes: BTreeSet<String>) {
        let mut heard = self.heard();
        if heard.known != nodes {
            heard.known = nodes;
            heard.count();
        }
    }

    /// A node said something.
    pub(crate) fn heard_of(&self, node: &str) {
        let now = Instant::now();
        let fresh = Run {
            began: now,
            last: now,
            has_left: false,
        };
        let mut heard = self.heard();
        match heard.nodes.get_mut(node) {
            Some(run) if run.last.elapsed() <= self.limits.silence_max => {
                (run.last, run.has_left) = (now, false);
            }
            Some(run) => *run = fresh,
            None => {
                heard.nodes.insert(node.to_owned(), fresh);
                heard.count();
            }
        }
    }

    /// A node's agent ended its session, or its machine did for it: a dead machine does not.
    pub(crate) fn left(&self, node: &str) {
        if let Some(run) = self.heard().nodes.get_mut(node) {
            run.has_left = true;
        }
    }

    /// How these nodes stand. An agent that restarts is back before it counts as silent, or not:
    /// that its session ended says nothing.
    pub(crate) fn standings<'a>(
        &self,
        nodes: impl Iterator<Item = &'a String>,
    ) -> BTreeMap<String, Standing> {
        let heard = self.heard();
        let is_new = heard.is_new(&self.limits);
        nodes
            .map(|node| {
                let standing = match heard.nodes.get(node) {
                    Some(run) if run.last.elapsed() <= self.limits.silence_max => Standing::Live,
                    None if is_new => Standing::Unheard,
                    Some(_) | None => Standing::Silent,
                };
                (node.clone(), standing)
            })
            .collect()
    }

    /// Whether a node's machine lives.
    pub(crate) fn contact(&self, node: &str) -> Contact {
        let heard = self.heard();
        let Some(run) = heard.nodes.get(node) else {
            return if heard.is_new(&self.limits) {
                Contact::Unsure
            } else {
                Contact::Lost
            };
        };
        let quiet = run.last.elapsed();
        let quiet_max = if run.has_left {
            self.limits.restart_max
        } else {
            self.limits.silence_max
        };
        if quiet > quiet_max {
            Contact::Lost
        } else if quiet <= self.limits.silence_max && run.began.elapsed() >= self.limits.steady_min
        {
            Contact::Steady
        } else {
            Contact::Unsure
        }
    }

    /// Ends once a node has been silent for too long, counted from now at the earliest.
    pub(crate) async fn silence(&self, node: &str) {
        let last = || self.heard().nodes.get(node).map(|run| run.last);
        let mut since = Instant::now();
        loop {
            tokio::time::sleep_until(since + self.limits.silence_max).await;
            match last() {
                Some(last) if last > since => since = last,
                Some(_) | None => return,
            }
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const BEAT: Duration = Duration::from_millis(250);
    const LIMITS: Limits = Limits {
        silence_max: Duration::from_millis(1_500),
        grace: Duration::from_secs(10),
        return_max: Duration::from_secs(1),
        restart_max: Duration::from_secs(15),
        steady_min: Duration::from_secs(5),
    };

    fn standing(liveness: &Liveness) -> Standing {
        liveness.standings([&"n1".to_owned()].into_iter())["n1"]
    }

    async fn beat(liveness: &Liveness, times: u32) {
        for _ in 0..times {
            liveness.heard_of("n1");
            advance(BEAT).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn node_that_falls_silent_is_told_within_two_seconds() {
        let liveness = Liveness::new(LIMITS);
        for _ in 0..40 {
            beat(&liveness, 1).await;
            assert_eq!(standing(&liveness), Standing::Live);
        }
        assert_eq!(liveness.contact("n1"), Contact::Steady);
        let (fell_silent, mut noticed) = (Instant::now(), Duration::ZERO);
        while standing(&liveness) != Standing::Silent {
            advance(LOOK_PERIOD).await;
            noticed = fell_silent.elapsed();
        }
        assert!(noticed <= Duration::from_secs(2), "{noticed:?}");
        assert_eq!(liveness.contact("n1"), Contact::Lost);
        liveness.heard_of("n1");
        assert_eq!(standing(&liveness), Standing::Live);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_nodes_silence_waits_from_its_last_word() {
        let liveness = Liveness::new(LIMITS);
        let begun = Instant::now();
        tokio::join!(liveness.silence("n1"), async {
            for _ in 0..40 {
                liveness.heard_of("n1");
                tokio::time::sleep(BEAT).await;
            }
        });
        assert_eq!(begun.elapsed(), BEAT * 39 + LIMITS.silence_max);
        // Silent already, or never heard: as long as its next word may take.
        for node in ["n1", "n2"] {
            let begun = Instant::now();
            liveness.silence(node).await;
            assert_eq!(begun.elapsed(), LIMITS.silence_max);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_leader_waits_for_nodes_it_has_not_heard() {
        let liveness = Liveness::new(LIMITS);
        let both = || (standing(&liveness), liveness.contact("n1"));
        advance(LIMITS.grace * 3).await;
        liveness.heard_of("n1");
        advance(Duration::from_secs(60)).await;
        liveness.begin();
        assert_eq!(both(), (Standing::Unheard, Contact::Unsure));
        advance(LIMITS.grace - Duration::from_millis(1)).await;
        assert_eq!(both(), (Standing::Unheard, Contact::Unsure));
        advance(Duration::from_millis(1)).await;
        assert_eq!(both(), (Standing::Silent, Contact::Lost));
        liveness.begin();
        liveness.heard_of("n1");
        advance(LIMITS.silence_max + Duration::from_millis(1)).await;
        assert_eq!(both(), (Standing::Silent, Contact::Lost));
    }

    #[tokio::test(start_paused = true)]
    async fn new_leader_waits_a_second_for_the_last_nodes_and_longer_while_most_are_missing() {
        const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
        // How many nodes come back at once, and how long the others are waited for.
        for (back, waits) in [
            (0, LIMITS.grace),
            (2, LIMITS.grace),
            (3, LIMITS.return_max),
            (4, LIMITS.return_max),
        ] {
            let liveness = Liveness::new(LIMITS);
            advance(LIMITS.grace * 3).await;
            liveness.begin();
            // Nodes may be heard before it is known how many there are.
            let (first, rest) = NODES[5 - back..].split_at(back / 2);
            first.iter().for_each(|node| liveness.heard_of(node));
            liveness.expect(NODES.map(str::to_owned).into());
            rest.iter().for_each(|node| liveness.heard_of(node));
            let missing = || (standing(&liveness), liveness.contact("n1"));
            advance(waits - Duration::from_millis(1)).await;
            assert_eq!(missing(), (Standing::Unheard, Contact::Unsure), "{back}");
            advance(Duration::from_millis(1)).await;
            assert_eq!(missing(), (Standing::Silent, Contact::Lost), "{back}");
            liveness.heard_of("n1");
            assert_eq!(missing(), (Standing::Live, Contact::Unsure), "{back}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_for_the_last_nodes_begins_when_most_are_back() {
        let liveness = Liveness::new(LIMITS);
        liveness.begin();
        liveness.expect(["n1", "n2", "n3"].map(str::to_owned).into());
        liveness.heard_of("n2");
        advance(LIMITS.return_max * 3).await;
        assert_eq!(standing(&liveness), Standing::Unheard);
        liveness.heard_of("n3");
        advance(LIMITS.return_max / 2).await;
        assert_eq!(standing(&liveness), Standing::Unheard);
        advance(LIMITS.return_max / 2).await;
        assert_eq!(standing(&liveness), Standing::Silent);
        // Another lead begins anew.
        liveness.begin();
        assert_eq!(standing(&liveness), Standing::Unheard);
    }

    #[tokio::test(start_paused = true)]
    async fn node_that_is_back_is_steady_only_after_a_while_without_a_break() {
        let liveness = Liveness::new(LIMITS);
        beat(&liveness, 40).await;
        for _ in 0..10 {
            advance(LIMITS.silence_max).await;
            assert_eq!(liveness.contact("n1"), Contact::Lost);
            beat(&liveness, 19).await;
            assert_eq!(liveness.contact("n1"), Contact::Unsure);
        }
        beat(&liveness, 1).await;
        assert_eq!(liveness.contact("n1"), Contact::Steady);
    }

    #[tokio::test(start_paused = true)]
    async fn agent_that_ended_its_session_has_time_to_come_back() {
        let liveness = Liveness::new(LIMITS);
        beat(&liveness, 40).await;
        liveness.left("n1");
        advance(LIMITS.restart_max - BEAT).await;
        assert_eq!(standing(&liveness), Standing::Silent);
        assert_eq!(liveness.contact("n1"), Contact::Unsure);
        advance(BEAT).await;
        assert_eq!(liveness.contact("n1"), Contact::Lost);
        // Back, it may go again.
        beat(&liveness, 1).await;
        advance(LIMITS.silence_max).await;
        assert_eq!(liveness.contact("n1"), Contact::Lost);
    }
}
