//! Keys that sign folders of plugins, as `hotbay sign` does.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use hotbay::{Host, TrustedKey, inspect};
use minisign::KeyPair;

/// The name of the list of signed files.
pub const SIGNED_FILES: &str = "plugin.files.json";
/// The name of the signature of the list.
pub const SIGNATURE: &str = "plugin.files.json.minisig";

/// A key pair.
#[derive(Debug)]
pub struct SigningKey(KeyPair);

impl Default for SigningKey {
    fn default() -> Self {
        Self::new()
    }
}

impl SigningKey {
    /// Creates a key pair.
    ///
    /// # Panics
    ///
    /// Panics if the system has no random numbers. The functions below panic on I/O errors.
    pub fn new() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().expect("a key pair"))
    }

    /// Returns the public key as `hotbay.toml` has it.
    pub fn public_key(&self) -> String {
        self.0.pk.to_base64()
    }

    /// Returns the key as a host trusts it.
    pub fn trusted(&self, name: &str) -> TrustedKey {
        TrustedKey::new(name, &self.public_key()).expect("a public key")
    }

    /// Signs the files that are in a folder now.
    pub fn sign(&self, folder: &Path) {
        let files = inspect::files_to_sign(&Host::builder(), folder);
        let files = files.unwrap_or_else(|error| panic!("{}", error.full_message()));
        self.sign_list(folder, &files.render());
    }

    /// Signs any text as the list of a folder.
    pub fn sign_list(&self, folder: &Path, list: &str) {
        let comment = "timestamp:1700000000\tfile:plugin.files.json";
        let (key, data) = (&self.0, Cursor::new(list));
        let signature = minisign::sign(Some(&key.pk), &key.sk, data, Some(comment), None);
        let signature = signature.expect("a signature").into_string();
        fs::write(folder.join(SIGNED_FILES), list).expect("the list can be written");
        fs::write(folder.join(SIGNATURE), signature).expect("the signature can be written");
    }
}
