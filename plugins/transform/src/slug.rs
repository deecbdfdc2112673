//! Text as the last part of a web address: `a-z`, `0-9` and single dashes between words.
//! Transliteration is deunicode's: by character, without regard to the language.

use deunicode::deunicode_with_tofu;

/// Makes a slug, or `None` where `text` holds nothing that becomes a letter or digit.
pub(crate) fn slug(text: &str) -> Option<String> {
    let ascii = deunicode_with_tofu(text, " ");
    let mut out = String::with_capacity(ascii.len());
    let mut word_is_open = false;
    for c in ascii.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' => {
                if !word_is_open && !out.is_empty() {
                    out.push('-');
                }
                word_is_open = true;
                out.push(c.to_ascii_lowercase());
            }
            // Apostrophes stand inside words, and so do the soft sign of Cyrillic and the ʻokina,
            // which are transliterated as one of these.
            '\'' | '`' => {}
            _ => word_is_open = false,
        }
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(input: &str, expected: Option<&str>) {
        assert_eq!(slug(input).as_deref(), expected, "of {input:?}");
    }

    #[test]
    fn words_are_joined_by_single_dashes() {
        check("Hello, World!", Some("hello-world"));
        check("  --a__b--  ", Some("a-b"));
        check("1.5 × 2", Some("1-5-x-2"));
        check("a\r\nb\tc", Some("a-b-c"));
        check("already-a-slug", Some("already-a-slug"));
    }

    #[test]
    fn letters_of_other_scripts_are_transliterated() {
        check("Crème Brûlée", Some("creme-brulee"));
        check("Cre\u{300}me", Some("creme"));
        check("Straße in Łódź", Some("strasse-in-lodz"));
        check("Съешь же ещё", Some("sesh-zhe-eshchio"));
        check("北京", Some("bei-jing"));
        check("Αθήνα", Some("athena"));
        check("🦄 power", Some("unicorn-power"));
    }

    #[test]
    fn an_apostrophe_parts_no_word() {
        check("don't Don\u{2019}t", Some("dont-dont"));
        check("Hawaiʻi", Some("hawaii"));
    }

    #[test]
    fn text_without_letters_or_digits_has_no_slug() {
        for nothing in ["", " ", "---", "!?…", "'`'", "\u{301}", "\u{e000}"] {
            check(nothing, None);
        }
    }

    proptest! {
        #[test]
        fn a_slug_is_words_of_lower_ascii_between_single_dashes(text in any::<String>()) {
            if let Some(slug) = slug(&text) {
                for word in slug.split('-') {
                    prop_assert!(!word.is_empty(), "{slug:?}");
                    let clean = word.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9'));
                    prop_assert!(clean, "{slug:?}");
                }
            }
        }

        #[test]
        fn a_slug_is_its_own_slug(text in "\\PC*") {
            if let Some(once) = slug(&text) {
                prop_assert_eq!(slug(&once), Some(once));
            }
        }

        #[test]
        fn text_with_an_ascii_letter_or_digit_has_a_slug(text in ".*[a-zA-Z0-9].*") {
            prop_assert!(slug(&text).is_some());
        }
    }
}
