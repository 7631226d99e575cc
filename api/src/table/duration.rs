use jiff::Timestamp;
use serde_json::Value;

/// How long ago an RFC 3339 instant was, as `kubectl get` shows ages; `<unknown>` without one.
pub fn age(instant: Option<&Value>, now: Timestamp) -> String {
    let instant = instant.and_then(Value::as_str);
    match instant.and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(then) => human_duration(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// Two significant units at most: `119s`, `5m30s`, `3h`, `47h`, `2d3h`, `400d`, `3y12d`.
///
/// Source: `k8s.io/apimachinery/pkg/util/duration.HumanDuration`.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    // A clock that is a second behind is no reason to show an error.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let two_units = |large: i64, large_name: char, small: i64, small_name: char| {
        let (count, rest) = (seconds / large, seconds % large / small);
        if rest == 0 {
            format!("{count}{large_name}")
        } else {
            format!("{count}{large_name}{rest}{small_name}")
        }
    };
    match seconds {
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two_units(MINUTE, 'm', 1, 's'),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two_units(HOUR, 'h', MINUTE, 'm'),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two_units(DAY, 'd', HOUR, 'h'),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two_units(YEAR, 'y', DAY, 'd'),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_upstream() {
        let check = |seconds, expect: &str| assert_eq!(human_duration(seconds), expect);
        check(-5, "<invalid>");
        check(-1, "0s");
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(330, "5m30s");
        check(600, "10m");
        check(3 * 3600 - 1, "179m");
        check(3 * 3600, "3h");
        check(3 * 3600 + 61, "3h1m");
        check(8 * 3600, "8h");
        check(47 * 3600, "47h");
        check(51 * 3600, "2d3h");
        check(8 * 86400, "8d");
        check(400 * 86400, "400d");
        check(3 * 365 * 86400 + 12 * 86400, "3y12d");
        check(9 * 365 * 86400, "9y");
    }
}
