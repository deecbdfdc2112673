//! The stamp: text inside a plugin's library that identifies it before any of its code runs.
//!
//! It is an exported static without pointers, so it needs no relocation and can be read from the
//! file. [`MAGIC`] is followed by lines of `key=value`; readers ignore unknown keys.

/// The exported symbol of the stamp.
pub const SYMBOL: &str = "HOTBAY_PLUGIN_STAMP";

/// The first line of a stamp, without the line end.
pub const MAGIC: &str = "HOTBAY-STAMP 1";

/// Size of a stamp in bytes; the text is padded with NULs.
pub const CAPACITY: usize = 512;

/// The bytes of a stamp.
pub type StampBytes = [u8; CAPACITY];

/// Creates the stamp of a package at compile time.
///
/// # Panics
///
/// Panics at compile time if the text has [`CAPACITY`] bytes or more.
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
        // At least one NUL terminates the text.
        assert!(
            self.used + text.len() < CAPACITY,
            "the package name or version is too long for the stamp"
        );
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
    fn stamp_is_text_lines_terminated_by_nul() {
        let stamp = stamp("echo", "1.2.3");
        let end = stamp.iter().position(|byte| *byte == 0).expect("NUL");
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
