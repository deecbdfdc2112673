//! How long a connection may be kept for another request, as the response on it says. Values in,
//! values out; the time is an argument.

use std::time::{Duration, Instant};

use hyper::Version;
use hyper::header::{CONNECTION, HeaderMap, HeaderName};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// A connection is not used any more this long before the peer may close it, or half of its time
/// before where that is shorter: what is sent in that moment may be lost.
const MARGIN_MAX: Duration = Duration::from_secs(1);

/// How long a connection may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Keep {
    /// Until it is found closed.
    Open,
    /// Until this moment.
    Until(Instant),
    /// Not at all.
    No,
}

/// Reads what a response says of its connection. `now` is called only if it names a time.
pub(super) fn keep(version: Version, headers: &HeaderMap, now: impl FnOnce() -> Instant) -> Keep {
    let says = |word: &str| {
        let values =
            headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|found| found.trim().eq_ignore_ascii_case(word))
    };
    if says("close") || (version < Version::HTTP_11 && !says("keep-alive")) {
        return Keep::No;
    }
    let Some(stated) = headers.get(KEEP_ALIVE).and_then(|value| value.to_str().ok()) else {
        return Keep::Open;
    };
    let number = |name: &str| {
        stated.split(',').find_map(|part| {
            let (found, value) = part.split_once('=')?;
            let is_it = found.trim().eq_ignore_ascii_case(name);
            is_it.then(|| value.trim().trim_matches('"').parse::<u64>().ok())?
        })
    };
    if number("max") == Some(0) {
        return Keep::No;
    }
    let Some(timeout_s) = number("timeout") else { return Keep::Open };
    let timeout = Duration::from_secs(timeout_s);
    let usable = timeout.saturating_sub((timeout / 2).min(MARGIN_MAX));
    if usable.is_zero() {
        return Keep::No;
    }
    now().checked_add(usable).map_or(Keep::Open, Keep::Until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: Version, headers: &[(&'static str, &str)], expected: impl Fn(Instant) -> Keep) {
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
        let says = |value, expected: &dyn Fn(Instant) -> Keep| {
            check(Version::HTTP_11, &[("keep-alive", value)], expected);
        };
        says("timeout=5", &until(4000));
        says("timeout=1", &until(500));
        says("Timeout = 2, max=100", &until(1000));
        says("max=3,timeout=\"60\"", &until(59_000));
        says("timeout=0", &|_| Keep::No);
        says("timeout=5, max=0", &|_| Keep::No);
        says("max=7", &|_| Keep::Open);
        says("timeout=soon", &|_| Keep::Open);
        says("timeout=18446744073709551615", &|_| Keep::Open);
        says("", &|_| Keep::Open);
    }

    #[test]
    fn connection_header_and_version_decide_whether_it_is_kept() {
        check(Version::HTTP_11, &[], |_| Keep::Open);
        check(Version::HTTP_11, &[("connection", "close")], |_| Keep::No);
        check(Version::HTTP_11, &[("connection", "x, Close")], |_| Keep::No);
        check(Version::HTTP_11, &[("connection", "x"), ("connection", "close")], |_| Keep::No);
        check(Version::HTTP_10, &[], |_| Keep::No);
        check(Version::HTTP_10, &[("connection", "Keep-Alive")], |_| Keep::Open);
    }
}
