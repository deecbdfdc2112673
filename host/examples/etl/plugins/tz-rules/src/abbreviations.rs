//! Parses the abbreviations of the time zone database.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Returns the number of a month, of which the text is an unambiguous beginning.
pub(crate) fn month(text: &str) -> Result<usize, String> {
    let mut found = (1..).zip(MONTHS).filter(|(_, name)| name.starts_with(text));
    match (found.next(), found.next()) {
        (Some((number, _)), None) => Ok(number),
        _ => Err(format!("`{text}` is not the beginning of one month")),
    }
}

/// Returns a time of day in seconds, and the clock that shows it. A day may have more than 24 hours.
pub(crate) fn time(text: &str) -> Result<(i64, &'static str), String> {
    let clocks = [("s", "standard"), ("u", "universal"), ("w", "wall")];
    let found = clocks
        .iter()
        .find_map(|(suffix, clock)| text.strip_suffix(suffix).map(|time| (time, *clock)));
    let (time, clock) = found.unwrap_or((text, "wall"));
    Ok((seconds(time)?, clock))
}

/// Returns a number of hours, or hours and minutes, in seconds.
pub(crate) fn seconds(text: &str) -> Result<i64, String> {
    let invalid = || format!("`{text}` is not a time such as `2` or `-2:30`");
    let (sign, absolute) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (hours, minutes) = absolute.split_once(':').unwrap_or((absolute, "0"));
    let number = |text: &str| text.parse::<u8>().ok().filter(|_| !text.starts_with('+'));
    let hours = number(hours).ok_or_else(invalid)?;
    let minutes = number(minutes).filter(|minutes| *minutes < 60).ok_or_else(invalid)?;
    Ok(sign * (i64::from(hours) * 3600 + i64::from(minutes) * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn month_is_an_unambiguous_beginning() {
        assert_eq!(month("Ja"), Ok(1));
        assert_eq!(month("Jul"), Ok(7));
        assert_eq!(month("D"), Ok(12));
        for invalid in ["J", "Ma", "", "Octember"] {
            assert!(month(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn time_has_hours_minutes_and_a_clock() {
        assert_eq!(time("2:45s"), Ok((9900, "standard")));
        assert_eq!(time("25"), Ok((90_000, "wall")));
        assert_eq!(time("0u"), Ok((0, "universal")));
        assert_eq!(seconds("-1"), Ok(-3600));
        assert_eq!(seconds("-0:30"), Ok(-1800));
        for invalid in ["", "s", "2:60", "2:", "x", "--1", "+1", "1:+2", "1:2:3"] {
            assert!(time(invalid).is_err(), "{invalid}");
        }
    }
}
