//! The settings of a host that decide which files it accepts.

use std::sync::Arc;

use super::builder::HostBuilder;
use crate::signatures::{SignaturePolicy, TrustedKey};

impl HostBuilder {
    /// Accepts libraries whose manifests state no digest. A damaged library can end the process at
    /// load; only a digest, or a process plugin, protects from that.
    pub fn allow_unverified(mut self, allow: bool) -> Self {
        self.rules.allow_unverified = allow;
        self
    }

    /// Trusts a key: plugins that it signed with `hotbay sign` are accepted if all their files are
    /// the signed ones. If there is a key, the policy is [`SignaturePolicy::IfPresent`], unless
    /// [`signatures`](Self::signatures) sets another one.
    ///
    /// The signature is verified at each load and reload, before any code of the plugin runs.
    ///
    /// ```
    /// use hotbay::{Host, SignaturePolicy, TrustedKey};
    ///
    /// let acme = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    /// let host = Host::builder()
    ///     .trusted_key(TrustedKey::new("acme", acme)?.plugins(["acme-*"])?)
    ///     .signatures(SignaturePolicy::Required)
    ///     .build()?;
    /// assert!(host.list().is_empty());
    /// # Ok::<(), hotbay::Error>(())
    /// ```
    pub fn trusted_key(mut self, key: TrustedKey) -> Self {
        Arc::make_mut(&mut self.rules.signatures).keys.push(key);
        self
    }

    /// Sets whether plugins must be signed. Compiled-in plugins have no signature, and need none.
    pub fn signatures(mut self, policy: SignaturePolicy) -> Self {
        Arc::make_mut(&mut self.rules.signatures).policy = Some(policy);
        self
    }

    /// Accepts folders and files that other users own or may write to.
    ///
    /// By default these are refused: such a manifest, library, program or plugin folder; such a
    /// folder anywhere above it (a sticky one, such as `/tmp`, is accepted); and for a program,
    /// any such file in its folder at every depth, and any link that leads out of the folder. A
    /// program's folder is checked again at each start.
    pub fn allow_writable_by_others(mut self, allow: bool) -> Self {
        self.rules.allow_writable_by_others = allow;
        self
    }
}
