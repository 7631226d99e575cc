//! What the uplinks are like: the programs answer and forward with their addresses, which may change
//! (a bond takes that of its first port, a virtual machine is moved).

use std::collections::BTreeMap;

use fairlead_dataplane_common::UplinkEntry;
use futures::StreamExt;

use crate::netlink::{self, Netlink};

/// The uplinks by index, of those called `names` that exist.
pub(crate) async fn read(
    netlink: &Netlink,
    names: &[String],
) -> Result<BTreeMap<u32, UplinkEntry>, netlink::Error> {
    let links = netlink.links().await?;
    let uplinks = links.into_iter().filter(|link| names.contains(&link.name));
    let entries = uplinks.map(|link| {
        let entry = UplinkEntry {
            mac: link.mac,
            flags: 0,
            mtu: link.mtu,
        };
        (link.index, entry)
    });
    Ok(entries.collect())
}

/// Tells `found` what the uplinks are like now, and whenever a link has changed. Ends when the socket fails.
pub(crate) async fn follow(
    netlink: Netlink,
    names: Vec<String>,
    found: impl Fn(BTreeMap<u32, UplinkEntry>) + Send,
) -> Result<(), std::io::Error> {
    let mut changes = netlink::link_changes()?;
    // Read once more at first: something may have changed before the changes were listened to.
    loop {
        match read(&netlink, &names).await {
            Ok(uplinks) => found(uplinks),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "reading the uplinks failed");
            }
        }
        if changes.next().await.is_none() {
            return Err(std::io::Error::other("the link socket was closed"));
        }
    }
}
