//! How long an answer is waited for, as people write it: `50ms`, `1.5s`, `2m`.

use std::time::Duration;

use jiff::SignedDuration;

/// Reads a duration that is longer than nothing.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let read: SignedDuration = text
        .parse()
        .map_err(|_| "this is no duration; write it like 50ms, 1.5s or 2m".to_owned())?;
    match Duration::try_from(read) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("it has to be longer than nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_are_longer_than_nothing() {
        let check = |text, expect_us: Option<u64>| {
            assert_eq!(duration(text).ok(), expect_us.map(Duration::from_micros), "{text}");
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
