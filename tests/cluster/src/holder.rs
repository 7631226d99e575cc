//! Which node answers for a VIP, and how soon another does when that one dies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use testbed::Deadline;
use testbed::cluster::{Cluster, Host, KUBECTL};

/// How long nobody may answer for a VIP.
const TAKE_OVER_MAX: Duration = Duration::from_secs(3);

/// Who answers for a VIP, as its Lease says.
#[derive(Clone, Debug)]
pub struct Holding {
    /// The node.
    pub node: String,
    /// Since when it is to.
    since: Timestamp,
}

impl Holding {
    /// Who answers for `vip`, asked of a member of the control plane.
    ///
    /// # Errors
    /// Nobody does, or the member does not say.
    pub fn of(cluster: &Cluster, member: Host, vip: &str) -> Result<Self> {
        let kubectl = cluster.kubectl_of(KUBECTL, member)?;
        let path = "{.spec.holderIdentity}{\"\\n\"}{.spec.acquireTime}";
        let lease = format!("lease vip-{vip} -n kube-system");
        let said = kubectl.ok(&format!(
            "get {lease} --request-timeout=2s -o jsonpath={path}"
        ))?;
        let (node, since) = said.split_once('\n').context("a Lease has both")?;
        Ok(Self {
            node: node.to_owned(),
            since: since.trim().parse().context("a time")?,
        })
    }

    /// Waits until another node answers for `vip`, by the word of a member that lives, and checks that
    /// it was in time after this one's death at `died`.
    ///
    /// # Errors
    /// Nobody did, or too late.
    pub fn check_taken_over(
        &self,
        cluster: &Cluster,
        member: Host,
        vip: &str,
        died: Timestamp,
    ) -> Result<Self> {
        let next = cluster.wait_for(Deadline::seconds(30), "another holder", || {
            // While members elect another leader none of them says anything.
            let next = Self::of(cluster, member, vip).ok();
            Ok(next.filter(|next| next.node != self.node))
        })?;
        let after = next.since.duration_since(died).unsigned_abs();
        println!(
            "{} died: {} holds {vip} after {:.1} s",
            self.node,
            next.node,
            after.as_secs_f32()
        );
        ensure!(
            after <= TAKE_OVER_MAX,
            "{vip} had no holder for {after:?}, which is longer than {TAKE_OVER_MAX:?}"
        );
        Ok(next)
    }
}
