/// Declares the reasons once: number, name, and a sentence for people.
macro_rules! drop_reasons {
    ($($number:literal $name:ident $text:literal,)*) => {
        /// Why a packet was dropped. Indexes `drops`.
        ///
        /// Append-only: the number of a retired reason is given to no other, so counters of different
        /// versions can be compared.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum DropReason {
            $(#[doc = $text] $name = $number,)*
        }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name, as counters and netctl print it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What happened, as a phrase for people.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    1 Malformed "a header is cut short or contradicts itself",
    2 IpOptions "IP options or extension headers on a packet that has to be rewritten",
    // 3 was Fragment, before fragments were followed.
    4 NoBackend "the service has no backend",
    5 UnknownPort "the VIP has no service at this port",
    6 UnsupportedProtocol "a protocol that is neither balanced nor masqueraded",
    7 UnknownVni "encapsulated for a network this node does not have",
    8 UnknownPeer "encapsulated by a host that is no node of the cluster",
    9 UnknownBackend "encapsulated for a backend this node does not have",
    10 NoEndpoint "no pod of this node has the destination address",
    11 NoRoute "a cluster address that no node holds",
    12 Spoofed "the source is not the address of the pod that sent it",
    13 SnatExhausted "no port is left to masquerade a connection to this destination",
    14 EncapsulationFailed "the kernel refused to add or remove the outer headers",
    15 RewriteFailed "the kernel refused to change a header",
    16 UnsupportedFamily "sent by a pod, in a protocol it has no address of",
    17 FamilyMismatch "for a backend that has no address of the packet's family",
    18 NoLocalBackend "passed on by another node for a backend that is not on this one",
    19 TooBig "larger than the way to its backend takes, and of a kind that is not answered",
    20 ForeignError "an ICMP error that quotes no packet of a service's",
    21 SourceNotAllowed "the client's address is in none of the service's source ranges",
    22 FragmentUnknown "a later fragment of a packet whose first was not seen",
    23 NatExhausted "no port or entry is left to translate a connection to this backend",
    24 ForeignTunnel "in IP in IP or GUE, and for no VIP of this node's",
    // 25 was NotPassedOn: what has no neighbour yet is left to the stack, which finds it.
    26 HopLimit "its hop limit ended here",
    27 NotTranslated "a reset of a connection that is not translated here",
}

impl DropReason {
    /// The reason with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| *reason as u32 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps;

    #[test]
    fn numbers_are_unique_and_fit_the_counters() {
        assert!(DropReason::ALL.is_sorted_by(|one, next| (*one as u32) < *next as u32));
        for reason in DropReason::ALL {
            assert!((*reason as u32) < maps::DROP_REASONS_MAX);
            assert_eq!(DropReason::from_number(*reason as u32), Some(*reason));
        }
        for retired in [0, 3, 25] {
            assert_eq!(DropReason::from_number(retired), None);
        }
    }
}
