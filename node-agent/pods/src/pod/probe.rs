//! Counting a probe's answers against its thresholds.

use k8s_openapi::api::core::v1::Probe;

/// Which of a container's three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// As Events name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// Answers of one probe in a row.
#[derive(Debug)]
pub(crate) struct ProbeCounter {
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    count: u32,
}

impl ProbeCounter {
    /// A counter with the probe's thresholds (upstream's defaults: 1 success, 3 failures).
    pub(crate) fn new(probe: &Probe) -> Self {
        let threshold = |value: Option<i32>, default| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default)
        };
        Self {
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
            last: None,
            count: 0,
        }
    }

    /// Takes an answer; returns the verdict once enough in a row agree.
    pub(crate) fn observe(&mut self, success: bool) -> Option<bool> {
        if self.last != Some(success) {
            self.last = Some(success);
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        let threshold = if success {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        (self.count >= threshold).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_needs_as_many_answers_in_a_row_as_its_threshold() {
        let mut counter = ProbeCounter::new(&Probe {
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..Probe::default()
        });
        let answers = [true, false, true, true, false, false, false, false];
        let verdicts: Vec<_> = answers
            .iter()
            .map(|answer| counter.observe(*answer))
            .collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(verdicts, [None, None, None, yes, None, None, no, no]);
    }
}
