//! The one time form of the wire: RFC 3339 in UTC with milliseconds and `Z`. Never reads a clock.

/// `2023-12-01T12:00:00.000Z`, ready to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp([u8; 24]);

/// The last moment with a four-digit year: 9999-12-31T23:59:59.999Z.
const MS_MAX: u64 = 253_402_300_799_999;
const MS_PER_DAY: u64 = 86_400_000;

impl Timestamp {
    /// The time `ms` milliseconds after 1970 began. Times after the year 9999 are written as its end.
    #[must_use]
    pub fn from_ms(ms: u64) -> Self {
        let ms = ms.min(MS_MAX);
        let (year, month, day) = date_of(ms / MS_PER_DAY);
        let in_day = ms % MS_PER_DAY;
        let mut text = *b"0000-00-00T00:00:00.000Z";
        put_digits(&mut text[0..4], year);
        put_digits(&mut text[5..7], month);
        put_digits(&mut text[8..10], day);
        put_digits(&mut text[11..13], in_day / 3_600_000);
        put_digits(&mut text[14..16], in_day / 60_000 % 60);
        put_digits(&mut text[17..19], in_day / 1_000 % 60);
        put_digits(&mut text[20..23], in_day % 1_000);
        Self(text)
    }

    /// The text as bytes, all ASCII.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Year, month and day of the proleptic Gregorian calendar, `days` after 1970 began. The year is counted from March, so
/// that the leap day is its last one, and in eras of 400 years, which are all equally long.
fn date_of(days: u64) -> (u64, u64, u64) {
    let since_march = days + 719_468;
    let era = since_march / 146_097;
    let day_of_era = since_march % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next_year) = if month_from_march < 10 { (month_from_march + 3, 0) } else { (month_from_march - 9, 1) };
    (era * 400 + year_of_era + next_year, month, day)
}

fn put_digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times() {
        let known = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_701_432_000_000, "2023-12-01T12:00:00.000Z"),
            (1_763_700_000_042, "2025-11-21T04:40:00.042Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ];
        for (ms, text) in known {
            assert_eq!(Timestamp::from_ms(ms).as_str(), text);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_chrono(ms in 0..=MS_MAX) {
            let time = chrono::DateTime::from_timestamp_millis(ms as i64).unwrap();
            let expected = time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            let ours = Timestamp::from_ms(ms);
            prop_assert_eq!(ours.as_str(), expected);
        }
    }
}
