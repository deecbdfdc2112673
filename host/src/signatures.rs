//! Keys whose signatures a host trusts, and what it knows about the signature of a plugin. Reads no
//! file, and verifies nothing.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hotbay_manifest::KeyTrust;
pub use hotbay_manifest::SignaturePolicy;
use minisign_verify::PublicKey;

use crate::error::{Error, ErrorKind};

/// A key whose signatures a host trusts: see [`HostBuilder::trusted_key`](crate::HostBuilder::trusted_key).
///
/// ```
/// use hotbay::TrustedKey;
///
/// let key = TrustedKey::new("acme", "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")?
///     .plugins(["acme-*", "storage"])?
///     .expires("2099-12-31")?;
/// assert_eq!((key.name(), key.key_id()), ("acme", "E7620F1842B4E81F"));
/// assert!(TrustedKey::new("acme", "RWQ").is_err());
/// # Ok::<(), hotbay::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct TrustedKey {
    name: String,
    key_id: String,
    pub(crate) key: PublicKey,
    pub(crate) trust: KeyTrust,
}

impl TrustedKey {
    /// Reads a public key in the text form of minisign. `name` is any name, which messages show. The
    /// key is trusted for all plugins and forever, until it is limited.
    ///
    /// # Errors
    ///
    /// `Config` if it is not such a key.
    pub fn new(name: impl Into<String>, public_key: &str) -> Result<Self, Error> {
        let name = name.into();
        let read = PublicKey::from_base64(public_key).ok().zip(algorithm_and_key_id(public_key));
        let Some((key, (_, key_id))) = read else {
            let message = format!("the public key of `{name}` is not a key of minisign");
            let hint = "pass the second line of the public key's file, which begins with `RW`";
            return Err(Error::new(ErrorKind::Config, message).with_hint(hint));
        };
        Ok(Self { name, key_id, key, trust: KeyTrust::default() })
    }

    /// Limits the trust to some plugins: names such as `storage`, or beginnings of names and `*`, such
    /// as `acme-*`. They are compared with the names in the plugins' manifests.
    ///
    /// # Errors
    ///
    /// `Config` if one is neither.
    pub fn plugins(
        mut self,
        patterns: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, Error> {
        let patterns = patterns.into_iter().map(Into::into).collect();
        match self.trust.set_plugins(patterns) {
            Ok(()) => Ok(self),
            Err(invalid) => {
                let message = format!(
                    "key `{}`: `{}` is neither a plugin's name nor the beginning of one and `*`",
                    self.name,
                    invalid.escape_debug()
                );
                Err(Error::new(ErrorKind::Config, message))
            }
        }
    }

    /// Sets the last day, in UTC, on which signatures of the key are accepted, such as `2027-01-31`.
    ///
    /// It is compared with the clock of the host at each load. Plugins that were loaded keep serving.
    ///
    /// # Errors
    ///
    /// `Config` if it is not a date.
    pub fn expires(mut self, date: &str) -> Result<Self, Error> {
        if self.trust.set_expires(date) {
            return Ok(self);
        }
        let date = date.escape_debug();
        let message = format!("key `{}`: `{date}` is not a date such as `2027-01-31`", self.name);
        Err(Error::new(ErrorKind::Config, message))
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its id, which its signatures contain: 16 hexadecimal digits, as minisign prints it.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }
}

/// What a host requires of signatures.
#[derive(Clone, Debug, Default)]
pub(crate) struct SignatureRules {
    /// `None` for the default.
    pub(crate) policy: Option<SignaturePolicy>,
    pub(crate) keys: Vec<TrustedKey>,
}

impl SignatureRules {
    pub(crate) fn policy(&self) -> SignaturePolicy {
        let default = match self.keys.is_empty() {
            true => SignaturePolicy::Off,
            false => SignaturePolicy::IfPresent,
        };
        self.policy.unwrap_or(default)
    }

    /// Returns the problem of rules that accept no plugin or are ambiguous.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Config, message));
        if self.policy == Some(SignaturePolicy::Required) && self.keys.is_empty() {
            let message = "signatures are required, but no key is trusted".to_owned();
            return invalid(message).map_err(|error| {
                error.with_hint("add a key with `.trusted_key(…)`, or in `keys` of `hotbay.toml`")
            });
        }
        for (at, key) in self.keys.iter().enumerate() {
            for other in &self.keys[..at] {
                if key.name == other.name {
                    return invalid(format!("two keys have the name `{}`", key.name));
                }
                if key.key_id == other.key_id {
                    let (one, other, id) = (&other.name, &key.name, &key.key_id);
                    return invalid(format!(
                        "the keys `{one}` and `{other}` have the same id {id}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What a host knows about the signature of a plugin: see [`PluginInfo::signature`](crate::PluginInfo::signature).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignatureStatus {
    /// It was not checked: the policy is [`Off`](SignaturePolicy::Off), or the plugin is compiled in.
    #[default]
    NotChecked,
    /// The plugin has no signature, and the policy accepts that.
    Unsigned,
    /// A trusted key signed all files of the plugin.
    Valid(Arc<SignedBy>),
}

/// The signature of a plugin, which was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignedBy {
    /// The name of the key in the configuration of the host.
    pub key: String,
    /// The id of the key, as minisign prints it.
    pub key_id: String,
    /// The comment that the signature covers. Text of the signer, so escape it when it is shown.
    pub trusted_comment: String,
    /// The time that the trusted comment states, which is the signer's claim.
    pub signed_at: Option<SystemTime>,
    /// The number of signed files.
    pub files: usize,
}

/// Returns the algorithm of a public key or a signature in base64, and the id of its key.
pub(crate) fn algorithm_and_key_id(base64: &str) -> Option<([u8; 2], String)> {
    let bytes = STANDARD.decode(base64).ok()?;
    let (algorithm, rest) = bytes.split_first_chunk()?;
    let (id, _) = rest.split_first_chunk()?;
    Some((*algorithm, format!("{:016X}", u64::from_le_bytes(*id))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn invalid_key_scope_and_date_are_refused() {
        for text in ["", "RWQ", &KEY[1..], &format!("{KEY} "), &KEY.replace("RWQ", "AAA")] {
            assert_eq!(TrustedKey::new("acme", text).unwrap_err().kind(), ErrorKind::Config);
        }
        let key = || TrustedKey::new("acme", KEY).unwrap();
        let error = key().plugins(["storage", "a*b"]).unwrap_err().to_string();
        assert!(error.contains("`a*b` is neither"), "{error}");
        let error = key().expires("soon").unwrap_err().to_string();
        assert!(error.contains("`soon` is not a date"), "{error}");
    }

    #[test]
    fn default_policy_depends_on_keys() {
        let mut rules = SignatureRules::default();
        assert_eq!(rules.policy(), SignaturePolicy::Off);
        rules.policy = Some(SignaturePolicy::Required);
        assert!(rules.check().unwrap_err().to_string().contains("no key is trusted"));
        rules = SignatureRules { policy: None, keys: vec![TrustedKey::new("a", KEY).unwrap()] };
        assert_eq!(rules.policy(), SignaturePolicy::IfPresent);
        rules.check().unwrap();
        for (name, expected) in [("a", "two keys have the name `a`"), ("b", "have the same id")] {
            let mut rules = rules.clone();
            rules.keys.push(TrustedKey::new(name, KEY).unwrap());
            let error = rules.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
