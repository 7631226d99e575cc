//! Quantities: numbers with a decimal or binary suffix (`500m`, `1.5Gi`, `2e3`).
//!
//! Source: `k8s.io/apimachinery/pkg/api/resource`. Held exactly, in units of 10⁻⁹, the finest
//! suffix there is; what is finer is rounded up, as upstream does.

use std::fmt;

use serde_json::Value;

/// What upstream says of text that is no quantity.
pub const RULE: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

const NANO: i128 = 1_000_000_000;
/// 2⁶³ − 1, where upstream caps.
const WHOLE_MAX: i128 = i64::MAX as i128;

const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [(&str, u32); 6] = [
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// A parsed quantity. Ordering and equality are by value: `1` equals `1000m`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Reads a quantity; the error is [`RULE`].
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let number_end = text
            .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(number_end);
        let (negative, digits) = match number.as_bytes().first() {
            Some(b'-') => (true, &number[1..]),
            Some(b'+') => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction)
        {
            return Err(RULE);
        }

        let (format, ten_power, two_power) = scale(suffix).ok_or(RULE)?;
        let scaled = scaled_nanos(whole, fraction, ten_power, two_power);
        let nanos = scaled.map_or(WHOLE_MAX * NANO, |n| n.min(WHOLE_MAX * NANO));
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }

    /// Reads a quantity from JSON: a string or a bare number.
    pub fn from_json(value: &Value) -> Result<Self, &'static str> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => Self::parse(&number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(RULE),
        }
    }

    /// In thousandths, rounded up: milli-CPUs of a `cpu` quantity.
    pub fn millis(self) -> i64 {
        self.in_units_of(NANO / 1000)
    }

    /// In wholes, rounded up: bytes of a `memory` quantity.
    pub fn value(self) -> i64 {
        self.in_units_of(1_000_000_000)
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    fn in_units_of(self, unit: i128) -> i64 {
        let up = self.nanos.div_euclid(unit) + i128::from(self.nanos.rem_euclid(unit) != 0);
        i64::try_from(up).unwrap_or(if up < 0 { i64::MIN } else { i64::MAX })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The canonical form: no fraction, the largest suffix that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::Binary && self.nanos % NANO == 0 {
            let whole = self.nanos / NANO;
            // Below 1Ki upstream falls back to plain decimals.
            if whole.abs() >= 1024 {
                let fits = BINARY
                    .iter()
                    .rev()
                    .find(|(_, p)| whole % (1_i128 << p) == 0);
                return match fits {
                    Some((suffix, power)) => write!(f, "{}{suffix}", whole >> power),
                    None => write!(f, "{whole}"),
                };
            }
        }
        let fits = DECIMAL
            .iter()
            .rev()
            .map(|(suffix, power)| (suffix, power, 10_i128.pow((power + 9).unsigned_abs())))
            .find(|(_, _, unit)| self.nanos % unit == 0);
        let (suffix, power, unit) = fits.expect("every count of nanos is divisible by one nano");
        let mantissa = self.nanos / unit;
        match self.format {
            Format::Exponent if *power != 0 => write!(f, "{mantissa}e{power}"),
            Format::Decimal | Format::Binary | Format::Exponent => write!(f, "{mantissa}{suffix}"),
        }
    }
}

/// Milli-CPUs, rounded up.
pub fn parse_cpu_millis(text: &str) -> Result<i64, &'static str> {
    Quantity::parse(text).map(Quantity::millis)
}

/// Bytes, or any other whole count, rounded up.
pub fn parse_bytes(text: &str) -> Result<i64, &'static str> {
    Quantity::parse(text).map(Quantity::value)
}

/// The format of a suffix and its power of ten and of two.
fn scale(suffix: &str) -> Option<(Format, i32, u32)> {
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((Format::Decimal, *power, 0));
    }
    if let Some((_, power)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Some((Format::Binary, 0, *power));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = exponent.parse().ok()?;
    (-99..=99)
        .contains(&power)
        .then_some((Format::Exponent, power, 0))
}

/// `whole.fraction × 10^ten_power × 2^two_power` in nanos, rounded up; `None` beyond 128 bits.
fn scaled_nanos(whole: &str, fraction: &str, ten_power: i32, two_power: u32) -> Option<i128> {
    let fraction = fraction.trim_end_matches('0');
    let mantissa = match whole.trim_start_matches('0') {
        "" if fraction.is_empty() => return Some(0),
        digits => format!("{digits}{fraction}").parse::<i128>().ok()?,
    };
    let mantissa = mantissa.checked_mul(1_i128 << two_power)?;
    let power = ten_power + 9 - i32::try_from(fraction.len()).ok()?;
    if power >= 0 {
        return mantissa.checked_mul(10_i128.checked_pow(power.unsigned_abs())?);
    }
    Some(match 10_i128.checked_pow(power.unsigned_abs()) {
        Some(divisor) => mantissa / divisor + i128::from(mantissa % divisor != 0),
        None => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, canonical: &str) {
        let parsed = Quantity::parse(text).expect(text);
        assert_eq!(parsed.to_string(), canonical, "{text}");
    }

    #[test]
    fn quantities_are_shown_in_canonical_form() {
        check("0", "0");
        check("0.0Gi", "0");
        check("1000m", "1");
        check("0.5", "500m");
        check("1.5Gi", "1536Mi");
        check("1024Mi", "1Gi");
        check("1025Ki", "1025Ki");
        check("512", "512");
        check("1500", "1500");
        check("1000", "1k");
        check("100000000", "100M");
        check("2e3", "2e3");
        check("20E3", "20e3");
        check("-1.5", "-1500m");
        check("0.1n", "1n");
        check("+3", "3");
        check(".5", "500m");
        check("1.", "1");
        check("9999999999999999999", "9223372036854775807");
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "", "a", "1.2.3", "1 Gi", "1gb", "1Kb", "--1", "e3", "1e", "Gi",
        ] {
            assert_eq!(
                Quantity::parse(text).map(|q| q.to_string()),
                Err(RULE),
                "{text}"
            );
        }
    }

    #[test]
    fn amounts_are_rounded_up_to_their_unit() {
        assert_eq!(parse_cpu_millis("250m"), Ok(250));
        assert_eq!(parse_cpu_millis("1.5"), Ok(1500));
        assert_eq!(parse_cpu_millis("1u"), Ok(1));
        assert_eq!(parse_bytes("64Mi"), Ok(64 << 20));
        assert_eq!(parse_bytes("1.5"), Ok(2));
        assert_eq!(parse_bytes("16E"), Ok(i64::MAX));
    }

    #[test]
    fn order_is_by_value_across_suffixes() {
        let parse = |text| Quantity::parse(text).expect("a quantity");
        assert_eq!(parse("1"), parse("1000m"));
        assert!(parse("1Gi") > parse("1G"));
        assert!(parse("-1") < parse("0"));
    }
}
