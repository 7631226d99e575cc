//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};

/// The pause between two looks at a condition: short against anything worth waiting for, long
/// against the cost of a look.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The moment by which a condition must hold.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    allowed: Duration,
}

impl Deadline {
    /// A deadline `allowed` from now.
    pub fn after(allowed: Duration) -> Self {
        Self {
            at: Instant::now() + allowed,
            allowed,
        }
    }

    /// A deadline `seconds` from now.
    pub fn seconds(seconds: u64) -> Self {
        Self::after(Duration::from_secs(seconds))
    }

    /// Whether the moment has passed.
    pub fn has_passed(&self) -> bool {
        Instant::now() >= self.at
    }

    /// Looks until `look` answers `Ok(Some(value))`.
    ///
    /// # Errors
    /// The deadline passed: the error names `what` and the last answer or error of `look`.
    pub fn wait_for<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        loop {
            let last = match look() {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if self.has_passed() {
                return Err(self.missed(what, last));
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Looks until `holds` answers true.
    ///
    /// # Errors
    /// The deadline passed; the error names `what`.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
        self.wait_for(what, || Ok(holds().then_some(())))
    }

    /// The same for who works in a runtime that has to go on meanwhile.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub async fn until_async(
        &self,
        what: &str,
        mut holds: impl AsyncFnMut() -> bool,
    ) -> Result<()> {
        while !holds().await {
            if self.has_passed() {
                return Err(self.missed(what, None));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// That `what` has not happened in time, and the last error met on the way.
    fn missed(&self, what: &str, last: Option<Error>) -> Error {
        let seconds = self.allowed.as_secs_f32();
        let missed = format!("{what}: not within {seconds:.0} s");
        match last {
            Some(error) => error.context(missed),
            None => anyhow!(missed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let value = Deadline::seconds(10)
            .wait_for("the third look", || {
                looks += 1;
                Ok((looks == 3).then_some(looks))
            })
            .expect("the third look succeeds");
        assert_eq!(value, 3);
    }

    #[test]
    fn a_deadline_that_passes_names_the_condition_and_the_last_error() {
        let error = Deadline::after(Duration::ZERO)
            .wait_for::<()>("a port", || Err(anyhow::anyhow!("connection refused")))
            .expect_err("never true");
        let chain = format!("{error:#}");
        assert!(chain.starts_with("a port: not within 0 s"), "{chain}");
        assert!(chain.ends_with("connection refused"), "{chain}");
    }
}
