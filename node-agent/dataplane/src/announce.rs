//! Tells the segment that a VIP is here now: gratuitous ARP (RFC 5227 §3) and unsolicited neighbour
//! advertisements (RFC 4861 §7.2.6) from the uplinks, so that routers and hosts that have the
//! address of the node before send to this one at once. Questions are answered by XDP, which also
//! notes who else claims a VIP of ours; what follows from that is decided here.

mod frame;
mod groups;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fairlead_dataplane_common::UplinkEntry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::Error;
use crate::dataplane::with_state;
use crate::packet_socket::PacketSocket;
use crate::state::State;
#[cfg(test)]
pub(crate) use frame::gratuitous_arp;
use groups::Groups;
use turns::Turns;

/// How often others' claims are looked at.
const CLAIMS_PERIOD: Duration = Duration::from_millis(500);

/// From a claim to the defence against it, which is the least time between two defences as well
/// (`DEFEND_INTERVAL`, RFC 5227 §1.1). By then a session that has broken without a word is known to
/// have, so a holder that the control plane has replaced does not defend what is not its own.
const DEFENCE_DELAY: Duration = Duration::from_secs(10);

/// What is to be announced, and where from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// The VIPs this node answers for.
    vips: BTreeSet<IpAddr>,
    /// The uplinks by index.
    uplinks: BTreeMap<u32, UplinkEntry>,
    /// How often the VIPs had to be defended.
    defences: u64,
}

/// Announces VIPs for as long as it is kept.
pub(crate) struct Announcer {
    wanted: watch::Sender<Arc<Wanted>>,
    is_in_session: Arc<AtomicBool>,
    announcing: JoinHandle<()>,
    claims: JoinHandle<()>,
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.announcing.abort();
        self.claims.abort();
    }
}

impl Announcer {
    /// Announces nothing yet.
    pub(crate) fn start(socket: PacketSocket, state: Arc<Mutex<State>>) -> Self {
        let (wanted, followed) = watch::channel(Arc::default());
        let is_in_session = Arc::new(AtomicBool::new(false));
        let groups = Groups::open()
            .inspect_err(|error| tracing::info!(%error, "VIPs of IPv6 are not announced"))
            .ok();
        let claims = heed_claims(state, wanted.clone(), Arc::clone(&is_in_session));
        Self {
            wanted,
            is_in_session,
            announcing: tokio::spawn(announce(socket, groups, followed)),
            claims: tokio::spawn(claims),
        }
    }

    /// Announces `vips` from now on, and no others.
    pub(crate) fn set_vips(&self, vips: BTreeSet<IpAddr>) {
        change(&self.wanted, |wanted| wanted.vips = vips);
    }

    /// Announces from these interfaces.
    pub(crate) fn set_uplinks(&self, uplinks: BTreeMap<u32, UplinkEntry>) {
        change(&self.wanted, |wanted| wanted.uplinks = uplinks);
    }

    /// Whether who announces what is known to be up to date, so that a VIP that somebody else claims
    /// is defended, and not given up.
    pub(crate) fn set_in_session(&self, is_in_session: bool) {
        self.is_in_session.store(is_in_session, Ordering::Relaxed);
    }
}

fn change(wanted: &watch::Sender<Arc<Wanted>>, change: impl FnOnce(&mut Wanted)) {
    wanted.send_if_modified(|wanted| {
        let mut changed = Wanted::clone(wanted);
        change(&mut changed);
        let is_other = changed != **wanted;
        *wanted = Arc::new(changed);
        is_other
    });
}

/// Announces what is wanted, as it changes. Returns when the sender of `wanted` is gone.
async fn announce(
    socket: PacketSocket,
    mut groups: Option<Groups>,
    mut wanted: watch::Receiver<Arc<Wanted>>,
) {
    let mut turns = Turns::default();
    let mut before = Arc::<Wanted>::default();
    loop {
        let next = turns.next();
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
        let now = Instant::now();
        let current = Arc::clone(&wanted.borrow_and_update());
        if current.uplinks != before.uplinks || current.defences != before.defences {
            // What hosts know of all VIPs may be wrong now.
            turns = Turns::default();
        }
        if let Some(groups) = &mut groups {
            groups.set(&current.vips, &current.uplinks);
        }
        turns.set(&current.vips, now);
        for vip in turns.take_due(now) {
            send(&socket, vip, &current.uplinks);
        }
        before = current;
    }
}

fn send(socket: &PacketSocket, vip: IpAddr, uplinks: &BTreeMap<u32, UplinkEntry>) {
    for (&interface, uplink) in uplinks {
        let frame = match vip {
            IpAddr::V4(vip) => frame::gratuitous_arp(vip, uplink.mac),
            IpAddr::V6(vip) => frame::unsolicited_advertisement(vip, uplink.mac),
        };
        if let Err(error) = socket.send(interface, &frame) {
            // Said again in its next turn.
            tracing::warn!(%vip, interface, %error, "announcing a VIP failed");
        }
    }
}

/// Defends VIPs that others claim, or gives them up: without a session this node cannot know that
/// the control plane has not made another their holder.
async fn heed_claims(
    state: Arc<Mutex<State>>,
    wanted: watch::Sender<Arc<Wanted>>,
    is_in_session: Arc<AtomicBool>,
) {
    let mut turn = interval(CLAIMS_PERIOD);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut defence: Option<Instant> = None;
    loop {
        turn.tick().await;
        if wanted.borrow().vips.is_empty() {
            continue;
        }
        let is_in_session = is_in_session.load(Ordering::Relaxed);
        if defence.is_some_and(|at| at <= Instant::now()) {
            defence = None;
            change(&wanted, |wanted| {
                wanted.defences += u64::from(is_in_session);
            });
        }
        let heeded = with_state(Arc::clone(&state), move |state| {
            let claimed = claimed(state)?;
            if !is_in_session && !claimed.is_empty() {
                state.give_up(&claimed)?;
            }
            Ok((claimed, state.announced()))
        });
        let (claimed, announced) = match heeded.await {
            Ok(heeded) => heeded,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "others' claims to VIPs could not be heeded");
                continue;
            }
        };
        if claimed.is_empty() {
            continue;
        }
        if !is_in_session {
            change(&wanted, |wanted| wanted.vips = announced);
        } else if defence.is_none() {
            defence = Some(Instant::now() + DEFENCE_DELAY);
        }
    }
}

/// The VIPs of ours that others have claimed since this was asked last.
fn claimed(state: &mut State) -> Result<BTreeSet<IpAddr>, Error> {
    let claims = state.take_claims()?;
    for (vip, mac) in &claims {
        let [a, b, c, d, e, f] = mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        tracing::warn!(%vip, mac, "somebody else claims a VIP that is announced here");
    }
    Ok(claims.into_keys().collect())
}
