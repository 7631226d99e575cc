use std::net::{IpAddr, Ipv4Addr};

use aya::maps::lpm_trie::Key;
use fairlead_dataplane_common::{
    Address, BACKEND_ACTIVE, BackendEntry, Config, DropReason, DropSample, DropSampleKey,
    FORMERS_PER_SLOT, FRONTEND_ADDRESS, FRONTEND_EXTERNAL, FlowKey, FrontendKey, NotedEntry,
    RouteKey, ServiceDropKey, ServiceEntry, TrackEntry, VipPrefix, hash, mac,
};

use crate::frame::SYN;
use crate::world::SEED;
use crate::{CLIENT, CLIENT_V6, Outcome, VIP, VIP_V6, World, frame, frame_v6};

/// A service as a test wants it in the maps.
#[derive(Clone, Copy, Default)]
pub struct Service<'a> {
    /// IP protocol number.
    pub protocol: u8,
    /// Its port at the VIPs.
    pub port: u16,
    /// Elements of its table: backend slots, and states in the bits above.
    pub table: &'a [u32],
    /// Elements of the list behind the table, of this node's own backends.
    pub local: &'a [u32],
    /// Backend slots of the table as it was.
    pub base: &'a [u32],
    /// Backend slots of the former owners of each slot, [`FORMERS_PER_SLOT`] of each.
    pub formers: &'a [u32],
    /// `SERVICE_*`.
    pub flags: u32,
    /// With `SERVICE_AFFINITY`.
    pub affinity_seconds: u32,
    /// `FRONTEND_*` beside [`FRONTEND_EXTERNAL`].
    pub frontend_flags: u32,
}

impl World {
    /// Adds a service at [`VIP`] and [`VIP_V6`] both, and returns its slot.
    pub fn add(&mut self, service: &Service<'_>) -> u32 {
        let slot = self.services_used;
        self.services_used += 1;
        self.change(slot, service);
        for vip in [Address::from(VIP), VIP_V6.into()] {
            let key = FrontendKey::new(0, vip, service.protocol, service.port.to_be());
            self.add_frontend(key, slot, FRONTEND_EXTERNAL | service.frontend_flags);
        }
        slot
    }

    /// Makes a prefix a VIP, at which the service in `slot` answers at this port of `protocol`. `bits`
    /// of `network` count, of 128.
    pub fn add_prefix(
        &mut self,
        network: IpAddr,
        bits: u32,
        (protocol, port): (u8, u16),
        slot: u32,
    ) {
        let network = Address::from(network);
        let prefix = VipPrefix {
            network,
            length: bits,
        };
        let place = RouteKey {
            vpc_be: 0,
            address: network,
        };
        let place = Key::new(prefix.bits(), place);
        if self.tables.vip_prefixes.get(&place, 0).is_err() {
            let itself = FrontendKey::of_address(0, network).at_prefix(&prefix);
            self.add_frontend(itself, 0, FRONTEND_ADDRESS);
        }
        self.tables
            .vip_prefixes
            .insert(&place, prefix, 0)
            .expect("write the prefix");
        let config = self.tables.config.get(&0, 0).expect("read config");
        let config = Config {
            has_vip_prefixes: 1,
            ..config
        };
        self.tables.config.set(0, config, 0).expect("write config");
        let key = FrontendKey::new(0, network, protocol, port.to_be());
        self.add_frontend(key.at_prefix(&prefix), slot, FRONTEND_EXTERNAL);
    }

    /// Makes the service in `slot` another one, as the agent does: the tables are written beside the
    /// old ones first.
    pub fn change(&mut self, slot: u32, service: &Service<'_>) {
        let offset = self.lut_used;
        let (table, local) = (service.table, service.local);
        let elements = [table, local, service.base, service.formers].concat();
        self.lut_used += elements.len() as u32;
        self.tables
            .lut
            .write(offset, &elements)
            .expect("write the tables");
        let entry = ServiceEntry {
            lut_offset: offset,
            lut_length: table.len() as u32,
            local_length: local.len() as u32,
            id: slot + 1,
            flags: service.flags,
            base_length: service.base.len() as u32,
            former_length: service.formers.len() as u32 / FORMERS_PER_SLOT,
            affinity_seconds: service.affinity_seconds,
        };
        self.tables
            .services
            .set(ServiceEntry::index(0, slot), entry)
            .expect("write the service");
    }

    /// Puts a backend into `slot`, with the slot and 100 as its id, on the node in slot `node`.
    pub fn add_backend(&mut self, slot: u32, node: u32) {
        let address = Ipv4Addr::new(10, 244, node as u8 + 1, slot as u8);
        self.set_backend(
            slot,
            BackendEntry {
                address: address.into(),
                id: 100 + slot,
                node,
                vpc: 0,
                port_be: 8080_u16.to_be(),
                state: BACKEND_ACTIVE,
                flags: 0,
            },
        );
        self.tables
            .backend_ids
            .insert(100 + slot, slot, 0)
            .expect("write its id");
    }

    /// The backend in `slot`.
    pub fn backend(&self, slot: u32) -> BackendEntry {
        self.tables.backends.get(slot).expect("read the backend")
    }

    /// Puts a backend into `slot`.
    pub fn set_backend(&mut self, slot: u32, backend: BackendEntry) {
        self.tables
            .backends
            .set(slot, backend)
            .expect("write the backend");
    }

    /// Gives the backend in `slot` another state.
    pub fn set_state(&mut self, slot: u32, state: u8) {
        let backend = self.backend(slot);
        self.set_backend(slot, BackendEntry { state, ..backend });
    }

    /// Puts other flags in the entry of the backend in `slot`.
    pub fn set_backend_flags(&mut self, slot: u32, flags: u8) {
        let backend = self.backend(slot);
        self.set_backend(slot, BackendEntry { flags, ..backend });
    }

    /// What is noted of a flow.
    pub fn flow(&self, flow: &FlowKey) -> Option<TrackEntry> {
        let noted = self.tables.flows.get(&key_in_flows(flow), 0).ok()?;
        (noted.flow == *flow).then_some(noted)
    }

    /// Notes another flow, which a backend in `slot` has, as if it had the same hash as `flow`.
    pub fn note_another(&mut self, flow: &FlowKey, slot: u32) {
        let entry = TrackEntry {
            backend: self.backend(slot).id,
            backend_slot: slot,
            flow: FlowKey {
                source_port_be: !flow.source_port_be,
                ..*flow
            },
            ..TrackEntry::default()
        };
        let written = self.tables.flows.insert(key_in_flows(flow), entry, 0);
        written.expect("write a note");
    }

    /// Forgets what is noted of a flow, or [of another](Self::note_another) with its hash.
    ///
    /// # Panics
    /// If nothing is.
    pub fn forget(&mut self, flow: &FlowKey) {
        let removed = self.tables.flows.remove(&key_in_flows(flow));
        removed.expect("it was noted");
    }

    /// How many flows are noted.
    pub fn flows(&self) -> usize {
        self.tables.flows.keys().count()
    }

    /// Limits how many flows are noted: in a moment, and as the percentage of what others leave that one
    /// service may have. 0: no limit.
    pub fn limit_notes(&mut self, per_window: u32, share_percent: u8) {
        let config = self.tables.config.get(&0, 0).expect("read config");
        let config = Config {
            notes_per_window: per_window,
            service_share_percent: share_percent,
            ..config
        };
        self.tables.config.set(0, config, 0).expect("write config");
    }

    /// What is counted of the notes of the service in `slot`.
    pub fn noted_entry(&self, slot: u32) -> NotedEntry {
        let index = NotedEntry::of_service(slot);
        self.tables.noted.get(index).expect("read what is noted")
    }

    /// How many flows of the service in `slot` are counted as noted.
    pub fn noted(&self, slot: u32) -> u32 {
        self.noted_entry(slot).flows
    }

    /// Packets of the service in `slot` that were dropped for `reason`.
    pub fn service_drops(&self, service: u32, reason: DropReason) -> u64 {
        let reason = reason as u32;
        match self
            .tables
            .service_drops
            .get(&ServiceDropKey { service, reason }, 0)
        {
            Ok(counts) => counts.iter().sum(),
            Err(_) => 0,
        }
    }

    /// The last packet of the service in a slot that was dropped for `reason`; of `None`, the last
    /// whose service was not known.
    pub fn sample(&self, service: Option<u32>, reason: DropReason) -> Option<DropSample> {
        let key = DropSampleKey {
            service: service.map_or(0, |slot| slot + 1),
            reason: reason as u32,
        };
        self.tables.drop_samples.get(&key, 0).ok()
    }
}

/// A client of one family, and the VIP it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// [`CLIENT`] and [`VIP`].
    V4,
    /// [`CLIENT_V6`] and [`VIP_V6`].
    V6,
}

impl Client {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// A segment of TCP from `port` to `to` of the VIP.
    pub fn tcp(self, port: u16, to: u16, flags: u8) -> Vec<u8> {
        let payload: &[u8] = if flags & SYN != 0 { b"" } else { b"data" };
        match self {
            Self::V4 => frame::tcp((CLIENT, port), (VIP, to), flags, payload),
            Self::V6 => frame_v6::tcp((CLIENT_V6, port), (VIP_V6, to), flags, payload),
        }
    }

    /// A datagram from `port` to `to` of the VIP.
    pub fn udp(self, port: u16, to: u16) -> Vec<u8> {
        match self {
            Self::V4 => frame::udp((CLIENT, port), (VIP, to), b"data"),
            Self::V6 => frame_v6::udp((CLIENT_V6, port), (VIP_V6, to), b"data"),
        }
    }

    /// The flow of such packets.
    pub fn flow(self, protocol: u8, port: u16, to: u16) -> FlowKey {
        let (source, destination): (IpAddr, IpAddr) = match self {
            Self::V4 => (CLIENT.into(), VIP.into()),
            Self::V6 => (CLIENT_V6.into(), VIP_V6.into()),
        };
        FlowKey {
            source: source.into(),
            destination: destination.into(),
            source_port_be: port.to_be(),
            destination_port_be: to.to_be(),
            protocol,
            ..FlowKey::default()
        }
    }

    /// Its own address.
    pub fn address(self) -> Address {
        match self {
            Self::V4 => CLIENT.into(),
            Self::V6 => CLIENT_V6.into(),
        }
    }
}

impl Outcome {
    /// The backend that an encapsulated packet names, over IPv4.
    pub fn named(&self) -> Option<u32> {
        let label = self.frame.get(50..56)?;
        mac::backend_of(label.try_into().expect("six bytes"))
    }
}

/// By what `flows` finds a flow.
fn key_in_flows(flow: &FlowKey) -> u64 {
    hash::wide(&SEED, flow)
}
