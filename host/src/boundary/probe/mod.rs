//! Reads the stamp and the properties of a library from its bytes, and rejects libraries that
//! cannot be opened safely. Runs and maps nothing; no bytes make it panic or loop. It cannot detect
//! damage that only a digest shows.

mod elf;
mod format;
mod generic;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(crate) mod relink;
#[cfg(test)]
mod tests;

use hotbay_plugin::abi::{CALLBACKS, Callback};
use hotbay_plugin::contract::ContractText;
use hotbay_plugin::contract::internal as contract;
use hotbay_plugin::stamp::{MAGIC, SYMBOL};
use hotbay_plugin::text::{Lines, is_escaped};
use object::{Endianness, FileKind};

use crate::error::boundary::ProbeError;
use elf::Elf;
pub(crate) use format::Pin;
use format::{Aligned, Image, Platform};
use generic::Generic;

/// Maximum bytes of a stamp that are read, in case a later version is longer.
const MAX_STAMP_BYTES: u64 = 4096;

/// The stamp and the properties of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    /// The sources and tools that the plugin was built with.
    pub(crate) stamp: Stamp,
    /// The contracts that the plugin serves.
    pub(crate) contracts: Vec<ContractText>,
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

/// Checks that `bytes` are a complete plugin library for this host, and reads its stamp.
pub(crate) fn probe(bytes: &[u8]) -> Result<Probed, ProbeError> {
    on_image(bytes, |image| {
        let needs = image.needs()?;
        if let Some(library) = needs.iter().find(|name| is_shared_std(name)) {
            return Err(ProbeError::SharedStd { library: library.clone() });
        }
        let stamp = image.symbol(SYMBOL, MAX_STAMP_BYTES)?.ok_or(ProbeError::NoStamp)?;
        let stamp = Stamp::parse(stamp)?;
        let contracts = match image.symbol(contract::SYMBOL, contract::MAX_TEXT_BYTES as u64)? {
            Some(text) => contracts_of(text)?,
            None => Vec::new(),
        };
        let imports = image.imports()?;
        let is_imported = |callback: &&Callback| imports.contains(callback.name.as_bytes());
        let callbacks = CALLBACKS.iter().filter(is_imported).collect();
        let (pin, is_static_tls) = (image.pin(), image.is_static_tls());
        let platform = Platform::HERE.to_string();
        Ok(Probed { stamp, contracts, needs, platform, pin, is_static_tls, callbacks })
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

/// Checks that all libraries in `needs` are known to start no threads; returns the others as the
/// error.
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
        (
            b"!<arch>\n",
            "a static archive (`.a`, `.rlib`)",
            Some("install the shared library that `crate-type = [\"cdylib\"]` builds"),
        ),
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

/// Parses the text of the contracts that a library exports.
fn contracts_of(text: &[u8]) -> Result<Vec<ContractText>, ProbeError> {
    let bad = |why: String| ProbeError::BadContracts { why };
    if !text.contains(&0) {
        return Err(bad("it does not end with a NUL".to_owned()));
    }
    ContractText::parse_exported(text).map_err(|error| bad(error.to_string()))
}

/// The stamp of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) package: String,
    pub(crate) version: semver::Version,
    /// The version of `hotbay-plugin` that it was built with.
    pub(crate) api: semver::Version,
    pub(crate) rustc: String,
    pub(crate) target: String,
    pub(crate) panic: String,
}

impl Stamp {
    /// Parses the text of a stamp up to the first NUL. Unknown keys are ignored.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ProbeError> {
        let bad = |why: String| ProbeError::BadStamp { why };
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| bad("is not UTF-8 text".into()))?;
        let mut lines = text.lines();
        let magic = lines.next().unwrap_or_default();
        if magic != MAGIC {
            let found = magic.chars().take(MAGIC.len()).collect::<String>();
            return Err(bad(format!("begins with `{}`; expected `{MAGIC}`", found.escape_debug())));
        }
        const KEYS: [&str; 6] = ["package", "version", "api", "rustc", "target", "panic"];
        let mut values = [None::<&str>; KEYS.len()];
        for line in lines {
            let Some((key, value)) = line.split_once('=') else {
                return Err(bad(format!("has a line without `=`: `{}`", line.escape_debug())));
            };
            let Some(at) = KEYS.iter().position(|known| *known == key) else {
                continue;
            };
            // Values are printed to terminals.
            if value.is_empty() || value.chars().any(|char| is_escaped(char, Lines::One)) {
                return Err(bad(format!("has an empty or unprintable `{key}`")));
            }
            if values[at].replace(value).is_some() {
                return Err(bad(format!("contains `{key}` twice")));
            }
        }
        let value = |at: usize| values[at].ok_or_else(|| bad(format!("has no `{}`", KEYS[at])));
        let version = |at: usize| {
            let text = value(at)?;
            semver::Version::parse(text).map_err(|error| {
                bad(format!("has the invalid version `{text}` in `{}`: {error}", KEYS[at]))
            })
        };
        Ok(Self {
            package: value(0)?.to_owned(),
            version: version(1)?,
            api: version(2)?,
            rustc: value(3)?.to_owned(),
            target: value(4)?.to_owned(),
            panic: value(5)?.to_owned(),
        })
    }
}
