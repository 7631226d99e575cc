//! How much stack a program takes with all it calls, as the kernel's verifier counts
//! (`check_max_stack_depth` of kernel/bpf/verifier.c).

use std::collections::BTreeMap;
use std::fmt;

/// Bytes that a chain of calls may take: `MAX_BPF_STACK` of linux/filter.h.
pub(super) const CHAIN_MAX: u32 = 512;
/// A frame counts in steps of this many bytes, and an empty one as one step. Newer kernels count in
/// steps of 16; the oldest that has to run the programs, 6.1, in these.
const STEP: u32 = 32;

/// One function of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Function {
    /// For people.
    pub(super) name: String,
    /// Bytes of its own frame.
    pub(super) frame: u32,
    /// The functions that it calls, or has the kernel call back.
    pub(super) calls: Vec<Place>,
}

/// Where a function stands in its object: section and offset.
pub(super) type Place = (usize, u64);

/// Functions that call each other, the outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    frames: Vec<(String, u32)>,
}

impl Chain {
    /// Bytes that it takes.
    pub(super) fn depth(&self) -> u32 {
        self.frames.iter().map(|(_, frame)| counted(*frame)).sum()
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes: ", self.depth())?;
        for (index, (name, frame)) in self.frames.iter().enumerate() {
            let arrow = if index == 0 { "" } else { " > " };
            write!(f, "{arrow}{name} ({frame})")?;
        }
        Ok(())
    }
}

/// What a frame counts for.
fn counted(frame: u32) -> u32 {
    frame.max(1).next_multiple_of(STEP)
}

/// The chain that takes most; the first by place among equals. Nothing if there is no function.
/// Functions do not call themselves, by whatever detour: the verifier refuses that.
pub(super) fn deepest(functions: &BTreeMap<Place, Function>) -> Option<Chain> {
    let mut known = BTreeMap::new();
    let chains = functions
        .keys()
        .map(|place| below(functions, *place, &mut known));
    let mut deepest: Option<Chain> = None;
    for chain in chains {
        if deepest
            .as_ref()
            .is_none_or(|other| other.depth() < chain.depth())
        {
            deepest = Some(chain);
        }
    }
    deepest
}

/// The deepest chain that begins with the function at `place`.
fn below(
    functions: &BTreeMap<Place, Function>,
    place: Place,
    known: &mut BTreeMap<Place, Chain>,
) -> Chain {
    if let Some(chain) = known.get(&place) {
        return chain.clone();
    }
    let Some(function) = functions.get(&place) else {
        return Chain { frames: Vec::new() };
    };
    let mut frames = vec![(function.name.clone(), function.frame)];
    let callees = function
        .calls
        .iter()
        .map(|callee| below(functions, *callee, known));
    if let Some(rest) = callees.max_by_key(Chain::depth) {
        frames.extend(rest.frames);
    }
    let chain = Chain { frames };
    known.insert(place, chain.clone());
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of functions: name, frame, and the names of what it calls.
    fn table(rows: &[(&str, u32, &[&str])]) -> BTreeMap<Place, Function> {
        let place = |name: &str| {
            let index = rows.iter().position(|(other, ..)| *other == name);
            (1, index.expect("a row of that name") as u64)
        };
        let function = |(name, frame, calls): &(&str, u32, &[&str])| {
            let function = Function {
                name: (*name).to_owned(),
                frame: *frame,
                calls: calls.iter().map(|callee| place(callee)).collect(),
            };
            (place(name), function)
        };
        rows.iter().map(function).collect()
    }

    #[track_caller]
    fn check(rows: &[(&str, u32, &[&str])], expected: &str) {
        let chain = deepest(&table(rows)).expect("there are functions");
        assert_eq!(chain.to_string(), expected);
    }

    #[test]
    fn frames_are_rounded_up_and_an_empty_one_counts() {
        check(&[("alone", 33, &[])], "64 bytes: alone (33)");
        check(&[("alone", 32, &[])], "32 bytes: alone (32)");
        check(
            &[("entry", 8, &["clear"]), ("clear", 0, &[])],
            "64 bytes: entry (8) > clear (0)",
        );
    }

    #[test]
    fn deepest_chain_is_not_the_one_with_the_largest_frame() {
        check(
            &[
                ("entry", 64, &["large", "small"]),
                ("large", 200, &[]),
                ("small", 100, &["smaller"]),
                ("smaller", 130, &[]),
            ],
            "352 bytes: entry (64) > small (100) > smaller (130)",
        );
    }

    #[test]
    fn function_that_two_call_counts_below_the_larger() {
        check(
            &[
                ("first", 10, &["shared"]),
                ("second", 100, &["shared"]),
                ("shared", 50, &["last"]),
                ("last", 20, &[]),
            ],
            "224 bytes: second (100) > shared (50) > last (20)",
        );
    }

    #[test]
    fn no_function_has_no_chain() {
        assert_eq!(deepest(&BTreeMap::new()), None);
    }
}
