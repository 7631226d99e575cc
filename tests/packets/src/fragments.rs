//! Packets taken apart into fragments, and put together again.

use fairlead_dataplane_common::{checksum, protocol};

use crate::frame::{NETWORK, mend_ip};

/// Bytes of the IP payload in all fragments but the last.
const PART: usize = 1_000;

/// Splits an IPv4 packet; `identification` tells it from others.
pub fn split(whole: &[u8], identification: u16) -> Vec<Vec<u8>> {
    split_at(PART, whole, identification)
}

/// The same with so many bytes of payload in all fragments but the last, eight or a multiple of it.
pub fn split_at(size: usize, whole: &[u8], identification: u16) -> Vec<Vec<u8>> {
    let payload = &whole[NETWORK + 20..];
    let parts = payload.chunks(size).enumerate();
    parts
        .map(|(index, part)| {
            let mut frame = [&whole[..NETWORK + 20], part].concat();
            let more = (index + 1) * size < payload.len();
            let offset = (index * size / 8) as u16 | u16::from(more) << 13;
            frame[NETWORK + 2..NETWORK + 4]
                .copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
            frame[NETWORK + 4..NETWORK + 6].copy_from_slice(&identification.to_be_bytes());
            frame[NETWORK + 6..NETWORK + 8].copy_from_slice(&offset.to_be_bytes());
            mend_ip(&mut frame);
            frame
        })
        .collect()
}

/// Puts the fragments of an IPv4 packet together.
pub fn join(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = fragments[0][..NETWORK + 20].to_vec();
    for fragment in fragments {
        let header = &fragment[NETWORK..NETWORK + 20];
        assert_eq!(checksum::sum(header), 0xffff);
        assert_eq!(
            header[12..20],
            whole[NETWORK + 12..NETWORK + 20],
            "addresses"
        );
        let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
        assert_eq!(usize::from(offset) * 8, whole.len() - NETWORK - 20, "order");
        whole.extend(&fragment[NETWORK + 20..]);
    }
    let length = (whole.len() - NETWORK) as u16;
    whole[NETWORK + 2..NETWORK + 4].copy_from_slice(&length.to_be_bytes());
    whole[NETWORK + 6..NETWORK + 8].fill(0);
    mend_ip(&mut whole);
    whole
}

/// Splits an IPv6 packet.
pub fn split_v6(whole: &[u8], identification: u32) -> Vec<Vec<u8>> {
    let payload = &whole[NETWORK + 40..];
    let parts = payload.chunks(PART).enumerate();
    parts
        .map(|(index, part)| {
            let more = (index + 1) * PART < payload.len();
            let mut frame = whole[..NETWORK + 40].to_vec();
            frame[NETWORK + 4..NETWORK + 6].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
            frame[NETWORK + 6] = protocol::FRAGMENT;
            frame.extend([whole[NETWORK + 6], 0]);
            frame.extend(((index * PART) as u16 | u16::from(more)).to_be_bytes());
            frame.extend(identification.to_be_bytes());
            frame.extend(part);
            frame
        })
        .collect()
}

/// Puts the fragments of an IPv6 packet together.
pub fn join_v6(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = fragments[0][..NETWORK + 40].to_vec();
    whole[NETWORK + 6] = fragments[0][NETWORK + 40];
    for fragment in fragments {
        let addresses = NETWORK + 8..NETWORK + 40;
        assert_eq!(fragment[addresses.clone()], whole[addresses], "addresses");
        whole.extend(&fragment[NETWORK + 48..]);
    }
    let length = (whole.len() - NETWORK - 40) as u16;
    whole[NETWORK + 4..NETWORK + 6].copy_from_slice(&length.to_be_bytes());
    whole
}
