//! Numbers that may be given as a share of a whole.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A number, or a percentage of `total` rounded up or down; 0 where nothing is given.
pub fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => (*number).max(0),
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let product = percent.max(0).saturating_mul(i64::from(total.max(0)));
            let rounded = if up { product.saturating_add(99) / 100 } else { product / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_as_asked() {
        for (value, total, down, up) in [
            (IntOrString::Int(3), 10, 3, 3),
            (IntOrString::Int(-3), 10, 0, 0),
            (IntOrString::String("25%".into()), 10, 2, 3),
            (IntOrString::String("100%".into()), 10, 10, 10),
            (IntOrString::String("x".into()), 10, 0, 0),
            (IntOrString::String("9223372036854775807%".into()), 10, i32::MAX, i32::MAX),
        ] {
            assert_eq!(scaled(Some(&value), total, false), down, "{value:?} down");
            assert_eq!(scaled(Some(&value), total, true), up, "{value:?} up");
        }
        assert_eq!(scaled(None, 10, true), 0);
    }
}
