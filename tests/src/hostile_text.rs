//! A text that would control a terminal, and a check that an output does not.

/// Sets colors, clears the screen, reverses text, and ends lines.
pub const HOSTILE: &str = "a\u{1b}[31mb\u{7f}\u{9b}2J\rc\u{202e}d\u{2066}e\u{61c}\u{2028}f\u{0}";

/// [`HOSTILE`] as it is shown.
pub const HOSTILE_ESCAPED: &str =
    "a\\u{1b}[31mb\\u{7f}\\u{9b}2J\\rc\\u{202e}d\\u{2066}e\\u{61c}\\u{2028}f\\u{0}";

/// Returns whether the text contains control or bidirectional characters other than line ends.
pub fn steers(text: &str) -> bool {
    let turns = |char| {
        matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    text.chars().any(|char| turns(char) || char.is_control() && char != '\n')
}
