use std::sync::Arc;

use fairlead_api::Index;

use super::*;
use crate::RevisionedBytes;

fn value(text: &str) -> RevisionedBytes {
    RevisionedBytes {
        head: format!("{text}@").into_bytes().into(),
        tail: Default::default(),
    }
}

fn put(key: &str, expect: Expect, text: &str) -> Op {
    Op::Put {
        key: Key::raw(key),
        expect,
        value: value(text),
        index: Arc::new(Index::default()),
    }
}

fn delete(key: &str, expect: Expect) -> Op {
    Op::Delete {
        key: Key::raw(key),
        expect,
    }
}

fn command(proposer: u64, sequence: u64, answered_below: u64, ops: Vec<Op>) -> Command {
    Command {
        proposer: ProposerId(proposer),
        sequence,
        answered_below,
        transaction: Transaction {
            checks: Vec::new(),
            ops,
        },
    }
}

/// Applies each transaction to what the ones before it left, as one proposer in order.
fn run(transactions: Vec<Transaction>) -> (State, Vec<(Outcome, Vec<Event>)>) {
    let mut state = State::default();
    let mut outcomes = Vec::new();
    for (sequence, transaction) in (0..).zip(transactions) {
        let command = Command {
            transaction,
            ..command(1, sequence, sequence, Vec::new())
        };
        outcomes.push(state.apply(&command));
    }
    (state, outcomes)
}

fn ops(ops: Vec<Op>) -> Transaction {
    Transaction {
        checks: Vec::new(),
        ops,
    }
}

fn text(state: &State, key: &str) -> Option<String> {
    let snapshot = state.snapshot();
    let entry = snapshot.get(&Key::raw(key))?;
    Some(String::from_utf8(entry.value.to_vec()).expect("values are text"))
}

#[test]
fn preconditions_decide_whether_anything_changes() {
    use Expect::{Absent, Any, Present};
    let at = |revision| Expect::Revision(Revision(revision));
    // After `a` was written at revision 1: the op, whether it is done, the revision after it.
    let cases = [
        (put("a", Any, "x"), true, 2),
        (put("a", Absent, "x"), false, 1),
        (put("a", Present, "x"), true, 2),
        (put("a", at(1), "x"), true, 2),
        (put("a", at(2), "x"), false, 1),
        (put("b", Any, "x"), true, 2),
        (put("b", Absent, "x"), true, 2),
        (put("b", Present, "x"), false, 1),
        (put("b", at(1), "x"), false, 1),
        (delete("a", Any), true, 2),
        (delete("a", Absent), false, 1),
        (delete("a", Present), true, 2),
        (delete("a", at(1)), true, 2),
        (delete("a", at(7)), false, 1),
        (delete("b", Any), true, 1),
        (delete("b", Present), false, 1),
    ];
    for (op, done, revision) in cases {
        let (state, outcomes) = run(vec![
            ops(vec![put("a", Absent, "1")]),
            ops(vec![op.clone()]),
        ]);
        let applied = matches!(outcomes[1].0, Outcome::Applied(_));
        assert_eq!(applied, done, "{op:?}");
        assert_eq!(state.revision, Revision(revision), "{op:?}");
        assert_eq!(outcomes[1].1.len() as u64, revision - 1, "{op:?}");
    }
}

#[test]
fn failed_precondition_undoes_the_ops_before_it_and_names_the_key() {
    let (state, outcomes) = run(vec![ops(vec![
        put("a", Expect::Absent, "1"),
        put("b", Expect::Present, "2"),
    ])]);
    assert_eq!(text(&state, "a"), None);
    assert_eq!(state.revision, Revision(0));
    let refusal = Refusal {
        key: Key::raw("b"),
        expected: Expect::Present,
        actual: None,
    };
    assert_eq!(outcomes[0], (Outcome::Refused(refusal), Vec::new()));
}

#[test]
fn check_on_another_key_guards_the_whole_transaction() {
    let guarded = |expect| Transaction {
        checks: vec![Check {
            key: Key::raw("guard"),
            expect,
        }],
        ops: vec![put("a", Expect::Any, "1")],
    };
    let (state, _) = run(vec![guarded(Expect::Present)]);
    assert_eq!(text(&state, "a"), None);
    let (state, _) = run(vec![guarded(Expect::Absent)]);
    assert_eq!(text(&state, "a").as_deref(), Some("1@1"));
}

#[test]
fn every_op_takes_one_revision_and_is_stamped_with_it() {
    let (state, outcomes) = run(vec![ops(vec![
        put("a", Expect::Absent, "first"),
        put("b", Expect::Absent, "second"),
        put("a", Expect::Revision(Revision(1)), "third"),
        delete("b", Expect::Present),
    ])]);
    assert_eq!(text(&state, "a").as_deref(), Some("third@3"));
    assert_eq!(text(&state, "b"), None);
    let (Outcome::Applied(committed), events) = &outcomes[0] else {
        panic!("applied: {outcomes:?}");
    };
    assert_eq!(committed.revision, Revision(4));
    let deleted = committed.entries[3].as_ref().expect("it was there");
    assert_eq!(deleted.revision, Revision(2), "the entry as it last was");
    let revisions: Vec<u64> = events.iter().map(|event| event.revision.0).collect();
    assert_eq!(revisions, [1, 2, 3, 4]);
    assert_eq!(events[2].previous, events[0].current);
    assert_eq!(events[3].current, None);
}

#[test]
fn command_sent_again_is_applied_once_and_answered_alike() {
    let mut state = State::default();
    let create = command(1, 0, 0, vec![put("a", Expect::Absent, "1")]);
    let first = state.apply(&create);
    let again = state.apply(&create);
    assert_eq!(first.0, again.0);
    assert_eq!(again.1, Vec::new());
    assert_eq!(state.revision, Revision(1));
    // Another proposer's command of the same number is another command.
    let other = command(2, 0, 0, vec![put("a", Expect::Present, "2")]);
    assert!(matches!(state.apply(&other).0, Outcome::Applied(_)));
}

#[test]
fn command_older_than_its_proposers_answers_is_not_applied() {
    let mut state = State::default();
    state.apply(&command(1, 5, 5, vec![put("a", Expect::Any, "1")]));
    let late = command(1, 4, 4, vec![put("a", Expect::Any, "late")]);
    assert_eq!(state.apply(&late), (Outcome::Forgotten, Vec::new()));
    assert_eq!(text(&state, "a").as_deref(), Some("1@1"));
}

#[test]
fn results_are_forgotten_as_answers_arrive_and_proposers_fall_silent() {
    let mut state = State::default();
    for sequence in 0..1000 {
        let answered_below = u64::saturating_sub(sequence, 9);
        state.apply(&command(1, sequence, answered_below, Vec::new()));
        assert!(state.proposers.sizes().1 <= 10);
    }
    for proposer in 2..200 {
        state.apply(&command(proposer, 0, 0, Vec::new()));
    }
    assert_eq!(state.proposers.sizes().0, 64);
    let latest = state.proposers.look_up(ProposerId(199), 0);
    assert!(matches!(latest, Known::Answered(_)));
}

#[test]
fn same_commands_make_the_same_state() {
    let script = || {
        run((0..500u64)
            .map(|i| {
                let key = format!("/registry/core/pods/ns/{}", i * 7 % 50);
                match i % 5 {
                    0 => ops(vec![delete(&key, Expect::Any)]),
                    1 => ops(vec![put(&key, Expect::Absent, "new")]),
                    _ => ops(vec![put(&key, Expect::Any, "any")]),
                }
            })
            .collect())
    };
    assert_eq!(script(), script());
}

#[test]
fn later_writes_do_not_change_a_snapshot() {
    let mut state = State::default();
    state.apply(&command(1, 0, 0, vec![put("a", Expect::Any, "old")]));
    let before = state.snapshot();
    state.apply(&command(1, 1, 1, vec![put("a", Expect::Any, "new")]));
    state.apply(&command(1, 2, 2, vec![put("b", Expect::Any, "new")]));
    assert_eq!(before.revision(), Revision(1));
    assert_eq!(&before.get(&Key::raw("a")).expect("a").value[..], b"old@1");
    assert_eq!(before.count("", None), 1);
}

#[test]
fn range_pages_through_a_prefix_in_the_order_of_keys() {
    let mut state = State::default();
    let keys = [
        "/r/pods/a/2",
        "/r/pods/a/1",
        "/r/pods/b/1",
        "/r/podsx/c",
        "/r/nodes/n",
    ];
    let puts = keys.map(|key| put(key, Expect::Any, "x"));
    state.apply(&command(1, 0, 0, puts.to_vec()));
    let snapshot = state.snapshot();
    let list = |prefix: &str, after: Option<&str>| -> Vec<String> {
        let range = snapshot.range(prefix, after);
        range.map(|entry| entry.key.to_string()).collect()
    };
    assert_eq!(
        list("/r/pods/", None),
        ["/r/pods/a/1", "/r/pods/a/2", "/r/pods/b/1"]
    );
    assert_eq!(
        list("/r/pods/", Some("/r/pods/a/1")),
        ["/r/pods/a/2", "/r/pods/b/1"]
    );
    // The last key of the page before may have gone since.
    assert_eq!(list("/r/pods/", Some("/r/pods/a/9")), ["/r/pods/b/1"]);
    assert_eq!(
        list("/r/pods/a/", Some("/r/nodes/n")),
        ["/r/pods/a/1", "/r/pods/a/2"]
    );
    assert_eq!(snapshot.count("/r/pods/", Some("/r/pods/a/1")), 2);
}
