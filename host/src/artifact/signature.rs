//! Verifies the signature of a plugin's folder: the list of files against a trusted key, and the files
//! against the list. Decides nothing about the bytes that the host uses itself: those are compared with
//! the list when they are read.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hotbay_manifest::{
    Digest, MAX_FOLDER_DEPTH, MAX_FOLDER_ENTRIES, MAX_SIGNED_FILES_BYTES, SIGNATURE, SIGNED_FILES,
    SignedFile, SignedFiles,
};
use minisign_verify::Signature as Minisign;
use semver::Version;
use sha2::{Digest as _, Sha256};

use super::digest::Artifact;
use super::discover::MANIFEST;
use super::trust::Rules;
use crate::error::artifact::ArtifactError;
use crate::error::signature::SignatureError;
use crate::id::PluginName;
use crate::signatures::{
    SignaturePolicy, SignatureRules, SignatureStatus, SignedBy, TrustedKey, algorithm_and_key_id,
};

/// Maximum size of a signature in bytes. The format has four lines, two of which are comments.
const MAX_SIGNATURE_BYTES: u64 = 16 << 10;

/// What is known about the signature of a folder.
#[derive(Clone, Debug, Default)]
pub(crate) enum Signature {
    /// The policy checks none, or there is no folder.
    #[default]
    NotChecked,
    Missing,
    Valid(Arc<VerifiedList>),
}

/// A list of files that a trusted key signed.
#[derive(Debug)]
pub(crate) struct VerifiedList {
    by: Arc<SignedBy>,
    list: SignedFiles,
    /// The digest of the list and its signature.
    sha256: [u8; 32],
    /// The canonical path of the folder.
    root: PathBuf,
}

/// The manifest of the folder to verify, and the file that the host reads later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignedPlugin<'p> {
    /// The name in the manifest.
    pub(crate) name: &'p PluginName,
    pub(crate) version: &'p Version,
    /// The bytes of the manifest.
    pub(crate) manifest: &'p [u8],
    /// The path of the library or program in the folder.
    pub(crate) main: Option<&'p str>,
}

/// How much of a folder is compared with the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The names and lengths of all files, and the manifest.
    Names,
    /// Also the contents, except that of the library or program.
    Contents,
}

impl Signature {
    /// Verifies the signature of `folder`, as the policy requires.
    pub(crate) fn verify(
        folder: &Path,
        plugin: &SignedPlugin<'_>,
        rules: &Rules,
        extent: Extent,
    ) -> Result<Self, SignatureError> {
        let policy = rules.signatures.policy();
        if policy == SignaturePolicy::Off {
            return Ok(Self::NotChecked);
        }
        let list = read(folder, SIGNED_FILES, MAX_SIGNED_FILES_BYTES, rules)?;
        let signature = read(folder, SIGNATURE, MAX_SIGNATURE_BYTES, rules)?;
        let (list, signature) = match (list, signature) {
            (Some(list), Some(signature)) => (list, signature),
            (None, None) if policy == SignaturePolicy::Required => {
                return Err(SignatureError::Missing { folder: folder.to_owned() });
            }
            (None, None) => return Ok(Self::Missing),
            (list, _) => {
                let missing = folder.join(if list.is_none() { SIGNED_FILES } else { SIGNATURE });
                return Err(SignatureError::Incomplete { missing });
            }
        };
        let signed = verify_list(&list, &signature, &rules.signatures, plugin, SystemTime::now())?;
        let (by, list) = (signed.by, signed.list);
        check_files(folder, &list, plugin, rules.max_library_bytes, extent)?;
        let read_error = |source| SignatureError::Read { path: folder.to_owned(), source };
        let root = folder.canonicalize().map_err(read_error)?;
        Ok(Self::Valid(Arc::new(VerifiedList { by, list, sha256: signed.sha256, root })))
    }

    /// Returns what users see of it.
    pub(crate) fn status(&self) -> SignatureStatus {
        match self {
            Self::NotChecked => SignatureStatus::NotChecked,
            Self::Missing => SignatureStatus::Unsigned,
            Self::Valid(list) => SignatureStatus::Valid(Arc::clone(&list.by)),
        }
    }

    /// Returns the verified list.
    pub(crate) fn list(&self) -> Option<&Arc<VerifiedList>> {
        match self {
            Self::Valid(list) => Some(list),
            Self::NotChecked | Self::Missing => None,
        }
    }

    /// Returns the digest of the list and its signature.
    pub(crate) fn sha256(&self) -> Option<[u8; 32]> {
        self.list().map(|list| list.sha256)
    }

    /// Returns `artifact`, a file of the folder, with the digest that its content must have.
    pub(crate) fn expect(&self, artifact: Artifact) -> Result<Artifact, ArtifactError> {
        match self.list() {
            None => Ok(artifact),
            Some(list) => {
                let signed = list.file_at(artifact.path())?.sha256;
                Ok(artifact.with_signed(*signed.as_bytes()))
            }
        }
    }
}

impl VerifiedList {
    /// Returns the name of the key.
    pub(crate) fn key(&self) -> &str {
        &self.by.key
    }

    /// Returns the signed files by their paths in the folder.
    #[cfg(all(unix, feature = "process"))]
    pub(super) fn files(&self) -> &BTreeMap<String, SignedFile> {
        &self.list.files
    }

    /// Returns the signed file at a canonical path.
    fn file_at(&self, path: &Path) -> Result<&SignedFile, ArtifactError> {
        let relative = path.strip_prefix(&self.root).ok().and_then(relative);
        let file = relative.and_then(|relative| self.list.files.get(&relative));
        file.ok_or_else(|| ArtifactError::NotSigned { path: path.to_owned() })
    }
}

/// Reads a file of the signature; `None` if it does not exist.
fn read(
    folder: &Path,
    name: &str,
    max_bytes: u64,
    rules: &Rules,
) -> Result<Option<Artifact>, SignatureError> {
    let path = folder.join(name);
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if metadata.is_symlink() => {
            return Err(SignatureError::NotAFile { path, found: "a link" });
        }
        _ => {}
    }
    let artifact = Artifact::read(&path, max_bytes)?;
    artifact.check_trust(rules.trust())?;
    Ok(Some(artifact))
}

struct Signed {
    by: Arc<SignedBy>,
    list: SignedFiles,
    sha256: [u8; 32],
}

/// Checks who signed the list, and that it belongs to the plugin.
fn verify_list(
    list: &Artifact,
    signature: &Artifact,
    rules: &SignatureRules,
    plugin: &SignedPlugin<'_>,
    now: SystemTime,
) -> Result<Signed, SignatureError> {
    let (minisign, key_id) = parse(signature.bytes()).map_err(|problem| {
        let path = signature.path().to_owned();
        match problem {
            Problem::Malformed(reason) => SignatureError::Malformed { path, reason },
            Problem::Legacy => SignatureError::Legacy { path },
        }
    })?;
    let Some(key) = rules.keys.iter().find(|key| key.key_id() == key_id) else {
        let known = |key: &TrustedKey| format!("`{}` ({})", key.name(), key.key_id());
        let known = rules.keys.iter().map(known).collect();
        return Err(SignatureError::UnknownKey { key_id, known });
    };
    let name = || key.name().to_owned();
    if key.key.verify(list.bytes(), &minisign, false).is_err() {
        return Err(SignatureError::Mismatch { key: name() });
    }
    // Before 1970, no key is expired.
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    if let Some(last_day) = key.trust.expired(seconds) {
        return Err(SignatureError::Expired { key: name(), last_day });
    }
    let files = SignedFiles::parse(list.bytes()).map_err(SignatureError::List)?;
    if files.name != *plugin.name {
        let (signed, found) = (files.name, plugin.name.clone());
        return Err(SignatureError::OtherName { signed, found });
    }
    if !key.trust.covers(plugin.name) {
        let patterns = key.trust.plugins().unwrap_or_default().to_vec();
        return Err(SignatureError::OutOfScope {
            key: name(),
            plugin: plugin.name.clone(),
            patterns,
        });
    }
    if files.version != *plugin.version {
        let (signed, found) = (files.version, plugin.version.clone());
        return Err(SignatureError::OtherVersion { signed, found });
    }
    let comment = minisign.trusted_comment().to_owned();
    let by = SignedBy {
        key: name(),
        key_id,
        signed_at: time_in(&comment),
        trusted_comment: comment,
        files: files.files.len(),
    };
    let mut sha256 = Sha256::new_with_prefix(list.sha256());
    sha256.update(signature.sha256());
    Ok(Signed { by: Arc::new(by), list: files, sha256: sha256.finalize().into() })
}

/// Why bytes are not a signature that is accepted.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Malformed(&'static str),
    Legacy,
}

/// Parses a signature; returns it with the id of its key.
fn parse(bytes: &[u8]) -> Result<(Minisign, String), Problem> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(Problem::Malformed("it is not UTF-8 text"));
    };
    let lines: Vec<_> = text.lines().collect();
    let [untrusted, signature, _, _] = *lines else {
        return Err(Problem::Malformed("expected four lines"));
    };
    if !untrusted.starts_with("untrusted comment:") {
        return Err(Problem::Malformed("its first line is not an untrusted comment"));
    }
    let Some((algorithm, key_id)) = algorithm_and_key_id(signature) else {
        return Err(Problem::Malformed("its second line is not base64"));
    };
    match Minisign::decode(text) {
        // The other one is `ED`, prehashed.
        Ok(_) if algorithm == *b"Ed" => Err(Problem::Legacy),
        Ok(decoded) => Ok((decoded, key_id)),
        Err(minisign_verify::Error::UnsupportedAlgorithm) => {
            Err(Problem::Malformed("its algorithm is unknown"))
        }
        Err(_) => Err(Problem::Malformed("it is incomplete or damaged")),
    }
}

/// Returns the time that a trusted comment states, as minisign writes it.
fn time_in(comment: &str) -> Option<SystemTime> {
    let seconds = comment.split('\t').find_map(|field| field.strip_prefix("timestamp:"))?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))
}

/// Compares the files of a folder with the list.
fn check_files(
    folder: &Path,
    list: &SignedFiles,
    plugin: &SignedPlugin<'_>,
    max_bytes: u64,
    extent: Extent,
) -> Result<(), SignatureError> {
    check_total(list, max_bytes)?;
    let found = files_of(folder)?;
    if let Some(path) = found.keys().find(|path| !list.files.contains_key(*path)) {
        return Err(SignatureError::Added { path: path.clone() });
    }
    for (path, signed) in &list.files {
        let Some(length) = found.get(path) else {
            return Err(SignatureError::Removed { path: path.clone() });
        };
        let is_same = if path == MANIFEST {
            is_signed(signed, plugin.manifest)
        } else if *length != signed.length {
            false
        } else if extent == Extent::Names || plugin.main == Some(path) {
            true
        } else {
            let artifact = Artifact::read(&folder.join(path), signed.length)?;
            artifact.sha256() == *signed.sha256.as_bytes()
        };
        if !is_same {
            return Err(SignatureError::Changed { path: path.clone() });
        }
    }
    Ok(())
}

fn is_signed(signed: &SignedFile, bytes: &[u8]) -> bool {
    let sha256 = Digest::new(Sha256::digest(bytes).into());
    *signed == SignedFile { sha256, length: bytes.len() as u64 }
}

fn check_total(list: &SignedFiles, max_bytes: u64) -> Result<(), SignatureError> {
    let lengths = list.files.values().map(|file| file.length);
    let found_bytes = lengths.fold(0, u64::saturating_add);
    match found_bytes > max_bytes {
        true => Err(SignatureError::TooLarge { found_bytes, max_bytes }),
        false => Ok(()),
    }
}

/// Returns the list of the files that are in `folder` now.
pub(crate) fn list_of(
    folder: &Path,
    name: &PluginName,
    version: &Version,
    max_bytes: u64,
) -> Result<SignedFiles, SignatureError> {
    let (name, version) = (name.clone(), version.clone());
    let mut list = SignedFiles { name, version, files: BTreeMap::new() };
    for path in files_of(folder)?.into_keys() {
        if SignedFiles::check_path(&path).is_err() {
            let path = folder.join(path);
            return Err(SignatureError::NotAFile {
                path,
                found: "a file whose name cannot be signed",
            });
        }
        let artifact = Artifact::read(&folder.join(&path), max_bytes)?;
        let sha256 = Digest::new(artifact.sha256());
        list.files.insert(path, SignedFile { sha256, length: artifact.bytes().len() as u64 });
        check_total(&list, max_bytes)?;
    }
    Ok(list)
}

/// Returns the lengths of the files below `folder` by their relative paths, without the signature.
fn files_of(folder: &Path) -> Result<BTreeMap<String, u64>, SignatureError> {
    let (mut files, mut entries) = (BTreeMap::new(), 0);
    let mut pending = vec![(folder.to_owned(), String::new(), 1)];
    while let Some((below, prefix, depth)) = pending.pop() {
        let failed = |source| SignatureError::Read { path: below.clone(), source };
        for entry in fs::read_dir(&below).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            entries += 1;
            // The two files of the signature are not counted.
            if entries > MAX_FOLDER_ENTRIES + 2 || depth > MAX_FOLDER_DEPTH {
                return Err(SignatureError::TooMany {
                    path: folder.to_owned(),
                    max_files: MAX_FOLDER_ENTRIES,
                    max_depth: MAX_FOLDER_DEPTH,
                });
            }
            let path = entry.path();
            let metadata = match path.symlink_metadata() {
                Ok(metadata) => metadata,
                // Temporary files come and go.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(SignatureError::Read { path, source }),
            };
            let kind = metadata.file_type();
            let relative = match entry.file_name().to_str() {
                Some(name) => format!("{prefix}{name}"),
                None => {
                    return Err(SignatureError::NotAFile { path, found: "a name without UTF-8" });
                }
            };
            if kind.is_dir() {
                pending.push((path, format!("{relative}/"), depth + 1));
            } else if kind.is_file() {
                if relative != SIGNED_FILES && relative != SIGNATURE {
                    files.insert(relative, metadata.len());
                }
            } else {
                let found = if kind.is_symlink() { "a link" } else { "a pipe, socket or device" };
                return Err(SignatureError::NotAFile { path, found });
            }
        }
    }
    Ok(files)
}

/// Returns a relative path as a list has it.
pub(crate) fn relative(path: &Path) -> Option<String> {
    let parts = path.components().filter_map(|part| match part {
        Component::CurDir => None,
        Component::Normal(part) => Some(part.to_str()),
        _ => Some(None),
    });
    Some(parts.collect::<Option<Vec<_>>>()?.join("/"))
}

#[cfg(test)]
mod tests {
    use minisign_verify::PublicKey;
    use proptest::prelude::*;

    use super::*;

    // From the documentation of the crate `minisign-verify`, for the text `test`.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const TEXT: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1633700835\tfile:test\tprehashed
wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==
";
    /// The length of the first line, which the signature does not cover.
    const UNTRUSTED_BYTES: usize = 53;

    fn is_accepted(bytes: &[u8]) -> bool {
        let key = PublicKey::from_base64(KEY).expect("a key");
        parse(bytes).is_ok_and(|(signature, _)| key.verify(b"test", &signature, false).is_ok())
    }

    #[test]
    fn signature_has_a_key_id_and_a_time() {
        let (signature, key_id) = parse(TEXT.as_bytes()).expect("a signature");
        assert_eq!(key_id, "E7620F1842B4E81F");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_633_700_835);
        assert_eq!(time_in(signature.trusted_comment()), Some(time));
        for none in
            ["", "timestamp:", "timestamp:-1", "x timestamp:1", "timestamp:99999999999999999999"]
        {
            assert_eq!(time_in(none), None, "{none}");
        }
        assert!(is_accepted(TEXT.as_bytes()));
    }

    proptest! {
        #[test]
        fn no_other_signature_is_accepted(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            at in UNTRUSTED_BYTES..TEXT.len(),
            byte in any::<u8>(),
        ) {
            prop_assert!(!is_accepted(&bytes));
            let mut changed = TEXT.as_bytes().to_vec();
            prop_assert!(!is_accepted(&changed[..at.min(TEXT.len() - 2)]));
            let before = std::mem::replace(&mut changed[at], byte);
            // The last newline is optional.
            let is_same = before == byte || at == TEXT.len() - 1;
            prop_assert!(is_same || !is_accepted(&changed), "{}", changed.escape_ascii());
        }
    }
}
