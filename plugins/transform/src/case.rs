//! Letters of words: title case by Unicode's words, and text turned round by graphemes.
//! Nothing here knows plugins, and nothing depends on a language: no locale is asked for.

use unicode_segmentation::UnicodeSegmentation as _;

/// Writes the first grapheme of each word large and the rest of it small.
///
/// Words are those of UAX #29; whatever stands between them is kept byte for byte. A word that
/// hangs on another one by an apostrophe (`the 90's`) belongs to it.
pub(crate) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = Before::Gap;
    for segment in text.split_word_bounds() {
        let is_word = segment.contains(char::is_alphanumeric);
        match (is_word, before) {
            (true, Before::WordApostrophe) => out.push_str(&segment.to_lowercase()),
            (true, _) => push_title_word(&mut out, segment),
            (false, _) => out.push_str(segment),
        }
        before = match before {
            _ if is_word => Before::Word,
            Before::Word if is_apostrophe(segment) => Before::WordApostrophe,
            _ => Before::Gap,
        };
    }
    out
}

/// Turns the order of the grapheme clusters round, and leaves each of them as it is.
pub(crate) fn reverse(text: &str) -> String {
    text.graphemes(true).rev().collect()
}

/// What stands to the left of a segment.
#[derive(Clone, Copy)]
enum Before {
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
    // The word is lowered as a whole, because a final sigma is known by what stands before it.
    // Apart from which sigma it is (two bytes either way), a letter is lowered by itself, so the
    // first grapheme takes the same room in both.
    let lowered = word.to_lowercase();
    out.push_str(&lowered[first.to_lowercase().len()..]);
}

/// Title case is upper case, except for digraphs, ligatures and the Georgian script.
fn push_title_grapheme(out: &mut String, grapheme: &str) {
    let mut seen_upper = false;
    for c in grapheme.chars() {
        match c {
            'ა'..='ჿ' => out.push(c),
            'Ǆ'..='ǆ' => out.push('ǅ'),
            'Ǉ'..='ǉ' => out.push('ǈ'),
            'Ǌ'..='ǌ' => out.push('ǋ'),
            'Ǳ'..='ǳ' => out.push('ǲ'),
            _ => {
                // One letter may become several: `ﬁ` is `Fi` at the start of a word, not `FI`.
                for upper in c.to_uppercase() {
                    if seen_upper {
                        out.extend(upper.to_lowercase());
                    } else {
                        out.push(upper);
                    }
                    seen_upper |= upper.is_uppercase();
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
    fn a_title_has_large_first_letters_and_small_others() {
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
    fn an_apostrophe_starts_no_new_word() {
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
    fn what_stands_between_words_stays_as_it_is() {
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
    fn letters_with_a_title_form_of_their_own_get_it() {
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
    fn reverse_keeps_what_is_seen_as_one_character() {
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
        fn reversing_twice_is_the_identity_where_graphemes_stay_themselves(text in "\\PC*") {
            let turned = reverse(&text);
            let stable = turned.graphemes(true).eq(text.graphemes(true).rev());
            prop_assume!(stable);
            prop_assert_eq!(reverse(&turned), text);
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
        fn any_text_has_a_title(text in any::<String>()) {
            let titled = title(&text);
            prop_assert_eq!(titled.is_empty(), text.is_empty());
        }

        #[test]
        fn a_title_changes_nothing_but_case(text in "[a-zA-Zäöüñéàç '’.,;\\-\r\n0-9]*") {
            prop_assert_eq!(title(&text).to_lowercase(), text.to_lowercase());
        }
    }
}
