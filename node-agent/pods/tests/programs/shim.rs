//! The pod shim as a program of its own, for tests whose own binary cannot be re-executed as one.

use std::ffi::OsString;

fn main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let code = match args.split_first() {
        Some((first, rest)) if first == fairlead_pods::SHIM_ARGUMENT => {
            fairlead_pods::shim_main(rest)
        }
        _ => {
            eprintln!(
                "usage: fairlead-pods-shim {} STEP …",
                fairlead_pods::SHIM_ARGUMENT
            );
            2
        }
    };
    std::process::exit(code);
}
