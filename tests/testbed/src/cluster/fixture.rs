//! A cluster that lives as long as a test.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::thread;

use anyhow::Result;

use super::{Cluster, Remains, Spec};
use crate::{Progress, Workspace};

/// A cluster that is removed when this value is dropped. When the test failed, the logs of its
/// programs are kept in `target/cluster/failed/NAME`.
#[derive(Debug)]
pub struct TestCluster {
    cluster: Cluster,
}

impl TestCluster {
    /// Starts a cluster for a test. What an earlier, interrupted run of the test left is removed
    /// first.
    ///
    /// # Errors
    /// It does not come up; its remains are removed.
    pub fn up(spec: Spec) -> Result<Self> {
        Self::up_in(&Workspace::locate()?, spec)
    }

    /// Starts a cluster of the binaries of this workspace.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub fn up_in(workspace: &Workspace, spec: Spec) -> Result<Self> {
        let layout = Cluster::layout_of(workspace, &spec.name)?;
        Remains::of(&layout).remove()?;
        match Cluster::up(spec, workspace, &Progress::start()) {
            Ok(cluster) => Ok(Self { cluster }),
            Err(error) => {
                if let Err(unremoved) = Remains::of(&layout).remove() {
                    eprintln!("{unremoved:#}");
                }
                Err(error)
            }
        }
    }

    /// Removes the cluster and reports what could not be removed.
    ///
    /// # Errors
    /// Something is left.
    pub fn down(self) -> Result<()> {
        Remains::of(self.cluster.layout()).remove()
    }

    fn keep_logs(&self) -> Result<()> {
        let workspace = self.cluster.workspace();
        let kept = workspace
            .clusters()
            .join("failed")
            .join(self.cluster.layout().name());
        fs::create_dir_all(&kept)?;
        let spec = self.cluster.spec();
        for host in spec.control_hosts().chain(spec.node_hosts()) {
            let log = self.cluster.layout().log(host);
            if log.exists() {
                fs::copy(log, kept.join(format!("{host}.log")))?;
            }
        }
        eprintln!("the programs' logs are in {}", kept.display());
        Ok(())
    }
}

impl Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if thread::panicking()
            && let Err(error) = self.keep_logs()
        {
            eprintln!("keep the logs: {error:#}");
        }
        if let Err(error) = Remains::of(self.cluster.layout()).remove() {
            eprintln!("{error:#}");
        }
    }
}
