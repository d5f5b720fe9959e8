//! Decimal strings from integers. Never a float: 0.1 has no exact float.

use std::fmt;

/// `units` of the last of `places` decimal places: 5000012 with 2 is `50000.12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) units: i64,
    pub(super) places: u32,
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.units < 0 { "-" } else { "" };
        let (units, one) = (self.units.unsigned_abs(), 10_u64.pow(self.places));
        match self.places {
            0 => write!(f, "{sign}{units}"),
            places => write!(f, "{sign}{}.{:0width$}", units / one, units % one, width = places as usize),
        }
    }
}

impl serde::Serialize for Decimal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_become_decimals() {
        let cases = [
            (5_000_012, 2, "50000.12"),
            (7, 2, "0.07"),
            (-7, 2, "-0.07"),
            (-125_050, 3, "-125.050"),
            (0, 4, "0.0000"),
            (12, 0, "12"),
            (i64::MIN, 1, "-922337203685477580.8"),
        ];
        for (units, places, text) in cases {
            assert_eq!(Decimal { units, places }.to_string(), text);
        }
    }
}
