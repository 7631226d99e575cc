//! Filling the maps with services, as the agent would.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use fairlead_api::BackendId;
use fairlead_dataplane::cuckoo;
use fairlead_dataplane::maglev::{self, Candidate};
use fairlead_dataplane_common::maps::FRONTEND_BUCKETS;
use fairlead_dataplane_common::{
    BACKEND_ACTIVE, BackendEntry, FRONTEND_EXTERNAL, FRONTEND_USED, FrontendEntry, FrontendKey,
    SERVICE_DR, ServiceEntry,
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

/// The slot of a node that can be reached at once.
const NODE: u32 = 1;

/// The port at which all services are passed on as they are (dr).
pub(crate) const PORT_DR: u16 = 81;

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

/// Adds `count` services of ten backends, each with a VIP of either family, for either forwarding.
pub(crate) fn fill(world: &mut World, count: u32, protocol: u8) -> Result<()> {
    let present = world
        .tables
        .frontends
        .read(0, FRONTEND_BUCKETS as usize)
        .context("read frontends")?;
    let mut frontends = cuckoo::Table::from_buckets(present);
    world.set_adjacent(NODE, true);
    let tables = &mut world.tables;
    let mut lut_offset = FIRST_LUT;
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

        let vips = [vip(index).into(), vip_v6(index).into()];
        let asked = [(PORT, service), (PORT_DR, service_dr)];
        for (vip, (port, service)) in vips.into_iter().flat_map(|vip| asked.map(|to| (vip, to))) {
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

fn candidate(id: BackendId) -> Candidate {
    Candidate { id, weight: 1 }
}
