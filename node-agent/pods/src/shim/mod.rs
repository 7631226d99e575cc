//! The pod shim: the process that holds a pod's containers, so that the agent may come and go.
//!
//! It is this crate's own code in the agent's own binary, started anew with other arguments and
//! deliberately plain: one thread, no async runtime, no configuration but the pod's directory. It
//! owns the pod's IPC, UTS and mount namespaces, the containers' output and their exit codes. It
//! knows nothing of pods' specs, restart policies, probes or the network: the agent decides.
//!
//! libcontainer changes its caller's directory, OOM score and dumpable flag, so it never runs in
//! the shim itself but in a short-lived step of the same binary ([`create`], [`exec`]).

mod client;
mod container;
mod create;
mod exec;
mod execution;
mod identity;
mod log_file;
pub(crate) mod protocol;
mod rootfs;
mod serve;

use std::ffi::OsString;
use std::path::Path;

pub(crate) use identity::Identity;

/// The argument that makes the agent's binary a shim.
pub const SHIM_ARGUMENT: &str = "pod-shim";

/// Runs a step of the shim: `args` are what follows [`SHIM_ARGUMENT`]. Returns the exit code.
///
/// Must be called before the process starts a thread or an async runtime.
pub fn shim_main(args: &[OsString]) -> i32 {
    let result = match args {
        [step, pod_dir] if step == "serve" => serve::run(Path::new(pod_dir)),
        [step, container_dir] if step == "create" => create::run(Path::new(container_dir)),
        [step, container_dir, timeout_ms, argv @ ..] if step == "exec" => {
            return exec::run(Path::new(container_dir), timeout_ms, argv);
        }
        [step, archive, store] if step == "import" => {
            crate::image::import_step(Path::new(archive), Path::new(store))
        }
        _ => Err(format!("not a step of the pod shim: {args:?}")),
    };
    match result {
        Ok(()) => 0,
        Err(message) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "{message}");
            1
        }
    }
}
