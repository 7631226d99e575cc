//! What the benchmarks and their programs agree on. No node has these maps.

/// Bytes of the headers of a generated frame: Ethernet, IPv4 and UDP.
pub const HEADER_BYTES: usize = 42;
/// Marks a generated frame, at the start of its last [`STAMP_BYTES`] bytes.
pub const STAMP: u32 = 0xfa1e_1ead;
/// Bytes of a frame's stamp: [`STAMP`], its flow, and nanoseconds of `CLOCK_MONOTONIC` or zero.
pub const STAMP_BYTES: usize = 16;
/// The shortest frame that has room for headers and stamp: Ethernet's own minimum, less its checksum.
pub const FRAME_BYTES_MIN: usize = 60;

/// Receive queues that are told apart; frames of others are counted with the last.
pub const QUEUES_MAX: u32 = 64;

/// Buckets of each power of two of a latency.
const STEPS: u32 = 16;
/// Elements of `latency`: up to 2^40 ns, a quarter of an hour.
pub const LATENCY_BUCKETS: u32 = 37 * STEPS;

/// What the generator sends; the only element of `template`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Template {
    /// The headers as they are on the wire, but for the source port.
    pub headers: [u16; HEADER_BYTES / 2],
    /// Source port of the first flow; each has the next.
    pub first_port: u16,
    /// Flows that take turns.
    pub flows: u32,
    /// Not 0 if frames are to carry the time. Reading it costs 30 ns.
    pub is_timed: u32,
}
map_struct!(Template, 52);

/// A frame as a measured program puts it back; the only element of `whole`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Whole {
    /// Bytes of the frame: [`Self::SHORT`] at least.
    pub length: u32,
    /// Zero.
    pub padding: u32,
    /// Its first bytes. Of a frame shorter than [`Self::LONG`], only [`Self::SHORT`] count.
    pub headers: [u64; Self::LONG / 8],
}
map_struct!(Whole, 88);

impl Whole {
    /// Bytes that hold the headers of TCP over IPv4.
    pub const SHORT: usize = 64;
    /// Bytes that hold the headers of TCP over IPv6.
    pub const LONG: usize = 80;

    /// Nothing if the frame is shorter than [`Self::SHORT`].
    pub fn new(frame: &[u8]) -> Option<Self> {
        let mut headers = [0; Self::LONG / 8];
        for (word, bytes) in headers.iter_mut().zip(frame.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        (frame.len() >= Self::SHORT).then_some(Self {
            length: frame.len() as u32,
            padding: 0,
            headers,
        })
    }
}

/// What a sink received by one queue on one CPU; elements of `received`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Received {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}
map_struct!(Received, 16);

/// The element of `latency` that counts a frame that took `ns`: its bounds are less than 7 % apart.
#[inline(always)]
pub const fn latency_bucket(ns: u64) -> u32 {
    if ns < STEPS as u64 {
        return ns as u32;
    }
    let exponent = 63 - ns.leading_zeros();
    let step = (ns >> (exponent - 4)) as u32 & (STEPS - 1);
    let bucket = (exponent - 3) * STEPS + step;
    if bucket < LATENCY_BUCKETS {
        bucket
    } else {
        LATENCY_BUCKETS - 1
    }
}

/// The shortest latency that `bucket` counts.
pub const fn latency_of(bucket: u32) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let exponent = bucket / STEPS + 3;
    (STEPS + bucket % STEPS) as u64 * (1 << (exponent - 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_in_the_bucket_that_begins_at_or_just_before_it() {
        for ns in (0..40).flat_map(|power| [1_u64 << power, (1 << power) + 1, 3 << power >> 1]) {
            let bucket = latency_bucket(ns);
            let begin = latency_of(bucket);
            assert!(begin <= ns, "{ns} is in the bucket that begins at {begin}");
            assert_eq!(latency_bucket(begin), bucket);
            assert!((ns - begin) * 16 <= ns, "{ns} is far from {begin}");
        }
        assert_eq!(latency_bucket(u64::MAX), LATENCY_BUCKETS - 1);
    }
}
