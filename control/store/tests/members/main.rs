//! The store as its users see it: members of one cluster, over real sockets and real disks.

mod cluster;
mod support;
mod watch;
