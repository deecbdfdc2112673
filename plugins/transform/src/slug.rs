//! Slugs, such as for URLs: `a-z`, `0-9` and single dashes between words. `deunicode`
//! transliterates each character, independent of the language.

use deunicode::deunicode_with_tofu;

/// Returns the slug of a text, or `None` if the text contains no letter or digit.
pub(crate) fn slug(text: &str) -> Option<String> {
    let ascii = deunicode_with_tofu(text, " ");
    let mut out = String::with_capacity(ascii.len());
    let mut in_word = false;
    for c in ascii.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' => {
                if !in_word && !out.is_empty() {
                    out.push('-');
                }
                in_word = true;
                out.push(c.to_ascii_lowercase());
            }
            // Part of a word: apostrophes, and the Cyrillic soft sign and the ʻokina, which are
            // transliterated as one of these.
            '\'' | '`' => {}
            _ => in_word = false,
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
    fn apostrophes_do_not_split_words() {
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
        fn slug_is_ascii_words_between_single_dashes(text in any::<String>()) {
            if let Some(slug) = slug(&text) {
                for word in slug.split('-') {
                    prop_assert!(!word.is_empty(), "{slug:?}");
                    let clean = word.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9'));
                    prop_assert!(clean, "{slug:?}");
                }
            }
        }

        #[test]
        fn slug_of_a_slug_is_the_same(text in "\\PC*") {
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
