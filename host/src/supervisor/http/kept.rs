//! Determines how long a connection may be kept for another request, by the headers of its last
//! response. Pure; the time is an argument.

use std::time::{Duration, Instant};

use hyper::Version;
use hyper::header::{CONNECTION, HeaderMap, HeaderName};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Time before the peer's timeout from which a connection is no longer used; half the timeout if
/// that is shorter: a request sent at that moment may be lost.
const MAX_MARGIN: Duration = Duration::from_secs(1);

/// The time for which a connection may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Keep {
    /// Until it is found to be closed.
    Open,
    /// Until this instant.
    Until(Instant),
    /// Not at all.
    No,
}

/// Evaluates the headers of a response. `now` is called only if they contain a timeout.
pub(super) fn keep(version: Version, headers: &HeaderMap, now: impl FnOnce() -> Instant) -> Keep {
    let has_token = |word: &str| {
        let values =
            headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|found| found.trim().eq_ignore_ascii_case(word))
    };
    if has_token("close") || (version < Version::HTTP_11 && !has_token("keep-alive")) {
        return Keep::No;
    }
    let Some(stated) = headers.get(KEEP_ALIVE).and_then(|value| value.to_str().ok()) else {
        return Keep::Open;
    };
    let number = |name: &str| {
        stated.split(',').find_map(|part| {
            let (found, value) = part.split_once('=')?;
            let is_match = found.trim().eq_ignore_ascii_case(name);
            is_match.then(|| value.trim().trim_matches('"').parse::<u64>().ok())?
        })
    };
    if number("max") == Some(0) {
        return Keep::No;
    }
    let Some(timeout_s) = number("timeout") else { return Keep::Open };
    let timeout = Duration::from_secs(timeout_s);
    let usable = timeout.saturating_sub((timeout / 2).min(MAX_MARGIN));
    if usable.is_zero() {
        return Keep::No;
    }
    now().checked_add(usable).map_or(Keep::Open, Keep::Until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        version: Version,
        headers: &[(&'static str, &str)],
        expected: impl Fn(Instant) -> Keep,
    ) {
        let now = Instant::now();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        assert_eq!(keep(version, &map, || now), expected(now), "{version:?} {headers:?}");
    }

    #[test]
    fn keep_alive_header_limits_how_long_a_connection_is_kept() {
        let until = |ms: u64| move |now| Keep::Until(now + Duration::from_millis(ms));
        let has_token = |value, expected: &dyn Fn(Instant) -> Keep| {
            check(Version::HTTP_11, &[("keep-alive", value)], expected);
        };
        has_token("timeout=5", &until(4000));
        has_token("timeout=1", &until(500));
        has_token("Timeout = 2, max=100", &until(1000));
        has_token("max=3,timeout=\"60\"", &until(59_000));
        has_token("timeout=0", &|_| Keep::No);
        has_token("timeout=5, max=0", &|_| Keep::No);
        has_token("max=7", &|_| Keep::Open);
        has_token("timeout=soon", &|_| Keep::Open);
        has_token("timeout=18446744073709551615", &|_| Keep::Open);
        has_token("", &|_| Keep::Open);
    }

    #[test]
    fn connection_header_and_version_decide_whether_to_keep_it() {
        check(Version::HTTP_11, &[], |_| Keep::Open);
        check(Version::HTTP_11, &[("connection", "close")], |_| Keep::No);
        check(Version::HTTP_11, &[("connection", "x, Close")], |_| Keep::No);
        check(Version::HTTP_11, &[("connection", "x"), ("connection", "close")], |_| Keep::No);
        check(Version::HTTP_10, &[], |_| Keep::No);
        check(Version::HTTP_10, &[("connection", "Keep-Alive")], |_| Keep::Open);
    }
}
