use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fairlead_objects::ObjectName;

use crate::liveness::Standing;

/// An address that one node answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vip {
    /// Whose it is.
    pub(crate) service: ObjectName,
    /// The nodes that can serve it; `None` for all.
    pub(crate) only_on: Option<BTreeSet<String>>,
}

impl Vip {
    fn fits(&self, node: &str) -> bool {
        self.only_on
            .as_ref()
            .is_none_or(|nodes| nodes.contains(node))
    }
}

/// A change of who answers for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) address: IpAddr,
    pub(crate) from: Option<String>,
    /// `None` when nobody should any more.
    pub(crate) to: Option<String>,
    /// For people: why not who did before.
    pub(crate) why: &'static str,
}

/// The moves that give each VIP a holder. A holder stays for as long as it can serve; a new one is
/// chosen by rendezvous hashing, so that VIPs spread over the nodes and few would move if nodes
/// were chosen anew. Where nobody can take over, the holder stays too: it may still forward.
pub(super) fn plan(
    vips: &BTreeMap<IpAddr, Vip>,
    nodes: &BTreeMap<String, Standing>,
    holders: &BTreeMap<IpAddr, String>,
) -> Vec<Move> {
    let mut moves = Vec::new();
    for (address, vip) in vips {
        let holder = holders.get(address);
        let why = match holder.map(|holder| (nodes.get(holder), vip.fits(holder))) {
            Some((Some(Standing::Live | Standing::Unheard), true)) => continue,
            Some((Some(Standing::Live | Standing::Unheard), false)) => {
                "which has no backend that is ready"
            }
            Some((Some(Standing::Silent), _)) => "which has been silent for too long",
            Some((None, _)) => "which may not any more",
            None => "",
        };
        let best = nodes
            .iter()
            .filter(|(node, standing)| **standing == Standing::Live && vip.fits(node))
            .map(|(node, _)| node)
            .max_by_key(|node| (score(node, *address), *node));
        let to = match (best, holder) {
            (Some(best), _) => Some(best),
            (None, Some(holder)) if nodes.contains_key(holder) => continue,
            (None, Some(_)) => None,
            (None, None) => continue,
        };
        moves.push(Move {
            address: *address,
            from: holder.cloned(),
            to: to.cloned(),
            why,
        });
    }
    for (address, holder) in holders {
        if !vips.contains_key(address) {
            moves.push(Move {
                address: *address,
                from: Some(holder.clone()),
                to: None,
                why: "which is no longer asked to",
            });
        }
    }
    moves
}

/// FNV-1a of both, mixed once more because its high bits are weak.
fn score(node: &str, address: IpAddr) -> u64 {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let hash = node
        .bytes()
        .chain(octets)
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: u8) -> IpAddr {
        [198, 18, 100, host].into()
    }

    fn vips(
        only_on: Option<&[&str]>,
        hosts: impl IntoIterator<Item = u8>,
    ) -> BTreeMap<IpAddr, Vip> {
        let vip = Vip {
            service: ObjectName::new("shop", "web"),
            only_on: only_on.map(|nodes| nodes.iter().map(|node| (*node).to_owned()).collect()),
        };
        let hosts = hosts.into_iter();
        hosts.map(|host| (address(host), vip.clone())).collect()
    }

    fn nodes(standings: &[(&str, Standing)]) -> BTreeMap<String, Standing> {
        let standings = standings.iter();
        standings
            .map(|(node, standing)| ((*node).to_owned(), *standing))
            .collect()
    }

    /// What becomes of one VIP: "" for nothing, "-" for nobody.
    fn moved(
        only_on: Option<&[&str]>,
        standings: &[(&str, Standing)],
        holder: Option<&str>,
    ) -> String {
        let holders = holder.map(|holder| (address(1), holder.to_owned()));
        let moves = plan(
            &vips(only_on, [1]),
            &nodes(standings),
            &holders.into_iter().collect(),
        );
        match &moves[..] {
            [] => String::new(),
            [one] => one.to.clone().unwrap_or_else(|| "-".to_owned()),
            more => panic!("{more:?}"),
        }
    }

    #[test]
    fn holder_stays_while_it_can_serve_and_somebody_else_takes_over_when_not() {
        use Standing::{Live, Silent, Unheard};
        for (only_on, standings, holder, expected) in [
            // Nobody holds it yet.
            (None, &[("a", Live)][..], None, "a"),
            (None, &[("a", Unheard)], None, ""),
            (None, &[("a", Silent)], None, ""),
            (Some(&["b"][..]), &[("a", Live), ("b", Live)], None, "b"),
            (Some(&[]), &[("a", Live)], None, ""),
            // The holder can serve: it stays, whatever the hash says.
            (None, &[("a", Live), ("b", Live)], Some("a"), ""),
            (None, &[("a", Live), ("b", Live)], Some("b"), ""),
            // A new leader has not heard of it yet.
            (None, &[("a", Unheard), ("b", Live)], Some("a"), ""),
            // It is dead, gone, or has no backend.
            (None, &[("a", Silent), ("b", Live)], Some("a"), "b"),
            (None, &[("b", Live)], Some("a"), "b"),
            (Some(&["b"]), &[("a", Live), ("b", Live)], Some("a"), "b"),
            // Nobody else can.
            (None, &[("a", Silent), ("b", Silent)], Some("a"), ""),
            (Some(&[]), &[("a", Live)], Some("a"), ""),
            (Some(&["b"]), &[("a", Live), ("b", Silent)], Some("a"), ""),
            (None, &[("b", Silent)], Some("a"), "-"),
        ] {
            let seen = moved(only_on, standings, holder);
            assert_eq!(seen, expected, "{only_on:?} {standings:?} {holder:?}");
        }
    }

    #[test]
    fn address_that_is_no_vip_any_more_is_let_go() {
        let holders = BTreeMap::from([(address(9), "a".to_owned())]);
        let moves = plan(&vips(None, []), &nodes(&[("a", Standing::Live)]), &holders);
        assert_eq!(moves.len(), 1);
        assert_eq!((&moves[0].address, &moves[0].to), (&address(9), &None));
    }

    #[test]
    fn vips_spread_over_the_nodes_and_only_a_dead_nodes_move() {
        let names = ["a", "b", "c", "d"];
        let live = names.map(|name| (name, Standing::Live));
        let vips = vips(None, 0..=255);
        let holders: BTreeMap<IpAddr, String> = plan(&vips, &nodes(&live), &BTreeMap::new())
            .into_iter()
            .map(|one| (one.address, one.to.unwrap()))
            .collect();
        for name in names {
            let share = holders.values().filter(|holder| *holder == name).count();
            assert!((40..=90).contains(&share), "{name} holds {share} of 256");
        }
        let mut standings = live;
        standings[1].1 = Standing::Silent;
        let moves = plan(&vips, &nodes(&standings), &holders);
        let held = holders.values().filter(|holder| *holder == "b").count();
        assert_eq!(moves.len(), held);
        assert!(moves.iter().all(|one| one.from.as_deref() == Some("b")));
        let heirs: BTreeSet<_> = moves.iter().filter_map(|one| one.to.clone()).collect();
        assert_eq!(heirs, ["a", "c", "d"].map(str::to_owned).into());
    }
}
