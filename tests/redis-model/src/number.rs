//! Numbers as Redis parses and formats them.

/// A whole number in the form that Redis requires: no plus sign, no leading zeros, no spaces.
pub(crate) fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

/// A score: a number or an infinity.
pub(crate) fn score(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    match text.to_ascii_lowercase().as_str() {
        "inf" | "+inf" | "infinity" | "+infinity" => Some(f64::INFINITY),
        "-inf" | "-infinity" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

/// A score as Redis prints it: the shortest text that parses to the same number.
pub(crate) fn printed(score: f64) -> String {
    match score {
        _ if score == f64::INFINITY => "inf".into(),
        _ if score == f64::NEG_INFINITY => "-inf".into(),
        _ => format!("{score}"),
    }
}

/// The output of C's `%.17g`, for whole numbers below 10^17 and for short fractions: numbers of scripts.
pub(crate) fn of_script(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e17 {
        return format!("{number:.0}");
    }
    let text = format!("{number:.16e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-5..17).contains(&exponent) {
        let places = usize::try_from(16 - exponent).unwrap_or(0);
        let text = format!("{number:.places$}");
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    }
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_numbers_are_whole() {
        assert_eq!(integer(b"-12"), Some(-12));
        assert!([&b"+1"[..], b"01", b" 1", b"1.0", b"", b"-0"].iter().all(|text| integer(text).is_none()));
    }

    #[test]
    fn scripts_print_numbers_as_c_does() {
        let cases =
            [(1_763_700_000_000.0, "1763700000000"), (0.1, "0.10000000000000001"), (-2.5, "-2.5"), (1e20, "1e+20")];
        for (number, text) in cases {
            assert_eq!(of_script(number), text);
        }
    }
}
