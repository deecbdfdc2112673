//! Formats and parses SHA-256 digests. Computes none: `crate::artifact` does.

use std::fmt;
use std::str::FromStr;

/// The SHA-256 of a library or program.
///
/// `Display` and `FromStr` use 64 hexadecimal digits; parsing accepts upper case.
///
/// ```
/// # use hotbay::manifest::Digest;
/// let text = "ab".repeat(32);
/// let digest: Digest = text.parse()?;
/// assert_eq!(digest.as_bytes(), &[0xab; 32]);
/// assert_eq!(digest.to_string(), text);
/// # Ok::<(), hotbay::manifest::InvalidDigest>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let pairs: &[[u8; 2]; 32] = pairs.try_into().map_err(|_| InvalidDigest)?;
        if !rest.is_empty() {
            return Err(InvalidDigest);
        }
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = half(*high)? << 4 | half(*low)?;
        }
        Ok(Self(bytes))
    }
}

fn half(digit: u8) -> Result<u8, InvalidDigest> {
    // A hexadecimal digit is below 16, so it fits.
    char::from(digit).to_digit(16).map(|value| value as u8).ok_or(InvalidDigest)
}

/// The error of a text that is not a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidDigest;

impl fmt::Display for InvalidDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid SHA-256: expected 64 hexadecimal digits")
    }
}

impl std::error::Error for InvalidDigest {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_requires_64_hexadecimal_digits() {
        let good = "0f".repeat(32);
        assert_eq!(good.parse(), Ok(Digest::new([0x0f; 32])));
        assert_eq!(good.to_uppercase().parse(), Ok(Digest::new([0x0f; 32])));
        let bad = [String::new(), "0f".repeat(31), "0f".repeat(33), "0f".repeat(32) + "0"];
        for text in bad.into_iter().chain(["0g".repeat(32), "ä".repeat(32), "+1".repeat(32)]) {
            assert_eq!(text.parse::<Digest>(), Err(InvalidDigest), "{text}");
        }
    }
}
