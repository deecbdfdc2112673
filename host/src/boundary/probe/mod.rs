//! Reads the stamp and the properties of a library from its bytes, and rejects libraries that
//! cannot be opened safely. Runs and maps nothing; no bytes make it panic or loop. It cannot detect
//! damage that only a digest shows.

mod elf;
mod generic;
mod platform;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(crate) mod relink;
mod stamp;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;

use hotbay_plugin::abi::{CALLBACKS, Callback};
use hotbay_plugin::stamp::SYMBOL;
use object::{Endianness, FileKind};

use crate::error::probe::ProbeError;
use elf::Elf;
use generic::Generic;
use platform::Platform;
pub(crate) use stamp::Stamp;

/// The stamp and the properties of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    /// The sources and tools that the plugin was built with.
    pub(crate) stamp: Stamp,
    /// The shared libraries that it links, in their order in the file.
    pub(crate) needs: Vec<String>,
    /// Format, processor, word size and byte order, for messages.
    pub(crate) platform: String,
    /// The reason the loader never unmaps it, according to the file.
    pub(crate) pin: Option<Pin>,
    /// Whether it uses static thread-local storage, which is scarce for libraries that are opened
    /// at run time.
    pub(crate) is_static_tls: bool,
    /// Functions and variables of the C library through which it may be called back, and which it
    /// imports directly, so that the SDK does not record the use.
    pub(crate) callbacks: Vec<&'static Callback>,
}

/// The reason the loader never unmaps a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pin {
    /// It is marked `DF_1_NODELETE`.
    NoDelete,
    /// It defines symbols that are unique in the process: `STB_GNU_UNIQUE`. Contains the first one
    /// and their number.
    UniqueSymbols { first: String, count: usize },
}

/// Formats the reason as a sentence about the library.
impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDelete => f.write_str("it is linked with `-z nodelete`"),
            Self::UniqueSymbols { first, count: 1 } => {
                write!(f, "it defines the unique symbol `{first}`")
            }
            Self::UniqueSymbols { first, count } => {
                write!(f, "it defines {count} unique symbols, the first of them `{first}`")
            }
        }
    }
}

/// Checks that `bytes` are a complete plugin library for this host, and reads its stamp.
pub(crate) fn probe(bytes: &[u8]) -> Result<Probed, ProbeError> {
    on_image(bytes, |image| {
        let needs = image.needs()?;
        if let Some(library) = needs.iter().find(|name| is_shared_std(name)) {
            return Err(ProbeError::SharedStd { library: library.clone() });
        }
        let stamp = Stamp::parse(image.symbol(SYMBOL)?.ok_or(ProbeError::NoStamp)?)?;
        let imports = image.imports()?;
        let is_imported = |callback: &&Callback| imports.contains(callback.name.as_bytes());
        let callbacks = CALLBACKS.iter().filter(is_imported).collect();
        let (pin, is_static_tls) = (image.pin(), image.is_static_tls());
        let platform = Platform::HERE.to_string();
        Ok(Probed { stamp, needs, platform, pin, is_static_tls, callbacks })
    })
}

/// Returns the names that the library exports, sorted and not demangled.
pub(crate) fn exports(bytes: &[u8]) -> Result<Vec<String>, ProbeError> {
    on_image(bytes, |image| {
        let mut names = image.exports()?;
        names.sort();
        names.dedup();
        Ok(names)
    })
}

/// Returns the libraries among `needs` that are not known to start no threads.
pub(crate) fn needs_only_known(needs: &[String]) -> Result<(), Vec<String>> {
    const KNOWN: [&str; 6] = ["libc", "libm", "libgcc_s", "libpthread", "libdl", "librt"];
    let is_known = |name: &str| {
        let (stem, rest) = name.split_once(".so").unwrap_or((name, ""));
        let is_versioned = rest.is_empty() || rest.starts_with('.');
        let is_loader = stem.starts_with("ld-linux") || matches!(stem, "ld64" | "ld");
        let is_musl = stem.starts_with("libc.musl-") || stem.starts_with("ld-musl-");
        let is_apple =
            name.starts_with("/usr/lib/libSystem.") || name == "/usr/lib/libiconv.2.dylib";
        is_versioned && (KNOWN.contains(&stem) || is_loader || is_musl) || is_apple
    };
    let unknown: Vec<String> = needs.iter().filter(|name| !is_known(name)).cloned().collect();
    if unknown.is_empty() { Ok(()) } else { Err(unknown) }
}

fn is_shared_std(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    let name = name.strip_prefix("lib").unwrap_or(name);
    name.starts_with("std-") || name.starts_with("rustc_driver")
}

/// A complete library for this host, of any format.
trait Image<'d> {
    fn needs(&self) -> Result<Vec<String>, ProbeError>;
    /// Returns the bytes at an exported symbol's address, at most as many as a stamp may have.
    fn symbol(&self, name: &str) -> Result<Option<&'d [u8]>, ProbeError>;
    fn exports(&self) -> Result<Vec<String>, ProbeError>;
    /// Returns the names that it imports; empty if the format does not decide their use.
    fn imports(&self) -> Result<HashSet<&'d [u8]>, ProbeError> {
        Ok(HashSet::new())
    }
    /// Returns why the loader never unmaps it, according to the file.
    fn pin(&self) -> Option<Pin> {
        None
    }
    /// Returns whether it uses static thread-local storage.
    fn is_static_tls(&self) -> bool {
        false
    }
}

/// Aligned bytes, as `object` requires: it reads tables in place.
enum Aligned<'d> {
    Borrowed(&'d [u8]),
    Owned(Vec<u8>),
}

impl<'d> Aligned<'d> {
    fn of(bytes: &'d [u8]) -> Self {
        if (bytes.as_ptr() as usize).is_multiple_of(align_of::<u64>()) {
            return Self::Borrowed(bytes);
        }
        Self::Owned(bytes.to_vec())
    }
}

impl std::ops::Deref for Aligned<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Detects the format of `bytes` and passes them to `job` as an image.
fn on_image<T>(
    bytes: &[u8],
    job: impl FnOnce(&dyn Image<'_>) -> Result<T, ProbeError>,
) -> Result<T, ProbeError> {
    if bytes.is_empty() {
        return Err(ProbeError::Empty);
    }
    let bytes = &*Aligned::of(bytes);
    if bytes.starts_with(&object::elf::ELFMAG) {
        // The class decides how the rest is read, so it is checked before the length.
        let is_64 = bytes.get(4) == Some(&object::elf::ELFCLASS64.0);
        if is_64 {
            job(&Elf::<object::elf::FileHeader64<Endianness>>::read(bytes)?)
        } else {
            job(&Elf::<object::elf::FileHeader32<Endianness>>::read(bytes)?)
        }
    } else {
        use FileKind::{MachO32, MachO64, MachOFat32, MachOFat64, Pe32, Pe64};
        match FileKind::parse(bytes) {
            Ok(MachO32 | MachO64 | Pe32 | Pe64) => job(&Generic::read(bytes)?),
            Ok(MachOFat32 | MachOFat64) => Err(ProbeError::NotALibrary {
                looks_like: "a universal binary",
                hint: Some("extract the library for this processor with `lipo -thin`"),
            }),
            _ => Err(not_a_library(bytes)),
        }
    }
}

/// Returns an error that describes a file without machine code.
fn not_a_library(bytes: &[u8]) -> ProbeError {
    const UNPACK: Option<&str> = Some("unpack it first");
    const MAGICS: [(&[u8], &str, Option<&str>); 9] = [
        (b"#!", "a script", None),
        (b"!<arch>\n", "a static archive (`.a`, `.rlib`)", Some("remove `rlib` and `staticlib`")),
        (b"!<thin>\n", "a static archive", None),
        (b"PK\x03\x04", "a zip archive", UNPACK),
        (b"\x1f\x8b", "a gzip archive", UNPACK),
        (b"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
        (b"\0asm", "a WebAssembly module", None),
        (b"version https://git-lfs", "a Git LFS pointer", Some("fetch it with `git lfs pull`")),
        (b"MZ", "a truncated Windows program", None),
    ];
    let known = MAGICS.into_iter().find(|(magic, ..)| bytes.starts_with(magic));
    let head = &bytes[..bytes.len().min(512)];
    let is_text = |byte: &u8| matches!(byte, 0x20..=0x7e | 0x80.. | b'\n' | b'\r' | b'\t');
    let (looks_like, hint) = match known {
        Some((_, looks_like, hint)) => (looks_like, hint),
        None if head.iter().all(|byte| *byte == 0) => {
            ("a block of zeros", Some("build or copy the file again; it may be incomplete"))
        }
        None if std::str::from_utf8(head).is_ok() && head.iter().all(is_text) => {
            ("a text file", None)
        }
        None => ("data of an unknown format", None),
    };
    ProbeError::NotALibrary { looks_like, hint }
}

fn malformed(what: impl Into<String>) -> ProbeError {
    ProbeError::Malformed { what: what.into() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks that a part is inside the file.
fn check_inside(
    bytes: &[u8],
    what: impl fmt::Display,
    offset: u64,
    size: u64,
) -> Result<(), ProbeError> {
    let length = bytes.len() as u64;
    let end = offset.saturating_add(size);
    if end > length {
        return Err(ProbeError::Truncated { what: what.to_string(), end, length });
    }
    Ok(())
}
