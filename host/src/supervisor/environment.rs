//! Selects the part of the host's environment that a child inherits.

use std::ffi::{OsStr, OsString};

/// Variables that programs commonly need; none that commonly holds a secret.
const ALLOWED: [&str; 8] =
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "RUST_BACKTRACE"];
const ALLOWED_PREFIX: &[u8] = b"LC_";
/// Prefix of our own variables, which are set for each child and never inherited.
const OWN_PREFIX: &[u8] = b"HOTBAY_";

/// Returns the variables of `all` that every child gets, and those named in `extra_names`; never
/// one of our own.
pub(crate) fn allowed(
    all: impl Iterator<Item = (OsString, OsString)>,
    extra_names: &[String],
) -> Vec<(OsString, OsString)> {
    all.filter(|(name, _)| is_allowed(name, extra_names)).collect()
}

fn is_allowed(name: &OsStr, extra_names: &[String]) -> bool {
    let bytes = name.as_encoded_bytes();
    if bytes.starts_with(OWN_PREFIX) {
        return false;
    }
    bytes.starts_with(ALLOWED_PREFIX)
        || ALLOWED.iter().any(|allowed| name == *allowed)
        || extra_names.iter().any(|extra| name == extra.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_gets_only_listed_and_named_variables() {
        let all = [
            "PATH",
            "HOME",
            "LC_ALL",
            "LC_TIME",
            "LANG",
            "LANGUAGE",
            "TMPDIR",
            "AWS_SECRET",
            "API_KEY",
            "HOTBAY_LAUNCH",
            "PATHEXT",
            "LD_PRELOAD",
            "path",
        ];
        let all = all.iter().map(|name| (OsString::from(name), OsString::from("x")));
        let extra = ["API_KEY".to_owned(), "HOTBAY_LAUNCH".to_owned(), "NOT_THERE".to_owned()];
        let allowed = allowed(all, &extra);
        let names: Vec<_> = allowed.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["PATH", "HOME", "LC_ALL", "LC_TIME", "LANG", "TMPDIR", "API_KEY"]);
    }
}
