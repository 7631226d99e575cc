use crate::Address;

/// A socket and the backend it talks to; the key of `socket_origins`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SocketKey {
    /// `bpf_get_socket_cookie`: unique for as long as the machine is up.
    pub cookie: u64,
    /// The backend's address.
    pub address: Address,
    /// The backend's port, network order.
    pub port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub padding: [u8; 5],
}
map_struct!(SocketKey, 32);

/// What the program behind the socket asked for, and is told that it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SocketOrigin {
    /// The service's address.
    pub address: Address,
    /// The service's port, network order.
    pub port_be: u16,
    /// Zero.
    pub padding: u16,
    /// `BackendId` that was picked.
    pub backend: u32,
}
map_struct!(SocketOrigin, 24);
