//! Title case by Unicode words, and reversal by grapheme clusters. Independent of the locale.

use unicode_segmentation::UnicodeSegmentation as _;

/// Converts the first grapheme of each word to title case and the rest to lower case.
///
/// Words are those of UAX #29; text between them is unchanged. A word after an apostrophe, as in
/// `the 90's`, belongs to the word before.
pub(crate) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut previous = Previous::Gap;
    for segment in text.split_word_bounds() {
        let is_word = segment.contains(char::is_alphanumeric);
        match (is_word, previous) {
            (true, Previous::WordApostrophe) => out.push_str(&segment.to_lowercase()),
            (true, _) => push_title_word(&mut out, segment),
            (false, _) => out.push_str(segment),
        }
        previous = match previous {
            _ if is_word => Previous::Word,
            Previous::Word if is_apostrophe(segment) => Previous::WordApostrophe,
            _ => Previous::Gap,
        };
    }
    out
}

/// Reverses the order of the grapheme clusters.
pub(crate) fn reverse(text: &str) -> String {
    text.graphemes(true).rev().collect()
}

/// Kind of the previous segment.
#[derive(Clone, Copy)]
enum Previous {
    Gap,
    Word,
    WordApostrophe,
}

fn is_apostrophe(segment: &str) -> bool {
    matches!(segment, "'" | "\u{2019}" | "\u{ff07}")
}

fn push_title_word(out: &mut String, word: &str) {
    let first = word.graphemes(true).next().unwrap_or_default();
    push_title_grapheme(out, first);
    // The whole word is converted, because a final sigma depends on the letters before it. Both
    // sigmas take two bytes, so the first grapheme has the same length in both results.
    let lowercase = word.to_lowercase();
    out.push_str(&lowercase[first.to_lowercase().len()..]);
}

/// Appends the title case, which is upper case except for digraphs, ligatures and Georgian.
fn push_title_grapheme(out: &mut String, grapheme: &str) {
    let mut has_upper = false;
    for c in grapheme.chars() {
        match c {
            'ა'..='ჿ' => out.push(c),
            'Ǆ'..='ǆ' => out.push('ǅ'),
            'Ǉ'..='ǉ' => out.push('ǈ'),
            'Ǌ'..='ǌ' => out.push('ǋ'),
            'Ǳ'..='ǳ' => out.push('ǲ'),
            _ => {
                // One character may become several: `ﬁ` becomes `Fi` at the start of a word, not
                // `FI`.
                for upper in c.to_uppercase() {
                    if has_upper {
                        out.extend(upper.to_lowercase());
                    } else {
                        out.push(upper);
                    }
                    has_upper |= upper.is_uppercase();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(of: fn(&str) -> String, cases: &[(&str, &str)]) {
        for (input, expected) in cases {
            assert_eq!(of(input), *expected, "of {input:?}");
        }
    }

    #[test]
    fn title_capitalizes_each_word() {
        check(
            title,
            &[
                ("", ""),
                ("hello wORLD", "Hello World"),
                ("élan vital, ÀÉ", "Élan Vital, Àé"),
                ("e\u{301}lan", "E\u{301}lan"),
                ("привет МИР", "Привет Мир"),
                ("straße", "Straße"),
                ("ΟΔΟΣ ΑΣ", "Οδος Ας"),
                ("日本語 text", "日本語 Text"),
                ("3d 42nd", "3d 42nd"),
            ],
        );
    }

    #[test]
    fn title_keeps_words_with_apostrophes_together() {
        check(
            title,
            &[
                ("don't DON\u{2019}T", "Don't Don\u{2019}t"),
                ("the 90's o'NEIL", "The 90's O'neil"),
                ("l'été", "L'été"),
                ("say 'yes' now", "Say 'Yes' Now"),
            ],
        );
    }

    #[test]
    fn title_keeps_text_between_words() {
        check(
            title,
            &[
                ("  a\t\tb\r\nc\u{a0}d  ", "  A\t\tB\r\nC\u{a0}D  "),
                ("well-known — yes/no", "Well-Known — Yes/No"),
                ("👩‍👩‍👧 and 🇩🇪!", "👩‍👩‍👧 And 🇩🇪!"),
            ],
        );
    }

    #[test]
    fn title_uses_special_title_case_letters() {
        check(
            title,
            &[
                ("ǆUNGLA ǇUBAV", "ǅungla ǈubav"),
                ("ﬁNE ßa", "Fine Ssa"),
                ("საქართველო", "საქართველო"),
                ("ᲡᲐᲥ", "Საქ"),
            ],
        );
    }

    #[test]
    fn reverse_keeps_grapheme_clusters() {
        check(
            reverse,
            &[
                ("", ""),
                ("abc", "cba"),
                ("noe\u{308}l", "le\u{308}on"),
                ("a🇩🇪🇫🇷b", "b🇫🇷🇩🇪a"),
                ("hi 👩‍👩‍👧‍👦!", "!👩‍👩‍👧‍👦 ih"),
                ("👍🏽ok", "ko👍🏽"),
                ("one\r\ntwo\n", "\nowt\r\neno"),
                ("각 नमस्ते", "स्तेमन 각"),
            ],
        );
    }

    proptest! {
        #[test]
        fn reversing_twice_is_the_identity_if_graphemes_are_stable(text in "\\PC*") {
            let reversed = reverse(&text);
            let stable = reversed.graphemes(true).eq(text.graphemes(true).rev());
            prop_assume!(stable);
            prop_assert_eq!(reverse(&reversed), text);
        }

        #[test]
        fn reversing_keeps_every_character(text in any::<String>()) {
            let sorted = |text: &str| {
                let mut chars: Vec<char> = text.chars().collect();
                chars.sort_unstable();
                chars
            };
            prop_assert_eq!(sorted(&reverse(&text)), sorted(&text));
        }

        #[test]
        fn title_is_empty_only_for_empty_text(text in any::<String>()) {
            let titled = title(&text);
            prop_assert_eq!(titled.is_empty(), text.is_empty());
        }

        #[test]
        fn title_changes_only_case(text in "[a-zA-Zäöüñéàç '’.,;\\-\r\n0-9]*") {
            prop_assert_eq!(title(&text).to_lowercase(), text.to_lowercase());
        }
    }
}
