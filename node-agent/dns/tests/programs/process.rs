//! The DNS of a node, as the agent's binary runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == fairlead_dns::PROCESS_ARGUMENT => {
            ExitCode::from(fairlead_dns::process::main(rest))
        }
        _ => ExitCode::from(2),
    }
}
