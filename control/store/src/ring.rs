use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use fairlead_api::Revision;
use tokio::sync::watch;

use crate::Event;

/// What an event costs beside the objects it holds.
const EVENT_OVERHEAD_BYTES: usize = 512;

/// How much a ring may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLimits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Duration,
}

/// The latest mutations, in the order of revisions. Readers hold positions, not copies: a position
/// counts every event that ever went in, and one below `first` has been forgotten.
#[derive(Debug)]
pub(crate) struct Ring {
    limits: RingLimits,
    events: VecDeque<(Instant, Arc<Event>)>,
    bytes: usize,
    first: u64,
    /// The newest mutation that is not here any more; all after it are.
    floor: Revision,
    tail: watch::Sender<u64>,
}

impl Ring {
    /// An empty ring that knows of no mutation up to `floor`.
    pub(crate) fn new(limits: RingLimits, floor: Revision) -> Self {
        Self {
            limits,
            events: VecDeque::new(),
            bytes: 0,
            first: 0,
            floor,
            tail: watch::Sender::new(0),
        }
    }

    /// Adds the newest mutation and forgets what exceeds the limits. Does not wake readers.
    pub(crate) fn push(&mut self, event: Arc<Event>, now: Instant) {
        self.bytes += cost(&event);
        self.events.push_back((now, event));
        while let Some((at, oldest)) = self.events.front()
            && (self.events.len() > self.limits.events
                || self.bytes > self.limits.bytes
                || now.duration_since(*at) > self.limits.age)
        {
            self.bytes -= cost(oldest);
            self.floor = oldest.revision;
            self.first += 1;
            self.events.pop_front();
        }
    }

    /// Forgets everything and leaves a gap, so that every reader finds itself behind.
    pub(crate) fn reset(&mut self, floor: Revision) {
        self.first = self.tail() + 1;
        self.events.clear();
        self.bytes = 0;
        self.floor = floor;
    }

    /// Tells readers that there is something new.
    pub(crate) fn wake(&self) {
        self.tail.send_replace(self.tail());
    }

    /// Is told the tail whenever readers are woken.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.tail.subscribe()
    }

    /// The position of the next event to come.
    pub(crate) fn tail(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The newest mutation that is forgotten.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// The position of the first event behind `revision`, or `None` if it is forgotten.
    pub(crate) fn position_after(&self, revision: Revision) -> Option<u64> {
        if revision < self.floor {
            return None;
        }
        let seen = self
            .events
            .partition_point(|(_, event)| event.revision <= revision);
        Some(self.first + seen as u64)
    }

    /// The events from a position on, or `None` if some of them are forgotten.
    pub(crate) fn from(&self, position: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        let skip = usize::try_from(position.checked_sub(self.first)?)
            .expect("a position is never far beyond the ring's length");
        Some(self.events.iter().skip(skip).map(|(_, event)| event))
    }

    /// The events behind `revision` up to `last`, newest first. All of them must be here.
    pub(crate) fn back_to(
        &self,
        revision: Revision,
        last: Revision,
    ) -> impl Iterator<Item = &Event> {
        let end = self
            .events
            .partition_point(|(_, event)| event.revision <= last);
        self.events
            .range(..end)
            .rev()
            .map(|(_, event)| &**event)
            .take_while(move |event| event.revision > revision)
    }
}

fn cost(event: &Event) -> usize {
    // The object before is usually the object after of an earlier event, and shared with it.
    let entry = event.current.as_ref().or(event.previous.as_ref());
    EVENT_OVERHEAD_BYTES + entry.map_or(0, |entry| entry.value.len())
}
