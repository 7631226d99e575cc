//! Values of the file that are more than their YAML type: durations with their unit, seeds.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error, de::Visitor};

/// The longest duration that is taken, a day: longer ones are mistakes of the unit.
const DURATION_MILLISECONDS_MAX: u64 = 24 * 3600 * 1000;

/// A duration of whole seconds, "90s" or "15m".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) u32);

/// A duration, "500ms" or "2s".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Milliseconds(pub(crate) u32);

/// Keys the flow hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) [u8; 16]);

impl fmt::Debug for Seed {
    /// Who knows the seed can aim flows at one server.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let milliseconds = deserializer.deserialize_any(Duration)?;
        match milliseconds % 1000 {
            0 => Ok(Self(milliseconds / 1000)),
            _ => Err(D::Error::custom("has to be whole seconds")),
        }
    }
}

impl<'de> Deserialize<'de> for Milliseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Duration).map(Self)
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("is not 32 hexadecimal digits"))
    }
}

impl Seed {
    /// Reads 32 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok();
        let number = number.filter(|_| text.len() == 32 && is_hexadecimal)?;
        Some(Self(number.to_be_bytes()))
    }

    /// As [`Self::parse`] reads it.
    pub(crate) fn to_text(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Reads a number with its unit, as milliseconds.
struct Duration;

impl Visitor<'_> for Duration {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, such as 500ms, 30s, 15m or 1h")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u32, E> {
        milliseconds(text).map_err(|problem| E::custom(format!("\"{text}\" {problem}")))
    }
}

fn milliseconds(text: &str) -> Result<u32, &'static str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("is no duration with its unit, such as 500ms, 30s, 15m or 1h"),
    };
    let number: u64 = number.parse().map_err(|_| "does not begin with a number")?;
    match number.checked_mul(unit) {
        Some(0) => Err("is no time at all"),
        Some(value) if value <= DURATION_MILLISECONDS_MAX => Ok(value as u32),
        Some(_) | None => Err("is more than a day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_limit() {
        let cases = [
            ("250ms", Ok(250)),
            ("2s", Ok(2000)),
            ("15m", Ok(900_000)),
            ("24h", Ok(86_400_000)),
            ("25h", Err("is more than a day")),
            ("99999999999999999999s", Err("does not begin with a number")),
            ("0s", Err("is no time at all")),
            ("s", Err("does not begin with a number")),
            (
                "90",
                Err("is no duration with its unit, such as 500ms, 30s, 15m or 1h"),
            ),
            (
                "1.5s",
                Err("is no duration with its unit, such as 500ms, 30s, 15m or 1h"),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn seed_is_read_as_it_is_written() {
        let text = "00112233445566778899aabbccddeeff";
        let seed = Seed::parse(text).unwrap();
        assert_eq!(seed.0[..4], [0, 0x11, 0x22, 0x33]);
        assert_eq!(seed.to_text(), text);
        for wrong in [
            "",
            "0011",
            "+0112233445566778899aabbccddeeff",
            &"g".repeat(32),
        ] {
            assert!(Seed::parse(wrong).is_none(), "{wrong}");
        }
    }
}
