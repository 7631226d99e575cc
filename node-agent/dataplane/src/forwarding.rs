//! How packets reach backends on other nodes: what a service asks for, and what it gets.

use std::fmt;

use fairlead_dataplane_common::NodeEntry;

/// What a service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// [`Mode::Dr`] where the backend's node is on the same segment, else [`Mode::Tun`].
    Auto,
    /// [`Mode::Dr`]. Behind a router that cannot be: the frame would come back. Such backends get
    /// [`Mode::Tun`] all the same.
    Dr,
    /// [`Mode::Tun`].
    Tun,
    /// Something that the programs do not do: [`Mode::Tun`].
    Unsupported,
}

/// How one backend's packets reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// The backend is on this node.
    Local,
    /// The frame as it is, to the MAC address of the backend's node.
    Dr,
    /// In VXLAN.
    Tun,
}

impl Forwarding {
    /// What the control plane's text asks for.
    pub fn of(text: &str) -> Self {
        match text {
            "auto" | "" => Self::Auto,
            "dr" => Self::Dr,
            "tun" => Self::Tun,
            _ => Self::Unsupported,
        }
    }

    /// Whether frames may be passed on as they are.
    pub fn may_pass_on(self) -> bool {
        matches!(self, Self::Auto | Self::Dr)
    }

    /// How packets reach a backend on `node` (`None`: this one), and why so.
    pub fn mode(self, node: Option<&NodeEntry>) -> (Mode, &'static str) {
        let Some(node) = node else {
            return (Mode::Local, "the backend is on this node");
        };
        match self {
            Self::Tun => (Mode::Tun, "the service asks for tun"),
            Self::Unsupported => (Mode::Tun, "this node does not do what the service asks for"),
            Self::Auto | Self::Dr if !node.takes_frames() => (
                Mode::Tun,
                "the backend's node is not known to be on the same segment",
            ),
            Self::Auto => (Mode::Dr, "the backend's node is on the same segment"),
            Self::Dr => (Mode::Dr, "the service asks for dr"),
        }
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Dr => "dr",
            Self::Tun => "tun",
            Self::Unsupported => "unsupported",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Dr => "dr",
            Self::Tun => "tun",
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
        let cases = [
            ("auto", Some(adjacent), Mode::Dr),
            ("auto", Some(resolved), Mode::Tun),
            ("auto", Some(node(None).with_adjacent(true)), Mode::Tun),
            ("auto", None, Mode::Local),
            ("dr", Some(adjacent), Mode::Dr),
            ("dr", Some(resolved), Mode::Tun),
            ("tun", Some(adjacent), Mode::Tun),
            ("nat", Some(adjacent), Mode::Tun),
        ];
        for (asked, node, mode) in cases {
            let chosen = Forwarding::of(asked).mode(node.as_ref());
            assert_eq!(chosen.0, mode, "{asked}, {node:?}: {}", chosen.1);
        }
    }
}
