use crate::{Address, checksum, protocol};

/// The node slot that is always this node itself.
pub const NODE_LOCAL: u32 = 0;

/// The slot holds a node.
pub const NODE_USED: u32 = 1;
/// [`NodeEntry::mac`] is where frames for the node go: XDP can send at once. Without it packets
/// are handed up, and the stack resolves the neighbour.
pub const NODE_RESOLVED: u32 = 2;
/// The MAC address is the node's own, not a router's, and frames that are passed on as they are reach it:
/// it has answered a [probe](crate::probe). A real server is on the uplink's segment, which has to do.
pub const NODE_ADJACENT: u32 = 4;
/// No node of the cluster but a real server outside: it knows nothing of VXLAN and of backends' ids.
pub const NODE_SERVER: u32 = 8;

/// There are several uplinks, or the way is by none of them but perhaps by a VLAN's interface: XDP, which
/// sends by the interface that it received from, has to compare that with [`NodeEntry::ifindex`].
pub const NODE_BY_INTERFACE: u32 = 16;

/// How another node, or a real server, is reached. `nodes` is an array of these, indexed by node slot; slot
/// [`NODE_LOCAL`] stays unused.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NodeEntry {
    /// The node's own address, the outer destination of what is encapsulated for it.
    pub address: Address,
    /// Of the node if it is on the uplink's segment, else of the router towards it.
    pub mac: [u8; 6],
    /// Ones' complement sum of the outer IPv4 header's constant words; see
    /// [`NodeEntry::new`]. Zero for an IPv6 node.
    pub header_sum: u16,
    /// Unique in the cluster, never 0.
    pub id: u32,
    /// The interface it is reached by: an uplink, or a VLAN's interface on one.
    pub ifindex: u32,
    /// [`NODE_USED`], [`NODE_RESOLVED`], [`NODE_ADJACENT`], [`NODE_SERVER`], [`NODE_BY_INTERFACE`].
    pub flags: u32,
    /// Largest packet the uplink takes, outer headers included.
    pub mtu: u32,
}
map_struct!(NodeEntry, 40);

impl NodeEntry {
    /// A node at `address`, for packets that leave from `own`. `mac` is `None` while the neighbour
    /// is unresolved.
    pub fn new(
        id: u32,
        address: Address,
        own: Address,
        ifindex: u32,
        mtu: u32,
        mac: Option<[u8; 6]>,
    ) -> Self {
        let header_sum = if address.is_v4() && own.is_v4() {
            outer_header_sum(own, address)
        } else {
            0
        };
        Self {
            address,
            mac: mac.unwrap_or_default(),
            header_sum,
            id,
            ifindex,
            flags: NODE_USED | if mac.is_some() { NODE_RESOLVED } else { 0 },
            mtu,
        }
    }
}

impl NodeEntry {
    /// The same node, with or without [`NODE_ADJACENT`].
    pub const fn with_adjacent(mut self, adjacent: bool) -> Self {
        if adjacent {
            self.flags |= NODE_ADJACENT;
        } else {
            self.flags &= !NODE_ADJACENT;
        }
        self
    }

    /// The same node, which is reached by [`Self::ifindex`] and perhaps by no other interface that packets
    /// come in by.
    pub const fn by_interface(mut self, by_interface: bool) -> Self {
        if by_interface {
            self.flags |= NODE_BY_INTERFACE;
        } else {
            self.flags &= !NODE_BY_INTERFACE;
        }
        self
    }

    /// Whether what came in by the interface `ifindex` can be sent on to the node by XDP, at once.
    #[inline(always)]
    pub const fn takes_from(&self, ifindex: u32) -> bool {
        match self.flags & (NODE_RESOLVED | NODE_BY_INTERFACE) {
            NODE_RESOLVED => true,
            NODE_BY_INTERFACE | 0 => false,
            _ => self.ifindex == ifindex,
        }
    }

    /// Whether frames for the node reach it at once, with its own MAC address and no other header.
    #[inline(always)]
    pub const fn takes_frames(&self) -> bool {
        self.flags & (NODE_RESOLVED | NODE_ADJACENT) == NODE_RESOLVED | NODE_ADJACENT
    }

    /// Whether packets for the node are encapsulated over IPv4. The sum of a real header is never
    /// zero, so it tells without a look at the address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.header_sum != 0
    }
}

/// Sums all words of the outer IPv4 header but DSCP/ECN and the total length: version and header
/// length, DF with no identification, TTL 64, UDP, both addresses.
fn outer_header_sum(own: Address, peer: Address) -> u16 {
    let mut header = [0_u8; 20];
    header[0] = 0x45;
    header[6] = 0x40;
    header[8] = 64;
    header[9] = protocol::UDP;
    header[12..16].copy_from_slice(&own.v4_word().to_ne_bytes());
    header[16..20].copy_from_slice(&peer.v4_word().to_ne_bytes());
    checksum::sum(&header)
}
