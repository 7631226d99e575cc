//! What one stage of a program for skbs leaves to another.
//!
//! A program's stages are called one after the other by its entry, not by each other, so that no two of
//! them are on the stack at once. Each returns an action of TC, or one of these: together in one place,
//! so that none is taken for another.

/// The packet may be for a service, by the flow that was found.
pub const BALANCE: i32 = i32::MAX;
/// The packet is not encapsulated for this node.
pub const PLAIN: i32 = i32::MAX - 1;
/// A pod of another node sent the packet to this one itself: only what answers a translated flow is
/// ours.
pub const FROM_POD: i32 = i32::MAX - 16;
/// The packet goes to the backend that was picked and kept, see [`pick::keep`](crate::pick::keep).
pub const SEND: i32 = i32::MAX - 2;
/// The packet is to be delivered, see [`Delivery`](crate::reply::Delivery).
pub const DELIVER: i32 = i32::MAX - 3;
/// The same of an ICMP error.
pub const DELIVER_ERROR: i32 = i32::MAX - 4;
/// The same of a packet that is not to be passed on any more.
pub const DELIVER_LAST: i32 = i32::MAX - 5;
/// The packet is to be delivered to a backend that is not here, or not any more.
pub const DELIVER_ELSEWHERE: i32 = i32::MAX - 17;
/// Nothing is known here of the packet's connection, and nothing was done.
pub const UNKNOWN: i32 = i32::MAX - 6;
/// The packet is to be translated, as [`nat::begin`](crate::nat::begin) was told.
pub const TRANSLATE: i32 = i32::MAX - 7;
/// The packet may be an answer to what was translated.
pub const TRANSLATE_ANSWER: i32 = i32::MAX - 8;
/// The packet may be an answer to a pod.
pub const COME_BACK: i32 = i32::MAX - 9;
/// The packet leaves the cluster in the node's name.
pub const MASQUERADE: i32 = i32::MAX - 10;
/// What a pod sends is a fragment, which shows no ports; it may be part of an answer.
pub const ANSWER_FRAGMENT: i32 = i32::MAX - 11;
/// What a pod sends is an ICMP error; it may be about what a VIP's client has sent.
pub const ANSWER_ERROR: i32 = i32::MAX - 12;
/// The packet is for a VIP and has IPv4 options, which are to be taken off.
pub const TAKE_OPTIONS_OFF: i32 = i32::MAX - 13;
/// Nobody takes the packet, which is for the service that [`reset::begin`](crate::reset::begin) was told.
pub const REFUSE: i32 = i32::MAX - 14;
/// The packet is for no service.
pub const NO_SERVICE: i32 = i32::MAX - 15;
