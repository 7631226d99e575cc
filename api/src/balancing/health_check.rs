use super::text;

/// Between two checks, at most: an hour.
const MILLISECONDS_MAX: u32 = 3_600_000;
/// More often is an attack on servers.
const MILLISECONDS_MIN: u32 = 50;
const IN_A_ROW_MAX: u32 = 100;

/// Why a check cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenRule {
    /// `port`, `path`, `interval`, `timeout`, `rise` or `fall`.
    pub field: &'static str,
    /// What is wrong with it, for people.
    pub rule: String,
}

/// What a check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// A connection is opened.
    Tcp,
    /// `GET` of a path is answered with 2xx or 3xx.
    Http,
    /// An ICMP echo is answered.
    Ping,
}

impl CheckKind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Ping => "ping",
        }
    }
}

/// How it is found out whether a backend answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// The port that is asked, 0 for the one that is balanced.
    pub port: u16,
    /// What `http` asks for.
    pub path: String,
    /// Between two checks.
    pub interval_milliseconds: u32,
    /// How long an answer may take.
    pub timeout_milliseconds: u32,
    /// So many successes in a row make it healthy.
    pub rise: u32,
    /// So many failures in a row make it unhealthy.
    pub fall: u32,
}

impl HealthCheck {
    /// Whether it can be, wherever it was written.
    ///
    /// # Errors
    /// The first field that cannot be, or not together with another.
    pub fn check(&self) -> Result<(), BrokenRule> {
        let is_http = self.kind == CheckKind::Http;
        let times = MILLISECONDS_MIN..=MILLISECONDS_MAX;
        let time = || format!("must be from {MILLISECONDS_MIN}ms to 1h");
        let count = || format!("must be a whole number from 1 to {IN_A_ROW_MAX}");
        let in_a_row = 1..=IN_A_ROW_MAX;
        let (field, rule) = if self.kind == CheckKind::Ping && self.port != 0 {
            ("port", "ping has no port".to_owned())
        } else if !is_http && !self.path.is_empty() {
            ("path", format!("{} has no path", self.kind.as_str()))
        } else if is_http && !is_path(&self.path) {
            let rule = format!("{:?} is not a slash and printable ASCII", self.path);
            ("path", rule)
        } else if !times.contains(&self.interval_milliseconds) {
            ("interval", time())
        } else if !times.contains(&self.timeout_milliseconds) {
            ("timeout", time())
        } else if self.timeout_milliseconds > self.interval_milliseconds {
            ("timeout", "must not be longer than the interval".to_owned())
        } else if !in_a_row.contains(&self.rise) {
            ("rise", count())
        } else if !in_a_row.contains(&self.fall) {
            ("fall", count())
        } else {
            return Ok(());
        };
        Err(BrokenRule { field, rule })
    }

    /// Reads `none`, or what to ask and then how often:
    /// `tcp`, `tcp:8080`, `ping`, `http:8080/healthz interval=5s timeout=2s rise=2 fall=3`.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        let (what, options) = match text.split_once(|c: char| c == ',' || c.is_ascii_whitespace()) {
            Some((what, options)) => (what, options),
            None => (text, ""),
        };
        if what == "none" && options.is_empty() {
            return Ok(None);
        }
        let (what, path) = match what.split_once('/') {
            Some((what, path)) => (what, Some(format!("/{path}"))),
            None => (what, None),
        };
        let (kind, port) = match what.split_once(':') {
            Some((kind, port)) => (kind, Some(port)),
            None => (what, None),
        };
        let kind = match kind {
            "tcp" => CheckKind::Tcp,
            "http" => CheckKind::Http,
            "ping" => CheckKind::Ping,
            other => return Err(format!("{other:?} is none of tcp, http, ping, none")),
        };
        let port = match port {
            None => 0,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err(format!("port {port:?} is none from 1 to 65535")),
            },
        };
        let path = match path {
            None if kind == CheckKind::Http => "/".to_owned(),
            path => path.unwrap_or_default(),
        };
        let mut check = Self {
            kind,
            port,
            path,
            interval_milliseconds: 5_000,
            timeout_milliseconds: 2_000,
            rise: 2,
            fall: 3,
        };
        check.options(options)?;
        match check.check() {
            Ok(()) => Ok(Some(check)),
            Err(BrokenRule { field, rule }) => Err(format!("{field}: {rule}")),
        }
    }

    fn options(&mut self, text: &str) -> Result<(), String> {
        let mut says_timeout = false;
        for (name, value) in text::pairs(text)? {
            let told = |rule: String| format!("{name}: {rule}");
            match name {
                "interval" => {
                    self.interval_milliseconds = text::milliseconds(value).map_err(told)?;
                }
                "timeout" => {
                    says_timeout = true;
                    self.timeout_milliseconds = text::milliseconds(value).map_err(told)?;
                }
                "rise" => self.rise = number(value).map_err(told)?,
                "fall" => self.fall = number(value).map_err(told)?,
                _ => {
                    return Err(format!("{name:?} is none of interval, timeout, rise, fall"));
                }
            }
        }
        if !says_timeout {
            self.timeout_milliseconds = self.timeout_milliseconds.min(self.interval_milliseconds);
        }
        Ok(())
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())
}

fn number(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_is_read_with_what_it_leaves_out() {
        let read = |text: &str| {
            let check = HealthCheck::parse(text).unwrap().unwrap();
            let times = (check.interval_milliseconds, check.timeout_milliseconds);
            (
                check.kind.as_str(),
                check.port,
                check.path,
                times,
                (check.rise, check.fall),
            )
        };
        let path = |text: &str| text.to_owned();
        for (text, expected) in [
            ("tcp", ("tcp", 0, path(""), (5_000, 2_000), (2, 3))),
            ("ping", ("ping", 0, path(""), (5_000, 2_000), (2, 3))),
            ("http", ("http", 0, path("/"), (5_000, 2_000), (2, 3))),
            (
                "http:8080/healthz?full=1 interval=1s timeout=200ms rise=1 fall=2",
                ("http", 8080, path("/healthz?full=1"), (1_000, 200), (1, 2)),
            ),
            (
                "tcp:22,interval=500ms",
                ("tcp", 22, path(""), (500, 500), (2, 3)),
            ),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert_eq!(HealthCheck::parse("none"), Ok(None));
    }

    #[test]
    fn wrong_check_says_what_is_wrong_with_it() {
        for (text, expected) in [
            ("", r#""" is none of tcp, http, ping, none"#),
            ("smtp:25", r#""smtp" is none of tcp, http, ping, none"#),
            ("tcp:0", r#"port "0" is none from 1 to 65535"#),
            ("ping:7", "port: ping has no port"),
            ("tcp:80/healthz", "path: tcp has no path"),
            (
                "http:80/h\u{e4}lth",
                "path: \"/h\u{e4}lth\" is not a slash and printable ASCII",
            ),
            ("tcp rise=0", "rise: must be a whole number from 1 to 100"),
            ("tcp fall=x", r#"fall: "x" is no whole number"#),
            (
                "tcp interval=1s timeout=2s",
                "timeout: must not be longer than the interval",
            ),
            ("tcp interval=1ms", "interval: must be from 50ms to 1h"),
            (
                "tcp retries=3",
                r#""retries" is none of interval, timeout, rise, fall"#,
            ),
        ] {
            assert_eq!(HealthCheck::parse(text).unwrap_err(), expected, "{text}");
        }
    }
}
