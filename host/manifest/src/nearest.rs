//! The known word that a misspelled one means.

/// Maximum length of a word that is compared with known ones; the comparison is quadratic.
const MAX_COMPARED_BYTES: usize = 64;

/// Returns the known word that `word` probably means, for a hint such as "did you mean `x`?".
///
/// Case does not count, and `_` counts as `-`. Up to a quarter of the letters may differ.
///
/// ```
/// # use hotbay_manifest::nearest;
/// assert_eq!(nearest("Transfrm", ["filter", "transform"]), Some("transform"));
/// assert_eq!(nearest("counter", ["filter", "transform"]), None);
/// ```
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let normalized = |text: &str| text.to_lowercase().replace('_', "-");
    let word = normalized(word);
    let distance = |name| (strsim::osa_distance(&word, &normalized(name)), name);
    let (distance, name) = known.into_iter().map(distance).min()?;
    (distance <= name.len().div_ceil(4)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::MANIFEST;

    #[test]
    fn only_similar_word_is_suggested() {
        let check = |word: &str, expect: Option<&str>| {
            let known = MANIFEST.iter().map(|field| field.name);
            assert_eq!(nearest(word, known), expect, "{word}");
        };
        check("verison", Some("version"));
        check("Version", Some("version"));
        check("config-schema", Some("config_schema"));
        check("permission", Some("permissions"));
        check("api_version", None);
        check("color", None);
        check("", None);
        check(&"n".repeat(1 << 20), None);
    }
}
