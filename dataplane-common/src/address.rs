use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address mapped into one (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2), in
/// network order.
///
/// Stored as four words, because the programs compare and hash words.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address {
    /// The 16 bytes as they are on the wire, four at a time, each loaded in the machine's order.
    pub words: [u32; 4],
}
map_struct!(Address, 16);

impl Address {
    /// `::`, which stands for "none".
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// The third word of every mapped IPv4 address.
    const MAPPED: u32 = 0x0000_ffff_u32.to_be();

    /// Maps an IPv4 address given as the word it is on the wire.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self {
            words: [0, 0, Self::MAPPED, word],
        }
    }

    /// From 16 bytes in network order.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            words: [
                u32::from_ne_bytes([a, b, c, d]),
                u32::from_ne_bytes([e, f, g, h]),
                u32::from_ne_bytes([i, j, k, l]),
                u32::from_ne_bytes([m, n, o, p]),
            ],
        }
    }

    /// The 16 bytes in network order.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Whether this is a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == Self::MAPPED
    }

    /// The IPv4 address as the word it is on the wire; meaningful only if [`Self::is_v4`].
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.words[3]
    }

    /// Whether this is `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] | self.words[1] | self.words[2] | self.words[3] == 0
    }

    /// Zero if `other` is the same address. No bit of it means anything else.
    #[inline(always)]
    pub const fn difference(&self, other: &Self) -> u32 {
        (self.words[0] ^ other.words[0])
            | (self.words[1] ^ other.words[1])
            | (self.words[2] ^ other.words[2])
            | (self.words[3] ^ other.words[3])
    }

    /// The sum of its words, as checksums of pseudo headers take it. The words that only map an
    /// IPv4 address are not part of any packet.
    #[inline(always)]
    pub const fn sum(&self) -> u64 {
        if self.is_v4() {
            return self.words[3] as u64;
        }
        self.words[0] as u64 + self.words[1] as u64 + self.words[2] as u64 + self.words[3] as u64
    }

    /// The address with every bit cleared that `mask` clears.
    #[inline(always)]
    pub const fn masked(&self, mask: &Self) -> Self {
        Self {
            words: [
                self.words[0] & mask.words[0],
                self.words[1] & mask.words[1],
                self.words[2] & mask.words[2],
                self.words[3] & mask.words[3],
            ],
        }
    }

    /// The mask of a prefix of `length` bits (of 128: an IPv4 prefix counts 96 more).
    pub fn mask(length: u32) -> Self {
        let bits = if length == 0 {
            0
        } else {
            u128::MAX << (128 - length.min(128))
        };
        Self::from_bytes(bits.to_be_bytes())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        Self::from_bytes(address.octets())
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.to_bytes()).to_canonical()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_address_is_mapped_and_comes_back() {
        let address = Address::from(Ipv4Addr::new(198, 18, 100, 1));
        assert!(address.is_v4());
        assert_eq!(address.to_bytes()[10..], [0xff, 0xff, 198, 18, 100, 1]);
        assert_eq!(IpAddr::from(address), IpAddr::from([198, 18, 100, 1]));
    }

    #[test]
    fn v6_address_keeps_its_bytes() {
        let v6: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let address = Address::from(v6);
        assert!(!address.is_v4());
        assert_eq!(address.to_bytes(), v6.octets());
    }

    #[test]
    fn mask_of_a_mapped_prefix_clears_host_bits_only() {
        let address = Address::from(Ipv4Addr::new(10, 244, 3, 9));
        let network = address.masked(&Address::mask(96 + 24));
        assert_eq!(network, Address::from(Ipv4Addr::new(10, 244, 3, 0)));
        assert_eq!(address.masked(&Address::mask(0)), Address::UNSPECIFIED);
        assert_eq!(address.masked(&Address::mask(128)), address);
    }
}
