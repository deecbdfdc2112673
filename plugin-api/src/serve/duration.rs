//! Durations in Go's notation, such as `1h30m` and `300ms`.

use std::time::Duration;

/// Units in nanoseconds. A unit that starts with another one precedes it.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Parses a duration; returns `None` if the text is invalid.
pub(super) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|byte: char| !byte.is_ascii_digit() && byte != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (name, nanoseconds) = UNITS.iter().find(|(name, _)| rest.starts_with(name))?;
        rest = &rest[name.len()..];
        let term = Duration::try_from_secs_f64(number * nanoseconds / 1e9).ok()?;
        total = total.checked_add(term)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_in_go_notation() {
        for (text, expected_ns) in [
            ("0", 0),
            ("0s", 0),
            ("5m", 300_000_000_000),
            ("5m0s", 300_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            ("300ms", 300_000_000),
            ("7µs", 7_000),
            ("7us", 7_000),
            ("9ns", 9),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(expected_ns)), "{text}");
        }
        for text in
            ["", "5", "m", "-5m", "5 m", "5d", "5m3", ".", ".s", "1e9s", "999999999999999999999h"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
