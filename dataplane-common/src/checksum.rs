//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
//!
//! Sums are of words as loaded by this machine: the checksum is the same in either byte order
//! (RFC 1071 §2 B), so nothing is swapped.

/// Folds a sum of 16-bit and 32-bit words to 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// What changing words `old` (summed) into `new` (summed) makes of the checksum `check`.
#[inline(always)]
pub const fn update(check: u16, old: u64, new: u64) -> u16 {
    // HC' = ~(~HC + ~m + m'). The complement of a folded sum is the sum of the complements.
    !fold((!check) as u64 + (!fold(old)) as u64 + new)
}

/// What the words that are changed in a packet add to the sums that cover them: for several checksums of
/// one packet, each of which covers what another does and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change(u64);

impl Change {
    /// Nothing is changed.
    pub const NONE: Self = Self(0);

    /// A word is changed as well.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u32, new: u32) -> Self {
        // The complement of a sum of halves is the sum of their complements.
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Half a word is changed as well.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// What becomes of a checksum that covers all of it.
    #[inline(always)]
    pub const fn apply(self, check: u16) -> u16 {
        !fold((!check) as u64 + self.0)
    }

    /// The same for a UDP checksum, see [`update_udp`].
    #[inline(always)]
    pub const fn apply_udp(self, check: u16) -> u16 {
        if check == 0 {
            return 0;
        }
        match self.apply(check) {
            0 => 0xffff,
            check => check,
        }
    }
}

/// What changing words `old` (summed) into `new` (summed) adds to a sum: the difference that the
/// kernel's `bpf_l4_csum_replace` takes for changes of any size.
#[inline(always)]
pub const fn difference(old: u64, new: u64) -> u32 {
    fold((!fold(old)) as u64 + new) as u32
}

/// The same for a UDP checksum, where 0 means "none" and a computed 0 is sent as all ones
/// (RFC 768).
#[inline(always)]
pub const fn update_udp(check: u16, old: u64, new: u64) -> u16 {
    if check == 0 {
        return 0;
    }
    match update(check, old, new) {
        0 => 0xffff,
        check => check,
    }
}

/// Ones' complement sum of bytes, an odd last one padded with zero; not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut chunks = bytes.chunks_exact(2);
    let mut sum = 0_u64;
    for word in &mut chunks {
        sum += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = chunks.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    fold(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_of_the_example_in_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).to_be(), 0xddf2);
    }

    #[test]
    fn update_gives_the_example_of_rfc_1624_section_4() {
        // A header word changes from 0x5555 to 0x3285 under the checksum 0xdd2f; equation 3 gives
        // zero where equation 2 gave the wrong 0xffff.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn update_equals_computing_anew_for_every_word_changed() {
        let mut bytes = *b"Fairlead guides a line without chafing it.";
        let mut check = !sum(&bytes);
        for index in (0..bytes.len()).step_by(2) {
            let old = u16::from_ne_bytes([bytes[index], bytes[index + 1]]);
            let new = old.wrapping_mul(40_503).wrapping_add(index as u16);
            bytes[index..index + 2].copy_from_slice(&new.to_ne_bytes());
            check = update(check, old.into(), new.into());
            assert_eq!(check, !sum(&bytes), "after the word at {index}");
        }
    }

    #[test]
    fn difference_applied_to_a_sum_equals_summing_anew() {
        let (old, new) = ([0x1234_u16, 0xffee], [0xabcd_u16, 0x0001]);
        let all = |words: [u16; 2]| words.iter().map(|word| u64::from(*word)).sum::<u64>();
        let rest = 0x4321_u64;
        let moved = u64::from(fold(rest + all(old))) + u64::from(difference(all(old), all(new)));
        assert_eq!(fold(moved), fold(rest + all(new)));
    }

    #[test]
    fn changes_applied_one_by_one_or_together_equal_summing_anew() {
        let old = *b"Fairlead guides a line without chafing it.";
        let mut new = old;
        new[4..8].copy_from_slice(&[0xff, 0xff, 0, 1]);
        new[20..22].copy_from_slice(&[0xfe, 0x01]);
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes[4..8].try_into().unwrap());
        let half = |bytes: &[u8]| u16::from_ne_bytes(bytes[20..22].try_into().unwrap());
        let words = Change::NONE.word(word(&old), word(&new));
        let change = words.half(half(&old), half(&new));
        assert_eq!(change.apply(!sum(&old)), !sum(&new));
        assert_eq!(change.apply_udp(!sum(&old)), !sum(&new));
        let halves = Change::NONE.half(half(&old), half(&new));
        assert_eq!(halves.apply(words.apply(!sum(&old))), !sum(&new));
        assert_eq!(Change::NONE.apply(0x1234), 0x1234);
    }

    #[test]
    fn changed_udp_checksum_of_none_stays_none_and_zero_becomes_ones() {
        let change = Change::NONE.half(0x5555, 0x3285);
        assert_eq!(change.apply_udp(0), 0);
        assert_eq!(change.apply_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn udp_checksum_of_none_stays_none_and_zero_becomes_ones() {
        assert_eq!(update_udp(0, 1, 2), 0);
        assert_eq!(update_udp(0xdd2f, 0x5555, 0x3285), 0xffff);
    }
}
