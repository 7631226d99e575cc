//! openraft's own suite for storage, over the real log and the real state machine.

use std::sync::Arc;

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tokio::sync::Notify;

use super::{TypeConfig, machine::Machine};
use crate::{Limits, log::Log, published::Published, snapshots::Snapshots, state::State};

struct Builder;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<TypeConfig>> {
        let limits = Limits::default();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = Log::open(&dir.path().join("log"), limits.segment_bytes).expect("a new log");
        let snapshots = Snapshots::open(&dir.path().join("snapshots")).expect("a new directory");
        let machine = Machine::new(
            None,
            Arc::new(snapshots),
            Arc::new(Published::new(&State::default(), &limits)),
            limits.snapshot_bytes,
            Arc::new(Notify::new()),
        );
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn openraft_storage_suite_passes() {
    Suite::test_all(Builder).await.expect("every case passes");
}
