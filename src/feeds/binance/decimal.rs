//! Decimals as text: validated, compared, and passed on byte for byte. Never a float.

use std::cmp::Ordering;

/// Maximum length of a price or quantity.
const LEN_MAX: usize = 40;

/// Whether the text is a plain decimal, such as `-1250.10000000`: no exponent, no plus sign, digits on both sides of a
/// point.
pub(super) fn is_plain(text: &str) -> bool {
    is_plain_and_positive(text.strip_prefix('-').unwrap_or(text))
}

/// The same without a sign.
pub(super) fn is_plain_and_positive(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    text.len() <= LEN_MAX && digits(whole) && fraction.is_none_or(digits)
}

/// Whether a plain decimal is zero.
pub(super) fn is_zero(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0' | b'.' | b'-'))
}

/// Compares two plain, positive decimals.
pub(super) fn compare(one: &str, other: &str) -> Ordering {
    let parts = |text: &'_ str| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        (whole.trim_start_matches('0').to_owned(), fraction.trim_end_matches('0').to_owned())
    };
    let ((one, one_fraction), (other, other_fraction)) = (parts(one), parts(other));
    one.len().cmp(&other.len()).then_with(|| one.cmp(&other)).then_with(|| one_fraction.cmp(&other_fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_decimals_are_accepted() {
        for text in ["0", "1.5", "-1250.10000000", "00.10"] {
            assert!(is_plain(text), "{text}");
        }
        for text in ["", "-", "1.", ".5", "+1", "1e4", "8.265E+4", "1,5", "NaN", " 1", "--1", "1.2.3", &"1".repeat(41)]
        {
            assert!(!is_plain(text), "{text}");
        }
        assert!(!is_plain_and_positive("-1"));
        assert!(is_zero("0.00000000") && is_zero("-0.0") && !is_zero("0.01"));
    }

    #[test]
    fn decimals_compare_by_value_regardless_of_decimal_places() {
        for (one, other, order) in [
            ("9.99", "10.0", Ordering::Less),
            ("010", "9", Ordering::Greater),
            ("1.50", "1.5", Ordering::Equal),
            ("0.00000001", "0", Ordering::Greater),
            ("82649.99000000", "82650.00000000", Ordering::Less),
        ] {
            assert_eq!(compare(one, other), order, "{one} {other}");
        }
    }
}
