//! Ids that are a function of the file: the same in every run, and on every balancer with the same
//! file, for tables are built from them.

use std::collections::BTreeMap;

/// Gives each name a number of its own, never 0. Two names whose hashes are the same are told apart
/// by hashing again, in the order of the names, so the order in the file does not matter.
pub(crate) fn assign<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, u32> {
    let mut ids: BTreeMap<&str, u32> = names.into_iter().map(|name| (name, 0)).collect();
    let mut taken = std::collections::HashSet::from([0]);
    for (name, id) in &mut ids {
        *id = (0_u32..)
            .map(|attempt| hash(name, attempt))
            .find(|candidate| taken.insert(*candidate))
            .expect("a file has fewer names than there are numbers");
    }
    ids
}

/// FNV-1a over 64 bits, folded: ids have to be unlike, not unguessable.
fn hash(name: &str, attempt: u32) -> u32 {
    let bytes = attempt.to_be_bytes().into_iter().chain(name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash >> 32) as u32 ^ hash as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_names_and_not_on_their_order() {
        let forwards = assign(["web", "dns", "mail"]);
        let backwards = assign(["mail", "dns", "web"]);
        assert_eq!(forwards, backwards);
        let fewer = assign(["web", "mail"]);
        assert_eq!(fewer["web"], forwards["web"]);
        assert_eq!(fewer["mail"], forwards["mail"]);
    }

    #[test]
    fn names_that_collide_get_ids_of_their_own() {
        // A quarter of a million names: some eight pairs meet in 32 bits.
        let names: Vec<String> = (0..1 << 18)
            .map(|number| format!("name-{number}"))
            .collect();
        let plain: std::collections::HashSet<u32> =
            names.iter().map(|name| hash(name, 0)).collect();
        assert!(plain.len() < names.len(), "the names were to collide");
        let ids = assign(names.iter().map(String::as_str));
        let distinct: std::collections::HashSet<u32> = ids.values().copied().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(!distinct.contains(&0));
    }
}
