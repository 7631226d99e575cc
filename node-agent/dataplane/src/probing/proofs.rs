use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Reach, Target};

/// How often a node is asked, whether it has answered before or not.
const PERIOD: Duration = Duration::from_secs(5);

/// With more nodes than this many seconds hold of these, each is asked less often: a hundred frames of 60
/// bytes a second, 50 kbit/s, are what probes take at most.
const ASKED_PER_SECOND: u32 = 100;

/// From a question to the next one if there is no answer. On one segment answers come within a
/// millisecond; what is loaded so much that they take longer is asked more than once.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many questions in a row go without an answer before a node is known not to get them.
const MISSES_MAX: u32 = 3;

/// The least time between two looks for answers, and between two rounds of questions.
const TURN: Duration = Duration::from_millis(100);

/// How many are asked in one turn at most, so that they are spread also when all are new.
const ASKED_PER_TURN: usize = 64;

/// Which nodes have been proved to get frames that are passed on as they are, and whom to ask when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proofs {
    /// By node id.
    nodes: BTreeMap<u32, Proof>,
}

#[derive(Clone, Copy, Debug)]
struct Proof {
    /// Where the questions go; what is proved is proved of this only.
    target: Target,
    /// Whether the neighbour is resolved, so that it can be asked.
    is_resolved: bool,
    is_proved: bool,
    /// When this agent has seen the last answer.
    answered: Option<Instant>,
    /// When the question was put whose answer is awaited.
    asked: Option<Instant>,
    /// Questions in a row without an answer.
    missed: u32,
    /// When it is asked next, unless an answer is awaited.
    next: Instant,
}

impl Proof {
    fn new(target: Target, is_proved: bool, now: Instant) -> Self {
        Self {
            target,
            is_resolved: true,
            is_proved,
            answered: None,
            asked: None,
            missed: 0,
            next: now,
        }
    }

    /// Goes on after a question that was not answered in time.
    fn miss(&mut self, period: Duration) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        self.missed = self.missed.saturating_add(1);
        if self.missed >= MISSES_MAX {
            self.is_proved = false;
            self.next = asked + period;
        } else {
            self.next = asked + PATIENCE;
        }
    }
}

impl Proofs {
    /// Takes over what the agent before this one has proved. It holds until questions go unanswered.
    pub(crate) fn adopt(&mut self, node: u32, target: Target, now: Instant) {
        self.nodes.insert(node, Proof::new(target, true, now));
    }

    /// Asks these nodes from now on, and no others; those that are new or reached in another way, at once.
    /// A node without a target is not asked for the time being and keeps what is proved: its
    /// neighbour is not resolved. Returns those that are not asked any more.
    pub(crate) fn set_targets(
        &mut self,
        targets: &BTreeMap<u32, Option<Target>>,
        now: Instant,
    ) -> Vec<u32> {
        let gone = self.nodes.keys().filter(|node| !targets.contains_key(node));
        let gone: Vec<u32> = gone.copied().collect();
        self.nodes.retain(|node, _| targets.contains_key(node));
        for (&node, &target) in targets {
            let known = self.nodes.get_mut(&node);
            match (target, known) {
                (Some(target), Some(proof)) if proof.target == target => proof.is_resolved = true,
                (Some(target), _) => {
                    self.nodes.insert(node, Proof::new(target, false, now));
                }
                (None, Some(proof)) => {
                    proof.is_resolved = false;
                    proof.asked = None;
                }
                (None, None) => {}
            }
        }
        gone
    }

    /// Those whose answer is awaited.
    pub(crate) fn awaited(&self) -> Vec<u32> {
        let awaited = self.nodes.iter().filter(|(_, proof)| proof.asked.is_some());
        awaited.map(|(node, _)| *node).collect()
    }

    /// Notes the answer of a node to the last question.
    pub(crate) fn note_answer(&mut self, node: u32, now: Instant) {
        let period = self.period();
        if let Some(proof) = self.nodes.get_mut(&node)
            && let Some(asked) = proof.asked.take()
        {
            proof.is_proved = true;
            proof.answered = Some(now);
            proof.missed = 0;
            proof.next = asked + period;
        }
    }

    /// Notes which questions have gone unanswered, and returns whom to ask now.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<(u32, Target)> {
        let period = self.period();
        let mut due: Vec<(Instant, u32)> = Vec::new();
        for (node, proof) in &mut self.nodes {
            if proof.asked.is_some_and(|asked| asked + PATIENCE <= now) {
                proof.miss(period);
            }
            if proof.is_resolved && proof.asked.is_none() && proof.next <= now {
                due.push((proof.next, *node));
            }
        }
        // Who has waited longest goes first, so that none is left out.
        due.sort_unstable();
        due.truncate(ASKED_PER_TURN);
        let mut asked = Vec::with_capacity(due.len());
        for (_, node) in due {
            if let Some(proof) = self.nodes.get_mut(&node) {
                proof.asked = Some(now);
                asked.push((node, proof.target));
            }
        }
        asked
    }

    /// How long nothing is to be done.
    pub(crate) fn pause(&self, now: Instant) -> Duration {
        let nodes = self.nodes.values().filter(|proof| proof.is_resolved);
        let pauses = nodes.map(|proof| match proof.asked {
            Some(_) => TURN,
            None => proof.next.saturating_duration_since(now),
        });
        pauses.min().unwrap_or(PERIOD).clamp(TURN, PERIOD)
    }

    /// Where frames to a node are proved to arrive.
    pub(crate) fn proved(&self) -> impl Iterator<Item = (u32, Target)> {
        let proved = self.nodes.iter().filter(|(_, proof)| proof.is_proved);
        proved.map(|(node, proof)| (*node, proof.target))
    }

    /// What is known of a node on the segment.
    pub(crate) fn reach(&self, node: u32, now: Instant) -> Reach {
        match self.nodes.get(&node) {
            Some(proof) if proof.is_proved => Reach::Answered(
                proof
                    .answered
                    .map(|at| now.saturating_duration_since(at).as_secs()),
            ),
            Some(proof) if proof.missed > 0 => Reach::Unanswered,
            Some(_) | None => Reach::Unasked,
        }
    }

    fn period(&self) -> Duration {
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        PERIOD.max(Duration::from_secs(1) * nodes / ASKED_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: u32 = 2;

    fn target(last: u8) -> Target {
        Target {
            interface: 7,
            mac: [2, 0, 0, 0, 0, last],
        }
    }

    fn targets(nodes: impl IntoIterator<Item = u32>) -> BTreeMap<u32, Option<Target>> {
        let nodes = nodes.into_iter();
        nodes.map(|node| (node, Some(target(node as u8)))).collect()
    }

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// What happens from `start` on for so many milliseconds, where a question is answered at once while
    /// `answers` says so of its moment: when [`NODE`] was asked, and when its proof came and went.
    fn run(
        proofs: &mut Proofs,
        start: Instant,
        end: u64,
        answers: impl Fn(u64) -> bool,
    ) -> (Vec<u64>, Vec<(u64, bool)>) {
        let (mut asked, mut turns) = (Vec::new(), Vec::new());
        let mut was_answered = false;
        let mut at = 0;
        while at <= end {
            let now = start + milliseconds(at);
            let before = proofs.proved().count() == 1;
            if was_answered && !proofs.awaited().is_empty() {
                proofs.note_answer(NODE, now);
            }
            let due = proofs.take_due(now);
            if !due.is_empty() {
                asked.push(at);
                was_answered = answers(at);
            }
            let is_proved = proofs.proved().count() == 1;
            if is_proved != before {
                turns.push((at, is_proved));
            }
            at += u64::try_from(proofs.pause(now).as_millis()).unwrap();
        }
        (asked, turns)
    }

    #[test]
    fn node_is_asked_at_once_and_proved_by_its_answer_until_three_are_missing() {
        let start = Instant::now();
        let mut proofs = Proofs::default();
        proofs.set_targets(&targets([NODE]), start);
        let (asked, turns) = run(&mut proofs, start, 30_000, |at| at <= 5_000 || at > 20_000);
        // The filter comes after the second question, and is gone after the seventh.
        let expected = [0, 5_000, 10_000, 11_000, 12_000, 17_000, 22_000, 27_000];
        assert_eq!(asked, expected);
        assert_eq!(turns, [(100, true), (13_000, false), (22_100, true)]);
    }

    #[test]
    fn single_answer_after_misses_makes_them_count_from_the_beginning() {
        let start = Instant::now();
        let mut proofs = Proofs::default();
        proofs.adopt(NODE, target(2), start);
        let (asked, turns) = run(&mut proofs, start, 9_000, |at| at == 2_000);
        assert_eq!(asked, [0, 1_000, 2_000, 7_000, 8_000, 9_000]);
        assert_eq!(turns, []);
    }

    #[test]
    fn adopted_proof_holds_until_questions_go_unanswered() {
        let start = Instant::now();
        let mut proofs = Proofs::default();
        proofs.adopt(NODE, target(2), start);
        assert_eq!(proofs.proved().collect::<Vec<_>>(), [(NODE, target(2))]);
        assert_eq!(proofs.reach(NODE, start), Reach::Answered(None));
        // The ways are not known yet: it is not asked.
        proofs.set_targets(&BTreeMap::from([(NODE, None)]), start);
        assert_eq!(proofs.take_due(start), []);
        assert_eq!(proofs.pause(start), PERIOD);
        proofs.set_targets(&targets([NODE]), start);
        let (_, turns) = run(&mut proofs, start, 4_000, |_| false);
        assert_eq!(turns, [(3_000, false)]);
    }

    #[test]
    fn proof_is_of_one_way_only_and_goes_with_it() {
        let now = Instant::now();
        let mut proofs = Proofs::default();
        proofs.adopt(NODE, target(2), now);
        let moved = BTreeMap::from([(NODE, Some(target(9)))]);
        assert_eq!(proofs.set_targets(&moved, now), [0; 0]);
        assert_eq!(proofs.proved().count(), 0);
        assert_eq!(proofs.take_due(now), [(NODE, target(9))]);
        proofs.note_answer(NODE, now);
        assert_eq!(proofs.proved().count(), 1);
        assert_eq!(proofs.set_targets(&BTreeMap::new(), now), [NODE]);
        assert_eq!(proofs.proved().count(), 0);
    }

    #[test]
    fn reach_says_what_the_last_questions_have_shown() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut proofs = Proofs::default();
        assert_eq!(proofs.reach(NODE, start), Reach::Unasked);
        proofs.set_targets(&targets([NODE]), start);
        proofs.take_due(start);
        assert_eq!(proofs.reach(NODE, start), Reach::Unasked);
        proofs.take_due(after(1));
        assert_eq!(proofs.reach(NODE, after(1)), Reach::Unanswered);
        proofs.note_answer(NODE, after(1));
        assert_eq!(proofs.reach(NODE, after(4)), Reach::Answered(Some(3)));
    }

    #[test]
    fn thousands_of_nodes_are_all_asked_at_no_more_than_a_hundred_a_second() {
        const NODES: u32 = 4_000;
        let start = Instant::now();
        let mut proofs = Proofs::default();
        proofs.set_targets(&targets(1..=NODES), start);
        let mut asked: BTreeMap<u32, u32> = BTreeMap::new();
        let (mut at, mut most) = (start, 0);
        // The first round, at its own pace, and four more.
        while at < start + Duration::from_secs(170) {
            for node in proofs.awaited() {
                proofs.note_answer(node, at);
            }
            let due = proofs.take_due(at);
            most = most.max(due.len());
            for (node, _) in due {
                *asked.entry(node).or_default() += 1;
            }
            at += proofs.pause(at);
        }
        assert!(most <= ASKED_PER_TURN, "{most} at once");
        assert_eq!(asked.len() as u32, NODES);
        let total: u32 = asked.values().sum();
        assert!(
            (4 * NODES..=6 * NODES).contains(&total),
            "{total} questions"
        );
    }
}
