//! Node ports of services whose backends are machines outside: packets for the node's own address are
//! translated, whatever the service's forwarding.

use std::net::Ipv4Addr;

use fairlead_dataplane_common::{
    FRONTEND_EXTERNAL, FRONTEND_NODE_PORT, FrontendKey, SERVICE_DR, SERVICE_GUE, SERVICE_SERVERS,
    protocol,
};
use packet_tests::frame::{ACK, ROUTER_MAC, SYN, assert_checksums, ends, tcp};
use packet_tests::{CLIENT, NODE_1, VIP, Verdict, World};

const XDP: &str = "xdp_ingress";
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 200);
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];
const SLOT: u32 = 21;
const NODE_PORT: u16 = 30_080;

#[test]
fn packet_for_a_node_port_is_translated_for_a_server_and_its_answer_back() {
    for flags in [SERVICE_DR, 0, SERVICE_GUE] {
        let Some(mut world) = World::open() else {
            return;
        };
        world.add_server(SLOT, (SERVER, 9000).into(), Some(SERVER_MAC));
        let slot = world.add_service(protocol::TCP, 7000, &[SLOT]);
        world.set_flags(slot, flags | SERVICE_SERVERS);
        let key = FrontendKey::new(0, NODE_1.into(), protocol::TCP, NODE_PORT.to_be());
        world.add_frontend(key, slot, FRONTEND_EXTERNAL | FRONTEND_NODE_PORT);

        let client = (CLIENT, 40_000);
        let mut port = None;
        for flags in [SYN, ACK] {
            let outcome = world.run(XDP, &tcp(client, (NODE_1, NODE_PORT), flags, b""));
            assert_eq!(outcome.verdict, Verdict::Transmit);
            assert_eq!(outcome.frame[..6], SERVER_MAC);
            let ((node, from), to) = ends(&outcome.frame);
            assert_eq!((node, to), (NODE_1, (SERVER, 9000)));
            assert_eq!(*port.get_or_insert(from), from, "the flow keeps its port");
            assert_checksums(&outcome.frame);
        }
        assert_eq!(world.flows(), 1, "the flow is noted");

        let port = port.expect("a port");
        let answer = tcp((SERVER, 9000), (NODE_1, port), ACK, b"answer");
        let outcome = world.run(XDP, &answer);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_eq!(outcome.frame[..6], ROUTER_MAC);
        assert_eq!(ends(&outcome.frame), ((NODE_1, NODE_PORT), client));
        assert_checksums(&outcome.frame);

        // At the VIP the service's own forwarding holds, and nothing is noted.
        let to_vip = tcp(client, (VIP, 7000), ACK, b"data");
        let outcome = world.run(XDP, &to_vip);
        assert_eq!(outcome.verdict, Verdict::Transmit);
        assert_eq!(
            outcome.frame[outcome.frame.len() - 40..],
            to_vip[to_vip.len() - 40..]
        );
        assert_eq!(world.flows(), 1);
    }
}
