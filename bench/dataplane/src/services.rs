//! Filling the maps with services, as the agent would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use fairlead_api::BackendId;
use fairlead_dataplane::cuckoo;
use fairlead_dataplane::maglev::{self, Candidate};
use fairlead_dataplane_common::maps::FRONTEND_BUCKETS;
use fairlead_dataplane_common::{
    Address, BACKEND_ACTIVE, BackendEntry, Config, FRONTEND_EXTERNAL, FRONTEND_USED, FrontendEntry,
    FrontendKey, SERVICE_DR, SERVICE_NAT, SERVICE_TRACK, ServiceEntry,
};
use packet_tests::World;

/// The port of all services.
pub(crate) const PORT: u16 = 80;

/// Backends of each service, all on another node.
const BACKENDS: u32 = 10;

/// Slots below are the packet tests' own.
const FIRST_SERVICE: u32 = 1_000;
const FIRST_BACKEND: u32 = 1_000;
const FIRST_LUT: u32 = 100_000;

/// Services that are passed on, behind the others: they share tables and backends.
const FIRST_SERVICE_DR: u32 = 20_000;

/// Services that are translated, by the family of their VIP. They share their tables, and those their
/// real servers: what is noted of flows is each one's own.
const FIRST_SERVICE_NAT: [u32; 2] = [32_000, 44_000];

/// Slots of the real servers, among nodes and backends both.
pub(crate) const SERVERS_V4: [u32; 10] = [900, 901, 902, 903, 904, 905, 906, 907, 908, 909];
const SERVERS_V6: [u32; 10] = [910, 911, 912, 913, 914, 915, 916, 917, 918, 919];

/// The node's own address in IPv6.
pub(crate) const NODE_1_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x101);

/// The slot of a node that can be reached at once.
const NODE: u32 = 1;

/// The port at which all services are passed on as they are (dr).
pub(crate) const PORT_DR: u16 = 81;

/// The port at which all services are translated (nat).
pub(crate) const PORT_NAT: u16 = 82;

/// The address of a service.
pub(crate) fn vip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 19, 0, 0)) + index)
}

/// The same service's address in IPv6.
pub(crate) fn vip_v6(index: u32) -> Ipv6Addr {
    Ipv6Addr::from(
        u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 1, 0, 0, 0, 0)) + u128::from(index),
    )
}

/// Adds `count` services of ten backends, each with a VIP of either family, for each forwarding.
pub(crate) fn fill(world: &mut World, count: u32, protocol: u8) -> Result<()> {
    let present = world
        .tables
        .frontends
        .read(0, FRONTEND_BUCKETS as usize)
        .context("read frontends")?;
    let mut frontends = cuckoo::Table::from_buckets(present);
    world.set_adjacent(NODE, true);
    world.set_uplink(1500);
    add_own_address(world)?;
    let mut lut_offset = FIRST_LUT;
    let mut translated = [ServiceEntry::default(); 2];
    for (entry, slots) in translated.iter_mut().zip([SERVERS_V4, SERVERS_V6]) {
        *entry = add_servers(world, lut_offset, slots)?;
        lut_offset += entry.lut_length;
    }
    let tables = &mut world.tables;
    for index in 0..count {
        let service = FIRST_SERVICE + index;
        let first_backend = FIRST_BACKEND + index * BACKENDS;
        let backends: Vec<BackendEntry> = (first_backend..first_backend + BACKENDS)
            .map(|slot| BackendEntry {
                address: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + slot).into(),
                id: slot,
                node: NODE,
                vpc: 0,
                port_be: 8080_u16.to_be(),
                state: BACKEND_ACTIVE,
                flags: 0,
            })
            .collect();
        tables
            .backends
            .write(first_backend, &backends)
            .context("write backends")?;

        let candidates: Vec<Candidate> = backends
            .iter()
            .map(|backend| candidate(BackendId(backend.id)))
            .collect();
        let size = maglev::size(&candidates);
        // A backend's slot is its id here.
        let table: Vec<u32> = maglev::populate(size, &candidates)
            .into_iter()
            .map(|backend| backend.0)
            .collect();
        tables
            .lut
            .write(lut_offset, &table)
            .context("write a table")?;
        let entry = ServiceEntry {
            lut_offset,
            lut_length: size,
            id: service,
            ..ServiceEntry::default()
        };
        tables
            .services
            .set(ServiceEntry::index(0, service), entry)
            .context("write a service")?;
        let entry = ServiceEntry {
            flags: SERVICE_DR,
            ..entry
        };
        let service_dr = FIRST_SERVICE_DR + index;
        tables
            .services
            .set(ServiceEntry::index(0, service_dr), entry)
            .context("write a service")?;
        lut_offset += size;

        let nat = FIRST_SERVICE_NAT.map(|first| first + index);
        for (slot, entry) in nat.into_iter().zip(translated) {
            let entry = ServiceEntry { id: slot, ..entry };
            tables
                .services
                .set(ServiceEntry::index(0, slot), entry)
                .context("write a service")?;
        }

        let vips: [(Address, u32); 2] =
            [(vip(index).into(), nat[0]), (vip_v6(index).into(), nat[1])];
        let asked = vips.into_iter().flat_map(|(vip, nat)| {
            [(PORT, service), (PORT_DR, service_dr), (PORT_NAT, nat)].map(|at| (vip, at))
        });
        for (vip, (port, service)) in asked {
            let entry = FrontendEntry {
                key: FrontendKey::new(0, vip, protocol, port.to_be()),
                service,
                flags: FRONTEND_USED | FRONTEND_EXTERNAL,
            };
            for write in frontends.insert(entry)? {
                let position = FrontendKey::index(0, write.bucket);
                tables
                    .frontends
                    .set(position, write.content)
                    .context("write a bucket")?;
                frontends.record(&write);
            }
        }
    }
    Ok(())
}

/// Adds ten real servers of one family, and a table of them that packets are translated for.
fn add_servers(world: &mut World, lut_offset: u32, slots: [u32; 10]) -> Result<ServiceEntry> {
    const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];
    let is_v4 = slots == SERVERS_V4;
    for slot in slots {
        let address: IpAddr = if is_v4 {
            Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 8, 0)) + slot).into()
        } else {
            let first = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 8, 0);
            Ipv6Addr::from(u128::from(first) + u128::from(slot)).into()
        };
        world.add_server(slot, (address, 8080).into(), Some(MAC));
    }
    let candidates = slots.map(|slot| candidate(BackendId(slot)));
    let size = maglev::size(&candidates);
    let table = maglev::populate(size, &candidates).into_iter();
    let table: Vec<u32> = table.map(|backend| backend.0).collect();
    let lut = &mut world.tables.lut;
    lut.write(lut_offset, &table).context("write a table")?;
    Ok(ServiceEntry {
        lut_offset,
        lut_length: size,
        flags: SERVICE_NAT | SERVICE_TRACK,
        ..ServiceEntry::default()
    })
}

/// Gives the node an address of the other family, too.
fn add_own_address(world: &mut World) -> Result<()> {
    let config = &mut world.tables.config;
    let held = config.get(&0, 0).context("read the node's parameters")?;
    let both = Config {
        other_address: NODE_1_V6.into(),
        ..held
    };
    config
        .set(0, both, 0)
        .context("write the node's parameters")
}

fn candidate(id: BackendId) -> Candidate {
    Candidate { id, weight: 1 }
}
