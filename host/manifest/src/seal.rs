//! Sets digest and length in a manifest's text, and keeps the author's layout. Writes no file.

use std::path::Path;

use jsonc_parser::cst::{CstInputValue, CstRootNode};

use super::tree::{STRICT, Source, without_mark};
use super::{Digest, Manifest};
use crate::error::{ManifestError, Problem};

/// The file name in messages about a text without a known file.
const FILE: &str = "plugin.json";

/// Returns `text` with `sha256` and `length` set; the result is a valid manifest.
pub(crate) fn seal(text: &str, sha256: &Digest, length: u64) -> Result<String, ManifestError> {
    let source = Source::new(text, FILE);
    source.tree()?;
    let (mark, text) = text.split_at(text.len() - without_mark(text).len());
    let not_json =
        |reason: &str| source.mistake(0, "", Problem::NotJson { reason: reason.to_owned() });
    let root = CstRootNode::parse(text, &STRICT).map_err(|error| not_json(&error.to_string()))?;
    if let Some(object) = root.object_value() {
        let values = [
            ("sha256", CstInputValue::String(sha256.to_string())),
            ("length", CstInputValue::Number(length.to_string())),
        ];
        for (name, value) in values {
            match object.get(name) {
                Some(property) => property.set_value(value),
                None => drop(object.append(name, value)),
            }
        }
    }
    let sealed = format!("{mark}{root}");
    Manifest::parse(&sealed, Path::new(FILE))?;
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Digest = Digest::new([0xab; 32]);

    fn check(text: &str, expect: &str) {
        let expect = expect.replace("DIGEST", &DIGEST.to_string());
        let sealed = Manifest::seal_text(text, &DIGEST, 12).unwrap();
        assert_eq!(sealed, expect);
        let manifest = Manifest::parse(&sealed, Path::new(FILE)).unwrap();
        assert_eq!((manifest.sha256(), manifest.length()), (Some(&DIGEST), Some(12)));
        assert_eq!(Manifest::seal_text(&sealed, &DIGEST, 12).unwrap(), sealed);
    }

    #[test]
    fn seal_keeps_layout_of_author() {
        check(
            "{\n    \"name\": \"a\", \"version\":\"1.0.0\",\n\n    \"api\" : \"^1\"\n}\n",
            "{\n    \"name\": \"a\", \"version\":\"1.0.0\",\n\n    \"api\" : \"^1\",\n    \
             \"sha256\": \"DIGEST\",\n    \"length\": 12\n}\n",
        );
        check(
            "\u{feff}{\r\n\t\"name\": \"a\",\r\n\t\"version\": \"1.0.0\",\r\n\t\"api\": \"^1\"\r\n}",
            "\u{feff}{\r\n\t\"name\": \"a\",\r\n\t\"version\": \"1.0.0\",\r\n\t\"api\": \"^1\",\r\n\t\
             \"sha256\": \"DIGEST\",\r\n\t\"length\": 12\r\n}",
        );
    }

    #[test]
    fn seal_splits_single_line_manifest() {
        check(
            r#"{"name":"a","version":"1.0.0","api":"^1"}"#,
            "{\n  \"name\":\"a\",\n  \"version\":\"1.0.0\",\n  \"api\":\"^1\",\n  \
             \"sha256\": \"DIGEST\",\n  \"length\": 12\n}",
        );
    }

    #[test]
    fn seal_replaces_digest_and_length_in_place() {
        check(
            "{ \"length\": \"?\", \"name\": \"a\",\n\"sha256\": null, \"version\": \"1.0.0\", \
             \"api\": \"^1\" }",
            "{ \"length\": 12, \"name\": \"a\",\n\"sha256\": \"DIGEST\", \"version\": \"1.0.0\", \
             \"api\": \"^1\" }",
        );
    }

    #[test]
    fn seal_rejects_invalid_manifest() {
        let check = |text: &str, expect: &str| {
            let error = Manifest::seal_text(text, &DIGEST, 12).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        check("[]", "plugin.json:1:1: the manifest is a list; expected an object");
        check("{,}", "plugin.json:1:2: the manifest is not JSON: unexpected token in object");
        check(
            "{ \"name\": \"a\", \"version\": 1, \"api\": \"*\" }",
            "plugin.json:3:14: `version` is 1; expected MAJOR.MINOR.PATCH, for example `1.0.0`",
        );
    }
}
