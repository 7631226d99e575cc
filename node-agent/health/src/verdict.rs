use crate::Rhythm;

/// What is thought of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers, or has not been asked often enough to say otherwise.
    Healthy,
    /// It does not.
    Unhealthy,
}

/// What is thought of a server, and how much speaks against it: `rise` successes in a row make an
/// unhealthy one healthy, `fall` failures in a row the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    health: Health,
    /// Answers in a row that speak against `health`.
    against: u32,
}

impl Verdict {
    /// A server of which nothing but this is known.
    pub fn new(health: Health) -> Self {
        Self { health, against: 0 }
    }

    /// What is thought now.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes one more answer into account. Whether another thing is thought now.
    pub fn take(&mut self, is_success: bool, rhythm: &Rhythm) -> bool {
        let (speaks_for, needed, other) = match self.health {
            Health::Healthy => (is_success, rhythm.fall, Health::Unhealthy),
            Health::Unhealthy => (!is_success, rhythm.rise, Health::Healthy),
        };
        if speaks_for {
            self.against = 0;
            return false;
        }
        self.against += 1;
        if self.against < needed {
            return false;
        }
        *self = Self::new(other);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What is thought after each of the answers: `+` a success, `-` a failure; `U` up, `d` down.
    fn history(from: Health, rise: u32, fall: u32, answers: &str) -> String {
        let rhythm = Rhythm {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise,
            fall,
        };
        let mut verdict = Verdict::new(from);
        let mut before = from;
        let letters = answers.chars().map(|answer| {
            let changed = verdict.take(answer == '+', &rhythm);
            assert_eq!(changed, verdict.health() != before, "{answers}");
            before = verdict.health();
            match before {
                Health::Healthy => 'U',
                Health::Unhealthy => 'd',
            }
        });
        letters.collect()
    }

    #[test]
    fn answers_are_believed_after_so_many_of_a_kind_in_a_row() {
        let cases = [
            (Health::Healthy, 2, 3, "++++", "UUUU"),
            (Health::Healthy, 2, 3, "---", "UUd"),
            (Health::Healthy, 2, 3, "--+--+--", "UUUUUUUU"),
            (Health::Healthy, 2, 3, "---++", "UUddU"),
            (Health::Healthy, 2, 3, "---+-++", "UUddddU"),
            (Health::Healthy, 2, 3, "---++--+---", "UUddUUUUUUd"),
            (Health::Unhealthy, 1, 1, "+-+", "UdU"),
            (Health::Unhealthy, 3, 1, "++-+++-", "dddddUd"),
        ];
        for (from, rise, fall, answers, expected) in cases {
            assert_eq!(history(from, rise, fall, answers), expected, "{answers}");
        }
    }
}
