/// What the names of cases begin with.
const PREFIX: &str = "frame_";
/// Frames' lengths on the wire, in bytes, as RFC 2544 §9.1 lists them.
const WIRE_BYTES: [usize; 7] = [64, 128, 256, 512, 1024, 1280, 1518];
/// Ethernet's checksum, which only the wire has.
const CHECKSUM_BYTES: usize = 4;

/// Frames of one length: `frame_64` to `frame_1518`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    wire_bytes: usize,
}

impl Case {
    /// The case of this name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let cases = WIRE_BYTES.map(|wire_bytes| Self { wire_bytes });
        let found = cases.into_iter().find(|case| case.name() == name);
        found.ok_or_else(|| format!("is none of {}", cases.map(Self::name).join(", ")))
    }

    /// As it is asked for.
    pub(crate) fn name(self) -> String {
        format!("{PREFIX}{}", self.wire_bytes)
    }

    /// The length of a frame in memory.
    pub(crate) const fn frame_bytes(self) -> usize {
        self.wire_bytes - CHECKSUM_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_known_by_the_length_on_the_wire() {
        assert_eq!(Case::parse("frame_64").map(Case::frame_bytes), Ok(60));
        assert_eq!(Case::parse("frame_1518").map(Case::frame_bytes), Ok(1514));
        for name in ["frame_65", "64", ""] {
            let told = Case::parse(name).unwrap_err();
            assert!(
                told.starts_with("is none of frame_64, frame_128,"),
                "{told}"
            );
        }
    }
}
