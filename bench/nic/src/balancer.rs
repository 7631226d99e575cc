//! The node's own program with one service, all of whose backends are on the interface's segment.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail};
use aya::programs::Program;
use aya::programs::xdp::XdpMode;
use bench_nic::interface;
use fairlead_dataplane::object;
use fairlead_dataplane_common::{
    BACKEND_ACTIVE, BackendEntry, NodeEntry, SERVICE_DR, ServiceEntry, protocol,
};
use packet_tests::{NODE_1, World};

use crate::FlowOptions;

/// Slots of the backends and of the nodes that have them: above those of the packet tests.
const FIRST_SLOT: u32 = 100;

pub(crate) struct Balancer {
    world: World,
    service: u32,
    backends: Vec<u32>,
}

impl Balancer {
    /// Balances `flows`' service over `backends` at the interface called `name`.
    pub(crate) fn attach(name: &str, flows: &FlowOptions, backends: &[String]) -> Result<Self> {
        if backends.is_empty() {
            bail!("name at least one --backend");
        }
        let mut world = World::load(object::embedded()?, None);
        let ifindex = interface::index(name)?;
        let mut slots = Vec::new();
        for (slot, mac) in (FIRST_SLOT..).zip(backends) {
            let mac = interface::parse_mac(mac)?;
            // Frames go by their MAC addresses; the others only have to differ.
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + slot);
            let own = IpAddr::from(NODE_1).into();
            let node = NodeEntry::new(slot, address.into(), own, ifindex, 1500, Some(mac));
            let backend = BackendEntry {
                address: address.into(),
                id: slot,
                node: slot,
                vpc: 0,
                port_be: flows.vip.port().to_be(),
                state: BACKEND_ACTIVE,
                flags: 0,
            };
            let tables = &mut world.tables;
            tables
                .nodes
                .set(slot, node.with_adjacent(true))
                .and_then(|()| tables.backends.set(slot, backend))
                .context("write a backend")?;
            slots.push(slot);
        }
        let vip = (*flows.vip.ip()).into();
        let service = world.add_service_at(vip, protocol::UDP, flows.vip.port(), &slots);
        let index = ServiceEntry::index(0, service);
        let mut entry: ServiceEntry = world
            .tables
            .services
            .get(index)
            .context("read the service")?;
        entry.flags |= SERVICE_DR;
        world
            .tables
            .services
            .set(index, entry)
            .context("write the service")?;
        let Program::Xdp(program) = world.programs_mut().get_mut("xdp_ingress")? else {
            bail!("xdp_ingress is no XDP program");
        };
        program
            .attach(name, XdpMode::Default)
            .with_context(|| format!("attach xdp_ingress to {name}"))?;
        Ok(Self {
            world,
            service,
            backends: slots,
        })
    }

    /// Packets that the service's backends were sent so far, by CPU.
    pub(crate) fn packets(&self) -> Result<Vec<u64>> {
        let tables = &self.world.tables;
        let own = tables.service_stats.get(&self.service, 0);
        let own = own.context("read the service's counters")?;
        let mut packets: Vec<u64> = own.iter().map(|count| count.packets).collect();
        for slot in &self.backends {
            let counts = tables.backend_stats.get(slot, 0);
            let counts = counts.context("read a backend's counters")?;
            for (sum, count) in packets.iter_mut().zip(counts.iter()) {
                *sum += count.packets;
            }
        }
        Ok(packets)
    }

    /// Packets dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.world.drops().iter().sum()
    }
}
