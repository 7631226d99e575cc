/// Declares the counters once: number, name, and a sentence for people.
macro_rules! counters {
    ($($number:literal $name:ident $text:literal,)*) => {
        /// What is worth counting and is no drop. Indexes `counters`.
        ///
        /// Append-only: a retired counter keeps its number.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Counter {
            $(#[doc = $text] $name = $number,)*
        }

        impl Counter {
            /// Every counter, by number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name, as netctl prints it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What is counted, as a phrase for people.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

counters! {
    1 FlowTableFull "flows that were not noted because the table is full, and went by the plain pick",
    2 SecondChance "packets of connections unknown here that were passed to who had them before",
    3 Reset "segments that nobody takes any more, and whose senders were told so by a reset",
    4 NeighbourAnswered "ARP requests and neighbour solicitations for VIPs that were answered",
    5 EchoAnswered "echo requests to VIPs that were answered",
    6 TooBigAnswered "packets too big for the way to their backend whose senders were told so",
    7 Decapsulated "packets that arrived in IP in IP or GUE",
    8 MssClamped "SYN packets whose maximum segment size was lowered",
    9 NotesTooFast "flows that were not noted because their service, or all, had begun as many in that moment as may be",
    10 FlowShareFull "flows that were not noted because their service has its share of the table",
    11 ProbeAnswered "probes of other nodes that were answered",
    12 ProbeNoted "answers to this node's own probes",
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps;

    #[test]
    fn numbers_are_unique_and_fit_the_counters() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index + 1, "{}", counter.name());
            assert!((*counter as u32) < maps::COUNTERS_MAX);
        }
    }
}
