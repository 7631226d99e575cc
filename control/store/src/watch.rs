use std::sync::Arc;

use fairlead_api::Revision;
use tokio::sync::watch;

use crate::{Event, WatchError, published::Published};

/// Follows the mutations of a prefix, in the order of revisions, without a gap. A cursor on the
/// mutations that all watches share: it holds no queue, however slow its reader is.
#[derive(Debug)]
pub struct Watch {
    published: Arc<Published>,
    resource: Option<String>,
    prefix: String,
    position: u64,
    /// The newest mutation behind the cursor.
    passed: Revision,
    woken: watch::Receiver<u64>,
}

impl Watch {
    pub(crate) fn new(
        published: Arc<Published>,
        resource: Option<String>,
        prefix: &str,
        position: u64,
        passed: Revision,
        woken: watch::Receiver<u64>,
    ) -> Self {
        Self {
            published,
            resource,
            prefix: prefix.to_owned(),
            position,
            passed,
            woken,
        }
    }

    /// The next mutation; waits for it. Cancel safe: a mutation is passed only when it is returned.
    ///
    /// # Errors
    /// Once it has failed it fails for ever.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        loop {
            // Marked before the look, so that what comes after it wakes us.
            self.woken.borrow_and_update();
            if let Some(event) = self.step()? {
                return Ok(event);
            }
            let woken = self.woken.changed().await;
            woken.expect("rings live as long as the view that this watch shares");
        }
    }

    /// All mutations up to this revision have been returned: what a bookmark says.
    pub fn revision(&self) -> Revision {
        let view = self.published.read();
        let ring = view.ring(self.resource.as_deref());
        if self.position == ring.tail() {
            self.passed.max(view.revision())
        } else {
            self.passed
        }
    }

    /// Passes mutations until one is of the prefix.
    fn step(&mut self) -> Result<Option<Event>, WatchError> {
        let view = self.published.read();
        if view.closed() {
            return Err(WatchError::Closed);
        }
        let ring = view.ring(self.resource.as_deref());
        for event in ring.from(self.position).ok_or(WatchError::Expired)? {
            self.position += 1;
            self.passed = event.revision;
            if event.key().as_str().starts_with(&self.prefix) {
                return Ok(Some((**event).clone()));
            }
        }
        Ok(None)
    }
}
