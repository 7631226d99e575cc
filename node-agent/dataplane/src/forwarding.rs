//! How packets reach backends on other nodes: what a service asks for, and what it gets.

use std::borrow::Cow;
use std::fmt;

use fairlead_dataplane_common::{NODE_SERVER, NodeEntry};

use crate::probing::Reach;

/// What a service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// [`Mode::Dr`] where the backend's node is on the same segment and answers probes, else
    /// [`Mode::Tun`]. Where a machine outside the cluster listens at another port than clients name, it has become [`Self::Nat`].
    Auto,
    /// [`Mode::Dr`]. Behind a router that cannot be: the frame would come back. Nor can it where probes
    /// go unanswered: the frame would not arrive. Such backends get [`Mode::Tun`] all the same.
    Dr,
    /// [`Mode::Tun`].
    Tun,
    /// [`Mode::Nat`], for networks that refuse answers which do not come back the way the request
    /// went.
    Nat,
}

/// How one backend's packets reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// The backend is on this node.
    Local,
    /// The frame as it is, to the MAC address of the backend's node.
    Dr,
    /// Encapsulated: in VXLAN for a node of the cluster, in IP in IP or GUE for a machine outside.
    Tun,
    /// With both addresses translated here; answers come back to this node.
    Nat,
}

impl Forwarding {
    /// Whether frames may be passed on as they are.
    pub fn may_pass_on(self) -> bool {
        matches!(self, Self::Auto | Self::Dr)
    }

    /// How packets reach a backend on `node` (`None`: this one), of which `reach` is known, and why so.
    /// `is_noted` says that the service has every flow noted: other nodes cannot make its picks again.
    pub(crate) fn mode(
        self,
        is_noted: bool,
        node: Option<(&NodeEntry, Reach)>,
    ) -> (Mode, Cow<'static, str>) {
        let Some((node, reach)) = node else {
            return (Mode::Local, "the backend is on this node".into());
        };
        let is_outside = node.flags & NODE_SERVER != 0;
        let (mode, reason) = match self {
            Self::Tun => (Mode::Tun, "the service asks for tun"),
            Self::Nat => (Mode::Nat, "the service asks for nat"),
            Self::Auto | Self::Dr if !node.takes_frames() && is_outside => (
                Mode::Tun,
                "the server is not known to be on the same segment",
            ),
            Self::Auto | Self::Dr if !node.takes_frames() => {
                return (Mode::Tun, reach.to_string().into());
            }
            Self::Auto if is_outside => (Mode::Dr, "the server is on the same segment"),
            Self::Auto | Self::Dr if is_noted && !is_outside => (
                Mode::Tun,
                "every flow is noted, so packets have to name their backend",
            ),
            Self::Auto => return (Mode::Dr, reach.to_string().into()),
            Self::Dr if is_outside => (Mode::Dr, "the service asks for dr"),
            Self::Dr => return (Mode::Dr, format!("the service asks for dr; {reach}").into()),
        };
        (mode, reason.into())
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Dr => "dr",
            Self::Tun => "tun",
            Self::Nat => "nat",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Dr => "dr",
            Self::Tun => "tun",
            Self::Nat => "nat",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn only_a_node_on_the_segment_gets_frames_as_they_are() {
        let address = |last| Ipv4Addr::new(198, 18, 0, last).into();
        let node = |mac| NodeEntry::new(2, address(102), address(101), 1, 1500, mac);
        let resolved = node(Some([2, 0, 0, 0, 0, 2]));
        let adjacent = resolved.with_adjacent(true);
        let mut server = resolved;
        server.flags |= NODE_SERVER;
        let cases = [
            (Forwarding::Auto, Some(adjacent), Mode::Dr),
            (Forwarding::Auto, Some(resolved), Mode::Tun),
            (
                Forwarding::Auto,
                Some(node(None).with_adjacent(true)),
                Mode::Tun,
            ),
            (Forwarding::Auto, Some(server), Mode::Tun),
            (Forwarding::Auto, Some(server.with_adjacent(true)), Mode::Dr),
            (Forwarding::Auto, None, Mode::Local),
            (Forwarding::Dr, Some(adjacent), Mode::Dr),
            (Forwarding::Dr, Some(resolved), Mode::Tun),
            (Forwarding::Tun, Some(adjacent), Mode::Tun),
            (Forwarding::Nat, Some(adjacent), Mode::Nat),
            (Forwarding::Nat, None, Mode::Local),
        ];
        for (asked, node, mode) in cases {
            let node = node.as_ref().map(|node| (node, Reach::Unasked));
            let chosen = asked.mode(false, node);
            assert_eq!(chosen.0, mode, "{asked}, {node:?}: {}", chosen.1);
        }
        // Who has every flow noted picks as no other node would, and only nodes would pick at all.
        let noted = |asked: Forwarding, node: NodeEntry| {
            asked.mode(true, Some((&node, Reach::Answered(None)))).0
        };
        assert_eq!(noted(Forwarding::Dr, adjacent), Mode::Tun);
        assert_eq!(noted(Forwarding::Dr, server.with_adjacent(true)), Mode::Dr);
    }

    #[test]
    fn reason_says_what_probes_have_shown() {
        let address = |last| Ipv4Addr::new(198, 18, 0, last).into();
        let node = NodeEntry::new(2, address(102), address(101), 1, 1500, Some([2; 6]));
        let cases = [
            (
                Reach::Answered(Some(3)),
                true,
                "a probe was answered 3 s ago",
            ),
            (
                Reach::Answered(None),
                true,
                "a probe was answered to the agent before this one",
            ),
            (Reach::Routed, false, "the node is behind a router"),
            (Reach::Unasked, false, "no probe has been answered yet"),
            (
                Reach::Unanswered,
                false,
                "no probe has been answered: something between drops frames that are passed on",
            ),
        ];
        for (reach, takes_frames, reason) in cases {
            let node = node.with_adjacent(takes_frames);
            let mode = if takes_frames { Mode::Dr } else { Mode::Tun };
            let chosen = Forwarding::Auto.mode(false, Some((&node, reach)));
            assert_eq!(chosen, (mode, reason.into()));
            let chosen = Forwarding::Dr.mode(false, Some((&node, reach)));
            assert_eq!(chosen.0, mode, "dr cannot be had by asking for it");
            assert!(chosen.1.ends_with(reason), "{}", chosen.1);
        }
    }
}
