//! `netctl lvs`: the tables as `ipvsadm -Ln` prints them, for people who know it by heart.

use clap::Args;
use serde_json::Value;

use crate::{
    merge::{self, number},
    output::{self, Output},
    services::{endpoint, qualified},
    source::Source,
};

/// Which columns, as of ipvsadm.
#[derive(Args)]
pub(crate) struct Options {
    /// What went through so far.
    #[arg(long)]
    stats: bool,
    /// How much a second.
    #[arg(long)]
    rate: bool,
    /// Whole numbers, also large ones.
    #[arg(long)]
    exact: bool,
    /// Only this Service, NAMESPACE/NAME; the namespace is `default` unless given.
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// ClusterIPs too, which are translated for sockets.
    #[arg(long)]
    all: bool,
}

/// One line a frontend and one a backend.
pub(crate) async fn run(source: &Source, options: &Options, output: Output) -> anyhow::Result<()> {
    let query = match &options.service {
        Some(service) => format!("connections=yes&service={}", qualified(service)),
        None => "connections=yes".to_owned(),
    };
    let answers = source.view("services", &query).await?;
    let services = merge::services(&answers);
    if !output.is_for_people() {
        return output::document(output, &Value::Array(services));
    }
    output::write(&text(&services, answers.len(), options))
}

fn text(services: &[Value], nodes: usize, options: &Options) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("Fairlead Virtual Server version {version} (nodes={nodes})\n");
    text.push_str(&heading(options));
    for service in services {
        for frontend in service["frontends"].as_array().into_iter().flatten() {
            if frontend["scope"] == "cluster" && !options.all {
                continue;
            }
            text.push_str(&service_line(service, frontend, options));
            for backend in service["backends"].as_array().into_iter().flatten() {
                text.push_str(&backend_line(backend, options));
            }
        }
    }
    text
}

/// Whether lines are as wide as those with numbers.
fn has_numbers(options: &Options) -> bool {
    options.stats || options.rate
}

fn heading(options: &Options) -> String {
    if !has_numbers(options) {
        return "Prot LocalAddress:Port Scheduler Flags\n  \
                -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
            .to_owned();
    }
    let mut line = format!("{:<33}", "Prot LocalAddress:Port");
    for (is_asked, columns) in [
        (
            options.stats,
            ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"],
        ),
        (options.rate, ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
    ] {
        for column in columns.iter().filter(|_| is_asked) {
            line.push_str(&format!(" {column:>8}"));
        }
    }
    format!("{line}\n  -> RemoteAddress:Port\n")
}

fn service_line(service: &Value, frontend: &Value, options: &Options) -> String {
    let protocol = frontend["protocol"].as_str().unwrap_or("?");
    let address = endpoint(&frontend["address"], &frontend["port"]);
    if has_numbers(options) {
        let numbers = numbers(service, options);
        return format!("{:<33}{numbers}\n", format!("{protocol:<4} {address}"));
    }
    let scheduler = service["scheduler"].as_str().unwrap_or("?");
    let flags = match service["affinitySeconds"].as_u64() {
        Some(seconds) => format!(" persistent {seconds}"),
        None => String::new(),
    };
    format!("{protocol:<4} {address} {scheduler}{flags}\n")
}

fn backend_line(backend: &Value, options: &Options) -> String {
    let address = endpoint(&backend["address"], &backend["port"]);
    if has_numbers(options) {
        let numbers = numbers(backend, options);
        return format!("{:<33}{numbers}\n", format!("  -> {address}"));
    }
    // Weight 0 is how IPVS drains.
    let weight = match backend["state"].as_str() {
        Some("draining" | "silent") => 0,
        _ => number(&backend["weight"]),
    };
    let count = |field: &str| match backend[field].as_u64() {
        Some(count) => count.to_string(),
        None => "-".to_owned(),
    };
    format!(
        "  -> {address:<28} {:<7} {weight:<6} {:<10} {}\n",
        forward(backend),
        count("activeConnections"),
        count("inactiveConnections"),
    )
}

/// How the first node that does not have the backend itself forwards to it, in the words of ipvsadm.
fn forward(backend: &Value) -> &'static str {
    let nodes = backend["nodes"].as_array();
    let mut modes: Vec<&str> = nodes
        .into_iter()
        .flatten()
        .filter_map(|node| node["mode"].as_str())
        .collect();
    modes.sort_by_key(|mode| *mode == "local");
    match modes.first() {
        Some(&"dr") => "Route",
        Some(&"tun") => "Tunnel",
        Some(&"nat") => "Masq",
        Some(&"local") => "Local",
        _ => "-",
    }
}

/// The columns with numbers. What leaves is that of nat, as with IPVS: other answers do not pass the node
/// that balances.
fn numbers(object: &Value, options: &Options) -> String {
    let mut text = String::new();
    let mut add = |fields: [&str; 5]| {
        for field in fields {
            let count = number(&object[field]);
            let cell = if options.exact {
                count.to_string()
            } else {
                short(count)
            };
            text.push_str(&format!(" {cell:>8}"));
        }
    };
    if options.stats {
        add(["connections", "packets", "answers", "bytes", "answerBytes"]);
    }
    if options.rate {
        add([
            "connectionsPerSecond",
            "packetsPerSecond",
            "answersPerSecond",
            "bytesPerSecond",
            "answerBytesPerSecond",
        ]);
    }
    text
}

/// Eight digits, or as many thousands, millions and so on: as ipvsadm writes large numbers.
fn short(count: u64) -> String {
    const DIGITS: u64 = 100_000_000;
    let mut rest = count;
    for suffix in ["", "K", "M", "G", "T"] {
        if rest < DIGITS {
            return format!("{rest}{suffix}");
        }
        rest /= 1_000;
    }
    format!("{rest}P")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(stats: bool, rate: bool) -> Options {
        Options {
            stats,
            rate,
            exact: false,
            service: None,
            all: false,
        }
    }

    fn services() -> Vec<Value> {
        let backend = |last: u64, mode: &str, active: Value, state: &str| {
            json!({
                "address": format!("10.244.{last}.10"), "port": 8080, "weight": last, "state": state,
                "nodes": [{"mode": "local"}, {"mode": mode}],
                "connections": 7, "packets": 1_234, "bytes": 150_000_000_000_u64,
                "answers": 1_000, "answerBytes": 64_000, "answersPerSecond": 0, "answerBytesPerSecond": 0,
                "connectionsPerSecond": 1, "packetsPerSecond": 20, "bytesPerSecond": 3_000,
                "activeConnections": active, "inactiveConnections": active,
            })
        };
        vec![
            json!({
                "scheduler": "wlc", "affinitySeconds": 360,
                "frontends": [
                    {"address": "198.18.100.1", "port": 80, "protocol": "TCP", "scope": "external"},
                    {"address": "10.96.0.1", "port": 80, "protocol": "TCP", "scope": "cluster"},
                ],
                "connections": 14, "packets": 2_468, "bytes": 300_000,
                "answers": 2_000, "answerBytes": 128_000, "answersPerSecond": 7, "answerBytesPerSecond": 900,
                "connectionsPerSecond": 2, "packetsPerSecond": 40, "bytesPerSecond": 6_000,
                "backends": [backend(1, "local", 3.into(), "active"), backend(2, "dr", 0.into(), "draining")],
            }),
            json!({
                "scheduler": "maglev", "affinitySeconds": null,
                "frontends": [
                    {"address": "2001:db8::1", "port": 53, "protocol": "UDP", "scope": "external"},
                ],
                "backends": [backend(3, "tun", Value::Null, "active"), backend(4, "nat", Value::Null, "active")],
            }),
        ]
    }

    #[test]
    fn lines_are_those_of_ipvsadm() {
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "\
Fairlead Virtual Server version {version} (nodes=2)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  198.18.100.1:80 wlc persistent 360
  -> 10.244.1.10:8080             Local   1      3          3
  -> 10.244.2.10:8080             Route   0      0          0
UDP  [2001:db8::1]:53 maglev
  -> 10.244.3.10:8080             Tunnel  3      -          -
  -> 10.244.4.10:8080             Masq    4      -          -
"
        );
        assert_eq!(text(&services(), 2, &options(false, false)), expected);
    }

    #[test]
    fn numbers_stand_in_columns_of_eight() {
        let stats = text(&services()[..1], 1, &options(true, false));
        let lines: Vec<&str> = stats.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes",
                "  -> RemoteAddress:Port",
                "TCP  198.18.100.1:80                    14     2468     2000   300000   128000",
                "  -> 10.244.1.10:8080                    7     1234     1000  150000M    64000",
                "  -> 10.244.2.10:8080                    7     1234     1000  150000M    64000",
            ]
        );
        let rate = text(&services()[..1], 1, &options(false, true));
        assert!(
            rate.contains("     CPS    InPPS   OutPPS    InBPS   OutBPS"),
            "{rate}"
        );
        assert!(
            rate.contains("       2       40        7     6000      900"),
            "{rate}"
        );
        let both = text(&services()[..1], 1, &options(true, true));
        let widths: Vec<usize> = both.lines().skip(3).map(str::len).collect();
        assert_eq!(widths, [33 + 10 * 9; 3]);
    }

    #[test]
    fn large_numbers_keep_eight_digits() {
        assert_eq!(short(99_999_999), "99999999");
        assert_eq!(short(100_000_000), "100000K");
        assert_eq!(short(u64::MAX), "18446744T");
    }
}
