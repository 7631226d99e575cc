use super::*;

/// Bytes written as hexadecimal, with any white space.
fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn text(frame: &[u8]) -> String {
    let lines: Vec<String> = decode(frame).iter().map(Layer::to_string).collect();
    lines.join("\n")
}

const ETHERNET: &str = "020000000066 020000000001 0800";
const TCP: &str = "45000030 12344000 3f06af0f c612010a c6126401
    9c400050 00000001 00000000 7002ffff 4f180000 020405b4 01010402";

#[test]
fn tcp_syn_shows_its_flags_and_segment_size() {
    let frame = bytes(&format!("{ETHERNET}{TCP}"));
    let text = text(&frame);
    let expected = "\
Ethernet: source 02:00:00:00:00:01, destination 02:00:00:00:00:66, type IPv4
IPv4: source 198.18.1.10, destination 198.18.100.1, protocol TCP, ttl 63, length 48, id 4660, \
dontFragment yes, checksum";
    assert!(text.starts_with(expected), "{text}");
    assert!(
        text.contains("sourcePort 40000, destinationPort 80, flags SYN, sequence 1"),
        "{text}"
    );
    assert!(text.contains("mss 1460, data 0 bytes, checksum"), "{text}");
}

#[test]
fn vxlan_shows_the_inner_frame_and_whom_its_addresses_name() {
    let inner = format!("02fa00000066 02fb00000001 0800 {TCP}");
    let frame = bytes(&format!(
        "{ETHERNET} 45000062 00004000 4011ffff c6120065 c6120066
         c00012b5 004e0000 08000000 00000700 {inner}"
    ));
    let layers = decode(&frame);
    let names: Vec<&str> = layers.iter().map(|layer| layer.name).collect();
    assert_eq!(
        names,
        [
            "Ethernet", "IPv4", "UDP", "VXLAN", "Ethernet", "IPv4", "TCP"
        ]
    );
    assert_eq!(layers[3].fields, [("vni", "7".to_owned())]);
    assert_eq!(layers[4].fields[0].1, "02:fb:00:00:00:01 (node 1)");
    assert_eq!(layers[4].fields[1].1, "02:fa:00:00:00:66 (backend 102)");
}

#[test]
fn gue_of_both_variants_and_ip_in_ip_show_what_they_carry() {
    let names = |outer: &str| -> Vec<&str> {
        let frame = bytes(&format!("{ETHERNET}{outer}{TCP}"));
        decode(&frame).iter().map(|layer| layer.name).collect()
    };
    let ip = |protocol: &str| format!("45000060 00004000 40{protocol}ffff c6120065 c6120066");
    assert_eq!(
        names(&ip("04")),
        ["Ethernet", "IPv4", "IPv4", "TCP"],
        "IP in IP"
    );
    let udp = "c00017c0 00400000";
    assert_eq!(
        names(&format!("{}{udp}", ip("11"))),
        ["Ethernet", "IPv4", "UDP", "GUE", "IPv4", "TCP"]
    );
    assert_eq!(
        names(&format!("{}{udp} 00040000", ip("11"))),
        ["Ethernet", "IPv4", "UDP", "GUE", "IPv4", "TCP"]
    );
}

#[test]
fn tagged_arp_request_names_who_is_looked_for() {
    let frame = bytes(
        "ffffffffffff 020000000001 8100 6064 0806
         0001 0800 06 04 0001 020000000001 c6120001 000000000000 c6126401",
    );
    assert_eq!(
        text(&frame),
        "Ethernet: source 02:00:00:00:00:01, destination ff:ff:ff:ff:ff:ff, type VLAN\n\
         VLAN: id 100, priority 3, type ARP\n\
         ARP: operation request, sender 198.18.0.1 at 02:00:00:00:00:01, \
         target 198.18.100.1 at 00:00:00:00:00:00"
    );
}

#[test]
fn error_shows_the_packet_it_quotes_and_the_size_it_asks_for() {
    let frame = bytes(&format!(
        "{ETHERNET} 45000038 00000000 4001ffff c6120101 c6126401 03040000 00000578 {}",
        &TCP[..TCP.len() / 2]
    ));
    let layers = decode(&frame);
    assert_eq!(layers[2].name, "ICMP");
    assert!(layers[2].fields.contains(&("mtu", "1400".to_owned())));
    assert_eq!(layers[3].name, "IPv4");
}

#[test]
fn every_beginning_of_a_frame_is_decoded_as_far_as_it_goes() {
    let frame = bytes(&format!("{ETHERNET}{TCP}"));
    for length in 0..frame.len() {
        let layers = decode(&frame[..length]);
        if length < 54 {
            assert_eq!(
                layers.last().unwrap().name,
                "cut short",
                "of {length} bytes"
            );
        }
    }
    assert_eq!(decode(&frame[..54]).last().unwrap().name, "TCP");
}

#[test]
fn any_bytes_are_decoded_without_end_or_panic() {
    // xorshift64: seeded, so that a failure can be had again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..20_000 {
        let mut frame = bytes(&format!("{ETHERNET}{TCP}{TCP}"));
        for _ in 0..=round % 9 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = (state >> 8) as usize % frame.len();
            frame[at] = state as u8;
        }
        assert!(decode(&frame).len() <= LAYERS_MAX + 1);
    }
}
