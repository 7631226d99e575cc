//! Hosts on a switch.

use testbed::NetNs;

use crate::family::{V4, V6};

/// Hosts on a switch, and what is removed with them.
pub(crate) struct Segment {
    switch: NetNs,
    pub(crate) files: tempfile::TempDir,
}

impl Segment {
    pub(crate) fn new() -> Self {
        let switch = NetNs::unique("two-switch").unwrap();
        switch.ip("link add br0 type bridge").unwrap();
        switch.ip("link set br0 up").unwrap();
        Self {
            switch,
            files: tempfile::tempdir().unwrap(),
        }
    }

    /// Lets the switch drop frames whose source is a node's mark and no port's own, or lets it no more.
    pub(crate) fn guard_ports(&self, guarded: bool) {
        if !guarded {
            self.nft("delete table bridge guard");
            return;
        }
        self.nft("add table bridge guard");
        self.nft("add chain bridge guard forward { type filter hook forward priority 0; }");
        self.nft(
            "add rule bridge guard forward \
             ether saddr & ff:ff:00:00:00:00 == 02:fb:00:00:00:00 counter drop",
        );
    }

    /// How many frames it has dropped for that.
    pub(crate) fn guarded(&self) -> u64 {
        let rules = self.nft("list table bridge guard");
        let (_, counted) = rules.split_once("counter packets ").unwrap();
        let packets = counted.split(' ').next().unwrap();
        packets.parse().unwrap()
    }

    fn nft(&self, command: &str) -> String {
        let mut nft = self.switch.command("nft").unwrap();
        let output = nft.arg(command).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "nft {command}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn host(&self, number: u8) -> NetNs {
        let host = NetNs::unique("two-host").unwrap();
        let port = format!("port{number}");
        let peer = host.name();
        self.switch
            .ip(&format!(
                "link add {port} type veth peer name eth0 netns {peer}"
            ))
            .unwrap();
        self.switch.make_wire_like(&port).unwrap();
        self.switch.take_xdp_frames(&port).unwrap();
        self.switch
            .ip(&format!("link set {port} master br0 up"))
            .unwrap();
        host.make_wire_like("eth0").unwrap();
        for (family, length) in [(V4, 24), (V6, 64)] {
            let own = family.host(number);
            host.ip(&format!("address add {own}/{length} dev eth0 nodad"))
                .unwrap();
        }
        host.ip("link set eth0 up").unwrap();
        host.sysctl("net.ipv4.ip_forward", "1").unwrap();
        for device in ["all", "eth0"] {
            host.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")
                .unwrap();
        }
        host
    }
}
