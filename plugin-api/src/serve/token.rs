//! The token that every request has to carry, if the host gave one.

use std::fmt;
use std::hint::black_box;

/// The token of the host.
pub(super) struct Token(Box<[u8]>);

impl Token {
    /// Reads the token from the value of its environment variable; `None` if it is not set.
    ///
    /// # Errors
    ///
    /// A message for people if the value is not a valid token.
    pub(super) fn from_env(value: Option<&std::ffi::OsStr>) -> Result<Option<Self>, String> {
        let Some(text) = value else { return Ok(None) };
        let is_valid =
            |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        match text.to_str().filter(is_valid) {
            Some(text) => Ok(Some(Self(text.as_bytes().into()))),
            None => Err("invalid HOTBAY_TOKEN: expected visible ASCII characters; unset it to \
                         serve without a token"
                .to_owned()),
        }
    }

    /// Compares bytes with the token in constant time.
    pub(super) fn matches(&self, given: &[u8]) -> bool {
        if given.len() != self.0.len() {
            return false;
        }
        let pairs = self.0.iter().zip(given);
        pairs.fold(0, |differs, (expected, given)| black_box(differs | (expected ^ given))) == 0
    }

    /// Returns the token as text.
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn token_matches_only_identical_bytes() {
        let token = Token::from_env(Some(OsStr::new("abc123"))).unwrap().unwrap();
        assert!(token.matches(b"abc123"));
        for other in [&b""[..], b"abc12", b"abc1234", b"bbc123", b"abc124"] {
            assert!(!token.matches(other));
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn empty_or_invalid_token_is_an_error() {
        assert!(Token::from_env(None).unwrap().is_none());
        assert!(Token::from_env(Some(OsStr::new(""))).unwrap_err().contains("HOTBAY_TOKEN"));
        assert!(Token::from_env(Some(OsStr::new("a b"))).is_err());
    }
}
