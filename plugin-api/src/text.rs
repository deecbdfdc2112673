//! Truncates and escapes text from plugins for display: escapes characters that control a terminal
//! or change the order in which text is shown.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Marks truncated text.
pub const CUT: &str = "… (cut)";

/// Maximum length of the message of an error or a panic, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// Maximum length of the location of a panic, in bytes.
pub const MAX_LOCATION_BYTES: usize = 1024;

/// Maximum length of an error's details as JSON text, in bytes.
pub const MAX_DETAILS_BYTES: usize = 64 * 1024;

/// Maximum length of a media type, in bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 256;

/// Returns at most `max_bytes` bytes of the start of a text, without splitting a character.
pub fn start_of(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// Returns the text, truncated to `max_bytes` bytes including the mark [`CUT`].
pub fn cut(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if text.len() <= max_bytes {
        return Cow::Borrowed(text);
    }
    let start = start_of(text, max_bytes.saturating_sub(CUT.len()));
    Cow::Owned(format!("{start}{CUT}"))
}

/// Layout in which a text is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// A single line: line ends and tabs are escaped too.
    One,
    /// Any number of lines: `\n` and `\t` are kept.
    Many,
}

/// Returns whether a character must be escaped.
pub fn is_escaped(char: char, lines: Lines) -> bool {
    match char {
        '\n' | '\t' => lines == Lines::One,
        // Marks, embeddings, overrides and isolates of the bidirectional algorithm.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        // Line and paragraph separators, which some terminals and log viewers break lines at.
        '\u{2028}' | '\u{2029}' => true,
        // Invisible characters and tags, which can make different names look the same.
        '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' => true,
        '\u{e0000}'..='\u{e007f}' => true,
        char => char.is_control(),
    }
}

/// Returns the text with these characters escaped as in Rust: `\u{1b}`.
pub fn escaped(text: &str, lines: Lines) -> Cow<'_, str> {
    if !text.chars().any(|char| is_escaped(char, lines)) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        if is_escaped(char, lines) {
            escaped.extend(char.escape_default());
        } else {
            escaped.push(char);
        }
    }
    Cow::Owned(escaped)
}

/// Writes the text with these characters escaped, as any number of lines.
pub(crate) fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for char in text.chars() {
        if is_escaped(char, Lines::Many) {
            write!(f, "{}", char.escape_default())?;
        } else {
            f.write_char(char)?;
        }
    }
    Ok(())
}

/// Returns a JSON document with these characters escaped as in JSON.
///
/// They occur only in strings of the document, so its value does not change.
pub fn escaped_json(json: &str) -> Cow<'_, str> {
    // Line ends between the tokens of the document are kept.
    if !json.chars().any(|char| is_escaped(char, Lines::Many)) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for char in json.chars() {
        if is_escaped(char, Lines::Many) {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing to a string never fails.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(char);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_replaces_control_and_direction_characters() {
        let check = |text: &str, one: &str, many: &str| {
            assert_eq!((&*escaped(text, Lines::One), &*escaped(text, Lines::Many)), (one, many));
        };
        check("plain é ✓ 🦀", "plain é ✓ 🦀", "plain é ✓ 🦀");
        check("a\nb\tc", "a\\nb\\tc", "a\nb\tc");
        check(
            "\u{1b}[31mred\r\0\u{7f}\u{9b}",
            "\\u{1b}[31mred\\r\\u{0}\\u{7f}\\u{9b}",
            "\\u{1b}[31mred\\r\\u{0}\\u{7f}\\u{9b}",
        );
        check(
            "\u{202e}x\u{2069}\u{61c}",
            "\\u{202e}x\\u{2069}\\u{61c}",
            "\\u{202e}x\\u{2069}\\u{61c}",
        );
        check(
            "\u{2028}\u{200b}\u{ad}\u{2063}\u{e0041}",
            "\\u{2028}\\u{200b}\\u{ad}\\u{2063}\\u{e0041}",
            "\\u{2028}\\u{200b}\\u{ad}\\u{2063}\\u{e0041}",
        );
    }

    #[test]
    fn escaped_json_keeps_its_value() {
        let text = "a\u{1b}\n\u{202e}\u{e0041}\u{7f}\u{9b}é";
        let json = serde_json::to_string_pretty(&serde_json::json!({ text: [text] })).unwrap();
        let escaped = escaped_json(&json);
        assert!(!escaped.chars().any(|char| is_escaped(char, Lines::Many)), "{escaped}");
        let read: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(read, serde_json::json!({ text: [text] }));
        assert!(matches!(escaped_json("{\n  \"é\": 1\n}"), Cow::Borrowed(_)));
    }

    #[test]
    fn cut_keeps_whole_characters_within_the_limit() {
        assert_eq!(cut("short", 5), "short");
        for max_bytes in CUT.len()..60 {
            let cut = cut("éééééééééééééééééééééééééééééééééééééé", max_bytes);
            assert!(cut.len() <= max_bytes && cut.ends_with(CUT), "{max_bytes}: {cut}");
        }
    }
}
