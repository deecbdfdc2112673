//! Parses the stamp, the text that `export_plugin!` puts into a library. Every value has a maximum
//! length and is safe to print.

use hotbay_plugin::stamp::MAGIC;
use hotbay_plugin::text::{Lines, is_escaped};

use crate::error::probe::ProbeError;

/// The stamp of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) package: String,
    pub(crate) version: semver::Version,
    /// The version of `hotbay-plugin` that it was built with.
    pub(crate) api: semver::Version,
    pub(crate) rustc: String,
    pub(crate) target: String,
    pub(crate) panic: String,
}

impl Stamp {
    /// Parses the text of a stamp up to the first NUL. Unknown keys are ignored.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ProbeError> {
        let bad = |why: String| ProbeError::BadStamp { why };
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| bad("is not UTF-8 text".into()))?;
        let mut lines = text.lines();
        let magic = lines.next().unwrap_or_default();
        if magic != MAGIC {
            let found = magic.chars().take(MAGIC.len()).collect::<String>();
            return Err(bad(format!("begins with `{}`; expected `{MAGIC}`", found.escape_debug())));
        }
        const KEYS: [&str; 6] = ["package", "version", "api", "rustc", "target", "panic"];
        let mut values = [None::<&str>; KEYS.len()];
        for line in lines {
            let Some((key, value)) = line.split_once('=') else {
                return Err(bad(format!("has a line without `=`: `{}`", line.escape_debug())));
            };
            let Some(at) = KEYS.iter().position(|known| *known == key) else {
                continue;
            };
            // Values are printed to terminals.
            if value.is_empty() || value.chars().any(|char| is_escaped(char, Lines::One)) {
                return Err(bad(format!("has an empty or unprintable `{key}`")));
            }
            if values[at].replace(value).is_some() {
                return Err(bad(format!("contains `{key}` twice")));
            }
        }
        let value = |at: usize| values[at].ok_or_else(|| bad(format!("has no `{}`", KEYS[at])));
        let version = |at: usize| {
            let text = value(at)?;
            semver::Version::parse(text).map_err(|error| {
                bad(format!("has the invalid version `{text}` in `{}`: {error}", KEYS[at]))
            })
        };
        Ok(Self {
            package: value(0)?.to_owned(),
            version: version(1)?,
            api: version(2)?,
            rustc: value(3)?.to_owned(),
            target: value(4)?.to_owned(),
            panic: value(5)?.to_owned(),
        })
    }
}
