//! Parses durations such as `50ms`, `1.5s` and `2m`.

use std::time::Duration;

use jiff::SignedDuration;

/// Parses a duration longer than zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration =
        text.parse().map_err(|_| "expected a duration such as 50ms, 1.5s or 2m".to_owned())?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("expected a duration longer than zero".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_needs_unit_and_positive_value() {
        let check = |text, expected_us: Option<u64>| {
            assert_eq!(duration(text).ok(), expected_us.map(Duration::from_micros), "{text}");
        };
        check("50ms", Some(50_000));
        check("2s", Some(2_000_000));
        check("1.5s", Some(1_500_000));
        check("1m", Some(60_000_000));
        check("1m 30s", Some(90_000_000));
        check("0s", None);
        check("-1s", None);
        check("5", None);
        check("soon", None);
        check("", None);
    }
}
