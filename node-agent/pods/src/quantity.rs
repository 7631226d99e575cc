//! Kubernetes quantities: `500m`, `64Mi`, `1e3`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// In thousandths: `1` is 1000, `500m` is 500. Rounded up, as the API does. `None` if malformed.
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let digits = text
        .find(|character: char| !matches!(character, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (multiplier, divisor): (i128, i128) = match suffix {
        "" => (1000, 1),
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10i128.checked_pow(power.unsigned_abs())?;
            if power < 0 {
                (1000, factor)
            } else {
                (factor.checked_mul(1000)?, 1)
            }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = 10i128.checked_pow(fraction.len() as u32)?;
    let unscaled: i128 = format!("{whole}{fraction}").parse().ok()?;
    let product = unscaled.checked_mul(multiplier)?;
    let divisor = divisor.checked_mul(scale)?;
    Some(product.div_euclid(divisor) + i128::from(product.rem_euclid(divisor) != 0))
}

/// In whole units, rounded up: bytes of memory.
pub(crate) fn units(quantity: &Quantity) -> Option<i64> {
    let milli = milli(quantity)?;
    let whole = milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0);
    i64::try_from(whole).ok()
}

/// One resource of a list, in thousandths.
pub(crate) fn milli_of(resources: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    i64::try_from(milli(resources?.get(name)?)?).ok()
}

/// One resource of a list, in units.
pub(crate) fn units_of(resources: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    units(resources?.get(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_the_api_writes_them() {
        let check = |text: &str, expected: Option<i128>| {
            assert_eq!(milli(&Quantity(text.to_owned())), expected, "{text}");
        };
        check("1", Some(1000));
        check("500m", Some(500));
        check("0.1", Some(100));
        check("1.5Gi", Some(1536 * 1024 * 1024 * 1000));
        check("1e3", Some(1_000_000));
        check("100n", Some(1));
        check("64Mi", Some(64 * 1024 * 1024 * 1000));
        check("x", None);
        check("1Zi", None);
    }
}
