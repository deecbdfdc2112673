//! The stamp: plain text inside a plugin's library that tells what it is before anything runs.
//!
//! It is an exported static without pointers, so it needs no relocation and can be read from the
//! file. Lines of `key=value` after [`MAGIC`]; readers ignore keys that they do not know.

/// The exported symbol under which the stamp lies.
pub const SYMBOL: &str = "HOTBAY_PLUGIN_STAMP";

/// The first line of a stamp, without its line end.
pub const MAGIC: &str = "HOTBAY-STAMP 1";

/// Bytes of a stamp; what the text does not fill is NUL.
pub const CAPACITY: usize = 512;

/// A stamp as it lies in a library.
pub type StampBytes = [u8; CAPACITY];

/// Writes the stamp of a package at compile time.
///
/// # Panics
///
/// At compile time, when the text is longer than [`CAPACITY`] less one.
pub const fn stamp(package: &str, version: &str) -> StampBytes {
    let mut writer = Writer { bytes: [0; CAPACITY], used: 0 };
    writer.text(MAGIC);
    writer.text("\n");
    writer.line("package", package);
    writer.line("version", version);
    writer.line("api", crate::API_VERSION);
    writer.line("rustc", env!("HOTBAY_RUSTC"));
    writer.line("target", env!("HOTBAY_TARGET"));
    writer.line("panic", if cfg!(panic = "unwind") { "unwind" } else { "abort" });
    writer.bytes
}

struct Writer {
    bytes: StampBytes,
    used: usize,
}

impl Writer {
    const fn line(&mut self, key: &str, value: &str) {
        self.text(key);
        self.text("=");
        self.text(value);
        self.text("\n");
    }

    const fn text(&mut self, text: &str) {
        let text = text.as_bytes();
        // One NUL at least ends the text.
        assert!(self.used + text.len() < CAPACITY, "the package's name or version is too long");
        let mut at = 0;
        while at < text.len() {
            self.bytes[self.used + at] = text[at];
            at += 1;
        }
        self.used += text.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_lines_of_text_ended_by_nul() {
        let stamp = stamp("echo", "1.2.3");
        let end = stamp.iter().position(|byte| *byte == 0).expect("a NUL");
        let text = std::str::from_utf8(&stamp[..end]).expect("text");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(MAGIC));
        assert_eq!(lines.next(), Some("package=echo"));
        assert_eq!(lines.next(), Some("version=1.2.3"));
        assert_eq!(lines.next(), Some(format!("api={}", crate::API_VERSION).as_str()));
        assert!(lines.next().is_some_and(|line| line.starts_with("rustc=rustc ")));
        assert!(stamp[end..].iter().all(|byte| *byte == 0));
    }
}
