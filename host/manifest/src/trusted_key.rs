//! What a host states about a key that it trusts: the plugins that it may sign, and until when. Pure:
//! the current day is an argument.

use std::fmt;

use crate::name::PluginName;

/// The scope and the end of the trust in a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyTrust {
    /// Names, or beginnings of names and `*`; `None` for all.
    plugins: Option<Vec<String>>,
    expires: Option<Day>,
}

impl KeyTrust {
    /// Limits the trust to the plugins whose names match one of `patterns`.
    ///
    /// # Errors
    ///
    /// Returns a pattern that is neither a name nor the beginning of one and `*`.
    pub fn set_plugins(&mut self, patterns: Vec<String>) -> Result<(), String> {
        match patterns.iter().find(|pattern| !is_name_pattern(pattern)) {
            Some(invalid) => Err(invalid.clone()),
            None => {
                self.plugins = Some(patterns);
                Ok(())
            }
        }
    }

    /// Limits the trust to the days up to `date` in UTC. Returns whether the date is valid.
    pub fn set_expires(&mut self, date: &str) -> bool {
        let day = Day::parse(date);
        self.expires = day;
        day.is_some()
    }

    /// Returns whether the key may sign the plugin.
    pub fn covers(&self, plugin: &PluginName) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => plugin.as_str().starts_with(start),
            None => plugin.as_str() == pattern,
        };
        self.plugins.as_ref().is_none_or(|patterns| patterns.iter().any(matches))
    }

    /// Returns the patterns of the plugins; `None` for all.
    pub fn plugins(&self) -> Option<&[String]> {
        self.plugins.as_deref()
    }

    /// Returns the last day of trust if it is before the day that has `seconds` since 1970 in UTC.
    pub fn expired(&self, seconds: u64) -> Option<Day> {
        self.expires.filter(|last| seconds / SECONDS_PER_DAY > last.since_1970)
    }
}

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// A day of the Gregorian calendar from 1970 on; `Display` prints it as `2027-01-31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    year: u64,
    month: u64,
    day: u64,
    since_1970: u64,
}

impl Day {
    /// Parses a date such as `2027-01-31`.
    pub fn parse(text: &str) -> Option<Self> {
        let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = *text.as_bytes() else { return None };
        let number = |digits: &[u8]| {
            digits.iter().try_fold(0, |number, digit| {
                digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
            })
        };
        let (year, month, day) =
            (number(&[y0, y1, y2, y3])?, number(&[m0, m1])?, number(&[d0, d1])?);
        if year < 1970 || !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
            return None;
        }
        let years: u64 =
            (1970..year).map(|year| (1..=12).map(|it| days_of(year, it)).sum::<u64>()).sum();
        let months: u64 = (1..month).map(|month| days_of(year, month)).sum();
        Some(Self { year, month, day, since_1970: years + months + day - 1 })
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

fn days_of(year: u64, month: u64) -> u64 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns whether the text is a name of a plugin, or the beginning of one and `*`.
pub(crate) fn is_name_pattern(text: &str) -> bool {
    match text.strip_suffix('*') {
        Some("") => true,
        Some(start) => PluginName::new(start).is_ok(),
        None => PluginName::new(text).is_ok(),
    }
}

#[cfg(feature = "host-file")]
pub(crate) fn is_date(text: &str) -> bool {
    Day::parse(text).is_some()
}

/// Returns whether the text has the form of a public key of minisign: 42 bytes that begin with `Ed`,
/// in base64.
#[cfg(feature = "host-file")]
pub(crate) fn is_public_key(text: &str) -> bool {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    text.len() == 56 && text.starts_with("RW") && text.bytes().all(is_base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_1970() {
        // From `date -d DAY +%s`, divided by 86,400.
        for (text, expected) in [
            ("1970-01-01", 0),
            ("1972-02-29", 789),
            ("2000-03-01", 11_017),
            ("2027-01-01", 20_819),
            ("2100-03-01", 47_541),
        ] {
            let day = Day::parse(text).expect("a day");
            assert_eq!((day.since_1970, day.to_string().as_str()), (expected, text));
        }
        for text in [
            "",
            "2027",
            "2027-1-1",
            "2027-00-10",
            "2027-13-01",
            "2027-02-29",
            "2100-02-29",
            "1969-12-31",
            "2027-01-32",
            "2027-01-01T",
            "2027/01/01",
            "+027-01-01",
        ] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
    }

    #[test]
    fn trust_ends_after_its_last_day() {
        let mut trust = KeyTrust::default();
        assert_eq!(trust.expired(u64::MAX), None);
        assert!(trust.set_expires("2027-01-01"));
        let after = 20_820 * SECONDS_PER_DAY;
        assert_eq!(trust.expired(after - 1), None);
        assert_eq!(trust.expired(after).map(|day| day.to_string()).as_deref(), Some("2027-01-01"));
    }

    #[test]
    fn patterns_are_names_or_beginnings() {
        let covers = |patterns: &[&str], name: &str| {
            let mut trust = KeyTrust::default();
            trust
                .set_plugins(patterns.iter().map(|it| (*it).to_owned()).collect())
                .expect("patterns");
            trust.covers(&PluginName::new(name).expect("a name"))
        };
        assert!(
            covers(&["acme-*", "storage"], "acme-x") && covers(&["acme-*", "storage"], "storage")
        );
        assert!(!covers(&["acme-*"], "acme") && !covers(&["storage"], "storage-eu"));
        assert!(covers(&["*"], "x") && !covers(&[], "x"));
        assert!(KeyTrust::default().covers(&PluginName::new("x").expect("a name")));
        for invalid in ["", "Acme", "a*b", "**", "-*", "a b"] {
            let set = KeyTrust::default().set_plugins(vec![invalid.to_owned()]);
            assert_eq!(set, Err(invalid.to_owned()));
        }
    }
}
