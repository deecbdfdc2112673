//! The list of a signed plugin's files, `plugin.files.json`: parses and renders it. Reads no file, and
//! knows nothing of keys.

use std::collections::BTreeMap;
use std::fmt;

use semver::Version;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, json};

use crate::digest::Digest;
use crate::name::PluginName;

/// The name of the list in a plugin's folder.
pub const SIGNED_FILES: &str = "plugin.files.json";
/// The name of the list's signature, which `minisign -V -m plugin.files.json` reads too.
pub const SIGNATURE: &str = "plugin.files.json.minisig";
/// Maximum size of a list in bytes.
pub const MAX_SIGNED_FILES_BYTES: u64 = 16 << 20;
/// Maximum number of files, folders and links in a plugin's folder.
pub const MAX_FOLDER_ENTRIES: usize = 100_000;
/// Maximum number of nested folders, including the plugin's.
pub const MAX_FOLDER_DEPTH: usize = 64;

/// The version of the format.
const FORMAT: u64 = 1;

/// Whether plugins must be signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignaturePolicy {
    /// Signatures are ignored.
    #[default]
    Off,
    /// A signature must be valid. A plugin may have none, unless the build that it replaces has one.
    IfPresent,
    /// Each plugin must have a valid signature.
    Required,
}

impl SignaturePolicy {
    /// Returns its word in `hotbay.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::IfPresent => "if-present",
            Self::Required => "required",
        }
    }
}

/// The files of a plugin, as its author signs them.
///
/// ```
/// # use hotbay_manifest::SignedFiles;
/// let digest = "ab".repeat(32);
/// let text = format!(
///     r#"{{ "format": 1, "name": "echo", "version": "1.2.0",
///           "files": {{ "plugin.json": {{ "sha256": "{digest}", "length": 80 }} }} }}"#
/// );
/// let list = SignedFiles::parse(text.as_bytes())?;
/// assert_eq!(list.files["plugin.json"].length, 80);
/// assert_eq!(SignedFiles::parse(list.render().as_bytes())?, list);
/// # Ok::<(), hotbay_manifest::InvalidSignedFiles>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedFiles {
    /// The name in the plugin's manifest.
    pub name: PluginName,
    /// The version in the plugin's manifest.
    pub version: Version,
    /// All files except the list and its signature, by their paths: relative, with `/`.
    pub files: BTreeMap<String, SignedFile>,
}

/// The content of a signed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedFile {
    /// Its SHA-256.
    pub sha256: Digest,
    /// Its length in bytes.
    pub length: u64,
}

impl SignedFiles {
    /// Parses a list.
    ///
    /// # Errors
    ///
    /// If it is too large, is not JSON of this form, or has an invalid path.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidSignedFiles> {
        let invalid = |reason: String| Err(InvalidSignedFiles(reason));
        if bytes.len() as u64 > MAX_SIGNED_FILES_BYTES {
            return invalid(format!(
                "it has {} bytes; the limit is {MAX_SIGNED_FILES_BYTES}",
                bytes.len()
            ));
        }
        // Checked first, since a later format may have other fields.
        let format = match serde_json::from_slice::<Format>(bytes) {
            Ok(Format { format }) => format,
            Err(error) => return invalid(error.to_string()),
        };
        if format != FORMAT {
            return invalid(format!("its format is {format}; expected {FORMAT}"));
        }
        let List { name, version, files, .. } = match serde_json::from_slice(bytes) {
            Ok(list) => list,
            Err(error) => return invalid(error.to_string()),
        };
        let Ok(name) = PluginName::new(&name) else {
            return invalid(format!("`{}` is not a valid name", name.escape_debug()));
        };
        let Ok(version) = Version::parse(&version) else {
            return invalid(format!("`{}` is not a valid version", version.escape_debug()));
        };
        let mut read = BTreeMap::new();
        for (path, File { sha256, length }) in files.0 {
            if let Err(why) = check_path(&path) {
                return invalid(format!("path `{}` {why}", path.escape_debug()));
            }
            match sha256.parse() {
                Ok(sha256) => _ = read.insert(path, SignedFile { sha256, length }),
                Err(error) => return invalid(format!("`{path}`: {error}")),
            }
        }
        if !read.contains_key("plugin.json") {
            return invalid("it does not contain `plugin.json`".to_owned());
        }
        Ok(Self { name, version, files: read })
    }

    /// Returns the text of the list. Equal lists have equal texts.
    pub fn render(&self) -> String {
        let files = self.files.iter().map(|(path, SignedFile { sha256, length })| {
            (path.clone(), json!({ "sha256": sha256.to_string(), "length": length }))
        });
        let list = json!({
            "format": FORMAT,
            "name": self.name.as_str(),
            "version": self.version.to_string(),
            "files": files.collect::<Map<_, _>>(),
        });
        format!("{list:#}\n")
    }

    /// Checks that `path` is a path that a list may have.
    ///
    /// # Errors
    ///
    /// Returns what is wrong, such as "contains a backslash".
    pub fn check_path(path: &str) -> Result<(), &'static str> {
        check_path(path)
    }
}

/// A path means the same file on every system, and can be shown as it is.
fn check_path(path: &str) -> Result<(), &'static str> {
    let has_drive = matches!(path.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    if path == SIGNED_FILES || path == SIGNATURE {
        Err("is part of the signature")
    } else if path.starts_with('/') || has_drive {
        Err("is absolute")
    } else if path.contains('\\') {
        Err("contains a backslash")
    } else if path.chars().any(char::is_control) {
        Err("contains a control character")
    } else if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Err("has an empty part, `.` or `..`")
    } else if path.split('/').count() > MAX_FOLDER_DEPTH {
        Err("has too many parts")
    } else {
        Ok(())
    }
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(rename = "format")]
    _format: u64,
    name: String,
    version: String,
    files: Files,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sha256: String,
    length: u64,
}

/// Files by path, each once.
struct Files(BTreeMap<String, File>);

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Files;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of files by path")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Files, A::Error> {
                let mut files = BTreeMap::new();
                while let Some((path, file)) = map.next_entry::<String, File>()? {
                    if files.len() == MAX_FOLDER_ENTRIES {
                        let message = format!("more than {MAX_FOLDER_ENTRIES} files");
                        return Err(A::Error::custom(message));
                    }
                    if files.contains_key(&path) {
                        let path = path.escape_debug();
                        return Err(A::Error::custom(format_args!("`{path}` is listed twice")));
                    }
                    files.insert(path, file);
                }
                Ok(Files(files))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// The error of a text that is not a list of signed files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSignedFiles(String);

impl fmt::Display for InvalidSignedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid list of signed files: {}", self.0)
    }
}

impl std::error::Error for InvalidSignedFiles {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "abababababababababababababababababababababababababababababababab";

    fn list(files: &str) -> String {
        format!(r#"{{"format":1,"name":"echo","version":"1.2.0","files":{{{files}}}}}"#)
    }

    fn file(path: &str) -> String {
        format!(r#"{path:?}:{{"sha256":"{DIGEST}","length":3}}"#)
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = SignedFiles::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn invalid_list_is_refused_with_reason() {
        let manifest = file("plugin.json");
        check("", "EOF");
        check("[]", "invalid length 0");
        check(r#"{"format":2,"new":{}}"#, "its format is 2; expected 1");
        check(&list(""), "does not contain `plugin.json`");
        check(&list(&format!("{manifest},{manifest}")), "`plugin.json` is listed twice");
        check(&list(&manifest).replace("1.2.0", "1.2"), "`1.2` is not a valid version");
        check(&list(&manifest).replace("echo", "Echo"), "`Echo` is not a valid name");
        check(&list(&manifest).replace(DIGEST, "ab"), "64 hexadecimal digits");
        check(&list(&manifest).replace("\"length\"", "\"size\""), "unknown field `size`");
        check(&list(&manifest).replace(":3}", ":-3}"), "invalid value");
        check(&format!("{} x", list(&manifest)), "trailing characters");
        check(&" ".repeat(MAX_SIGNED_FILES_BYTES as usize + 1), "the limit is 16777216");
        for (path, why) in [
            ("/etc/passwd", "is absolute"),
            ("c:x", "is absolute"),
            ("a/../b", "`.` or `..`"),
            ("a//b", "empty part"),
            ("", "empty part"),
            ("a\\b", "backslash"),
            ("a\nb", "control character"),
            (SIGNATURE, "is part of the signature"),
            (&"a/".repeat(64), "empty part"),
            (&"a/".repeat(64).replace("a/", "/a")[1..], ""),
            (&("a/".repeat(64) + "b"), "has too many parts"),
        ] {
            let parsed = SignedFiles::parse(list(&[&manifest, &*file(path)].join(",")).as_bytes());
            match parsed {
                Ok(_) => assert_eq!(why, "", "{path}"),
                Err(error) => assert!(!why.is_empty() && error.0.contains(why), "{error}"),
            }
        }
    }

    proptest! {
        #[test]
        fn parser_accepts_only_what_it_renders(
            text in r#"\PC{0,80}"#,
            at in 0_usize..400,
            byte in any::<u8>(),
        ) {
            let _ = SignedFiles::parse(text.as_bytes());
            let mut bytes = list(&[file("plugin.json"), file("lib/a.so")].join(",")).into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(changed) = SignedFiles::parse(&bytes) {
                let again = SignedFiles::parse(changed.render().as_bytes());
                prop_assert_eq!(again, Ok(changed));
            }
            prop_assert!(SignedFiles::parse(&bytes[..at]).is_err());
        }
    }
}
