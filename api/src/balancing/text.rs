//! The small forms annotations are written in.

/// `name=value` pairs between commas or spaces, in their order.
pub(super) fn pairs(text: &str) -> Result<Vec<(&str, &str)>, String> {
    let items = text
        .split(|c: char| c == ',' || c.is_ascii_whitespace())
        .filter(|item| !item.is_empty());
    items
        .map(|item| match item.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name, value)),
            _ => Err(format!("{item:?} is not of the form name=value")),
        })
        .collect()
}

/// A duration: a whole number and `ms`, `s` (or nothing), `m` or `h`.
pub(super) fn milliseconds(text: &str) -> Result<u32, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let number: Option<u32> = number.parse().ok().filter(|_| factor != 0);
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "must be a duration like 30s, 500ms, 15m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, expected) in [
            ("500ms", Some(500)),
            ("3", Some(3_000)),
            ("3s", Some(3_000)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("s", None),
            ("-1s", None),
            ("1d", None),
            ("5000000h", None),
        ] {
            assert_eq!(milliseconds(text).ok(), expected, "{text}");
        }
    }
}
