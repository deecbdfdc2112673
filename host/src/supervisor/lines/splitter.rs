//! Splits a stream of bytes into lines, in any chunking.
//! Buffers one line at most; a line that is too long never stops the reading.

/// The longest line that is passed on uncut, without its line end.
pub(crate) const MAX_LINE_BYTES: usize = 64 * 1024;

/// Replaces the rest of a line that is too long.
const CUT: &str = "… (cut)";

/// Turns chunks into lines.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// The start of the current line, with one byte more than a line may have, for its `\r`.
    line: Vec<u8>,
    /// Whether the current line was already passed on; the rest of it is dropped.
    skips: bool,
}

impl Splitter {
    /// Adds bytes, and calls `each` with every completed line.
    ///
    /// A line ends with `\n` or `\r\n`. A line over [`MAX_LINE_BYTES`] is passed on as soon as it
    /// is too long, with `… (cut)` at its end. Invalid UTF-8 is replaced.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
            self.take(&rest[..at], &mut each);
            self.end(&mut each);
            rest = &rest[at + 1..];
        }
        self.take(rest, &mut each);
    }

    /// Calls `each` with the last line, if the stream ended without a line end.
    pub(crate) fn finish(mut self, each: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.end(each);
        }
    }

    /// Adds bytes to the current line.
    fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        if self.skips {
            return;
        }
        let capacity = MAX_LINE_BYTES + 1 - self.line.len();
        let fits = &bytes[..bytes.len().min(capacity)];
        self.line.extend_from_slice(fits);
        let too_long = bytes.len() > capacity
            || self.line.len() > MAX_LINE_BYTES && !self.line.ends_with(b"\r");
        if too_long {
            self.line.truncate(MAX_LINE_BYTES);
            let whole = self.line.len() - incomplete_character_bytes(&self.line);
            each(&format!("{}{CUT}", String::from_utf8_lossy(&self.line[..whole])));
            self.line.clear();
            self.skips = true;
        }
    }

    /// Completes the current line.
    fn end(&mut self, mut each: impl FnMut(&str)) {
        if !self.skips {
            let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
            each(&String::from_utf8_lossy(line));
        }
        self.line.clear();
        self.skips = false;
    }
}

/// Returns the number of bytes at the end of `bytes` that are an incomplete character.
fn incomplete_character_bytes(bytes: &[u8]) -> usize {
    let is_half = |count: &usize| {
        let end = &bytes[bytes.len().saturating_sub(*count)..];
        let goes_on =
            |error: std::str::Utf8Error| error.valid_up_to() == 0 && error.error_len().is_none();
        std::str::from_utf8(end).is_err_and(goes_on)
    };
    (1..=3).find(is_half).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines_of<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, |line| lines.push(line.to_owned()));
        }
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    fn check(text: &[u8], expect: &[&str]) {
        assert_eq!(lines_of([text]), expect, "in one piece");
        assert_eq!(lines_of(text.chunks(1)), expect, "byte by byte");
    }

    #[test]
    fn lines_are_passed_on_without_their_ends() {
        check(b"", &[]);
        check(b"\n", &[""]);
        check(b"a\nb\n", &["a", "b"]);
        check(b"a\r\nb\r\n\r\n", &["a", "b", ""]);
        check(b"a\rb\r\r\n", &["a\rb\r"]);
    }

    #[test]
    fn last_line_needs_no_end() {
        check(b"a\nb", &["a", "b"]);
        check(b"a\nb\r", &["a", "b"]);
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        check("é ✓\n".as_bytes(), &["é ✓"]);
        check(b"a\xff\xe2\x9cb\n", &["a\u{fffd}\u{fffd}b"]);
    }

    #[test]
    fn line_that_is_too_long_is_cut_and_reading_continues() {
        let (full, cut) = ("x".repeat(MAX_LINE_BYTES), "x".repeat(MAX_LINE_BYTES) + CUT);
        for end in ["\n", "\r\n"] {
            check(format!("{full}{end}a{end}").as_bytes(), &[&full, "a"]);
            check(format!("{full}y{end}a{end}").as_bytes(), &[&cut, "a"]);
            check(format!("{full}{full}{full}yy{end}a").as_bytes(), &[&cut, "a"]);
        }
        check(full.as_bytes(), &[&full]);
        check(format!("{full}\r").as_bytes(), &[&full]);
        check(format!("{full}\ry\na").as_bytes(), &[&cut, "a"]);
        check(format!("{full}y").as_bytes(), &[&cut]);
    }

    #[test]
    fn no_character_is_cut_in_half() {
        for (wide, bytes) in [("é", 2), ("✓", 3), ("🦀", 4)] {
            for inside in 1..bytes {
                let start = "x".repeat(MAX_LINE_BYTES - inside);
                let text = format!("{start}{wide}{}\n", "y".repeat(9));
                check(text.as_bytes(), &[&format!("{start}{CUT}")]);
            }
        }
    }

    #[test]
    fn line_that_is_too_long_is_passed_on_before_its_end() {
        let mut count = 0;
        Splitter::default().feed(&vec![b'x'; MAX_LINE_BYTES + 1], |_| count += 1);
        assert_eq!(count, 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_chunking_gives_the_same_lines(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r')], 0..300),
            stretch in prop::option::of((any::<prop::sample::Index>(), 0..4_usize)),
            sizes in prop::collection::vec(1..70_000_usize, 1..40),
            small in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if let Some((at, over)) = stretch {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, vec![b'x'; MAX_LINE_BYTES - 2 + over]);
            }
            let mut chunks = Vec::new();
            let mut rest = &bytes[..];
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let size = if small { size % 7 + 1 } else { *size };
                let (chunk, after) = rest.split_at(size.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(lines_of(chunks), lines_of([&bytes[..]]));
        }

        #[test]
        fn lines_that_fit_are_unchanged(lines in prop::collection::vec("[^\\n\\r]{0,40}", 0..9)) {
            let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            prop_assert_eq!(lines_of([text.as_bytes()]), lines);
        }
    }
}
