//! An interface as the machine shows it.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The index of the interface called `name` in this thread's namespace.
///
/// # Errors
/// There is none.
pub fn index(name: &str) -> Result<u32> {
    let index = show(name)?["ifindex"].as_u64();
    index
        .and_then(|index| index.try_into().ok())
        .with_context(|| format!("ip shows no index of {name}"))
}

/// Its MAC address.
///
/// # Errors
/// There is no such interface, or it has none.
pub fn mac(name: &str) -> Result<[u8; 6]> {
    let link = show(name)?;
    let text = link["address"].as_str();
    parse_mac(text.with_context(|| format!("ip shows no MAC address of {name}"))?)
}

/// A MAC address as people write it.
///
/// # Errors
/// `text` is not six bytes in hexadecimal, joined by colons.
pub fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .with_context(|| format!("{text} is no MAC address"))
}

/// The counters of an interface's queues: those that `ethtool -S` shows by a name that begins with
/// `rx` or `tx` and holds a number. Drivers name them as they like.
///
/// # Errors
/// ethtool does not run.
pub fn queue_counters(name: &str) -> Result<BTreeMap<String, u64>> {
    let shown = Command::new("ethtool")
        .args(["-S", name])
        .output()
        .context("run ethtool")?;
    // A driver without counters is no error, and ethtool says so by its exit.
    Ok(parse_counters(&String::from_utf8_lossy(&shown.stdout)))
}

fn parse_counters(shown: &str) -> BTreeMap<String, u64> {
    shown
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(name, _)| name.starts_with("rx") || name.starts_with("tx"))
        .filter(|(name, _)| name.contains(|letter: char| letter.is_ascii_digit()))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

/// What ip(8) shows of a link. Not sysfs, which shows the namespace that it was mounted in.
fn show(name: &str) -> Result<Value> {
    let done = Command::new("ip")
        .args(["-json", "link", "show", "dev", name])
        .output()
        .context("run ip")?;
    ensure!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr).trim()
    );
    let links: Value = serde_json::from_slice(&done.stdout).context("understand ip's JSON")?;
    Ok(links[0].clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_queues_are_told_from_others() {
        let shown = "NIC statistics:\n     peer_ifindex: 2\n     rx_queue_0_xdp_packets: 12\n     \
                     tx_packets: 7\n     tx-1.bytes: 99\n";
        let expected = [("rx_queue_0_xdp_packets", 12), ("tx-1.bytes", 99)];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(parse_counters(shown), expected.into());
    }

    #[test]
    fn mac_addresses_have_six_bytes() {
        assert_eq!(
            parse_mac("02:00:0a:ff:00:01").ok(),
            Some([2, 0, 10, 255, 0, 1])
        );
        for wrong in [
            "",
            "02:00:0a:ff:00",
            "02:00:0a:ff:00:01:02",
            "zz:00:0a:ff:00:01",
        ] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }
}
