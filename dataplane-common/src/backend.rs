use crate::Address;

/// The slot holds no backend.
pub const BACKEND_EMPTY: u8 = 0;
/// Takes new connections.
pub const BACKEND_ACTIVE: u8 = 1;
/// No slot of its service points at it any more; packets that name it are still delivered.
pub const BACKEND_DRAINING: u8 = 2;

/// A machine outside the cluster: [`BackendEntry::node`] is its own slot in `nodes`, and what it is
/// sent has the VIP as its destination unless it is translated here.
pub const BACKEND_SERVER: u8 = 1;
/// It runs on a node that has fallen silent, and may be dead. That is no more than a hint: whoever does
/// not know whose a connection is asks another backend first.
pub const BACKEND_SILENT: u8 = 1 << 1;

/// Where one backend is. `backends` is an array of these, indexed by backend slot.
///
/// Slots are this node's own; [`Self::id`] is what nodes tell each other. A backend's id, address
/// and port never change, so a slot that is in use is only ever rewritten in `state`, `node` or
/// `flags`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BackendEntry {
    /// Where it listens.
    pub address: Address,
    /// `BackendId`: unique in the cluster, never 0.
    pub id: u32,
    /// Node slot: [`crate::NODE_LOCAL`] if it runs here.
    pub node: u32,
    /// The network its address belongs to.
    pub vpc: u32,
    /// Where it listens, network order.
    pub port_be: u16,
    /// [`BACKEND_EMPTY`], [`BACKEND_ACTIVE`] or [`BACKEND_DRAINING`].
    pub state: u8,
    /// [`BACKEND_SERVER`], [`BACKEND_SILENT`].
    pub flags: u8,
}
map_struct!(BackendEntry, 32);
