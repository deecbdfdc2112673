//! Reads what a library says of itself from its bytes, and refuses those that cannot be opened
//! safely. Runs nothing, maps nothing, and is total: no bytes make it panic or loop. What it
//! accepts may still be damaged where only a digest would tell.

use std::env::consts::ARCH;
use std::fmt;

use hotbay_plugin::stamp::{CAPACITY, MAGIC, SYMBOL};
use object::elf::{self, DynamicTag};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{
    Architecture, Endianness, ExportTarget, FileKind, NameOrOrdinal, Object, ObjectKind,
    ObjectSegment,
};

use crate::error::probe::ProbeError;

/// What a library says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    /// What the plugin was built from and with.
    pub(crate) stamp: Stamp,
    /// The shared libraries that it links, in its own order.
    pub(crate) needs: Vec<String>,
    /// Format, processor, word size and byte order, to be shown.
    pub(crate) platform: String,
}

/// What `export_plugin!` left in a library.
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

/// Checks that `bytes` are a whole plugin library for this host, and reads its stamp.
pub(crate) fn probe(bytes: &[u8]) -> Result<Probed, ProbeError> {
    on_image(bytes, |image| {
        image.check()?;
        let needs = image.needs()?;
        if let Some(library) = needs.iter().find(|name| is_shared_std(name)) {
            return Err(ProbeError::SharedStd { library: library.clone() });
        }
        let stamp = Stamp::parse(image.symbol(SYMBOL)?.ok_or(ProbeError::NoStamp)?)?;
        Ok(Probed { stamp, needs, platform: Platform::HERE.to_string() })
    })
}

/// The names that the library exports, sorted; demangled by nobody.
pub(crate) fn exports(bytes: &[u8]) -> Result<Vec<String>, ProbeError> {
    on_image(bytes, |image| {
        image.check()?;
        let mut names = image.exports()?;
        names.sort();
        names.dedup();
        Ok(names)
    })
}

/// Tells the libraries among `needs` that could start threads that nobody counts.
pub(crate) fn needs_only_known(needs: &[String]) -> Result<(), Vec<String>> {
    const KNOWN: [&str; 6] = ["libc", "libm", "libgcc_s", "libpthread", "libdl", "librt"];
    let is_known = |name: &str| {
        let (stem, rest) = name.split_once(".so").unwrap_or((name, ""));
        let is_versioned = rest.is_empty() || rest.starts_with('.');
        let is_loader = stem.starts_with("ld-linux") || matches!(stem, "ld64" | "ld");
        let is_musl = stem.starts_with("libc.musl-") || stem.starts_with("ld-musl-");
        let is_apple = name.starts_with("/usr/lib/libSystem.") || name == "/usr/lib/libiconv.2.dylib";
        is_versioned && (KNOWN.contains(&stem) || is_loader || is_musl) || is_apple
    };
    let unknown: Vec<String> = needs.iter().filter(|name| !is_known(name)).cloned().collect();
    if unknown.is_empty() { Ok(()) } else { Err(unknown) }
}

impl Stamp {
    /// Reads the text of a stamp, up to its first NUL; keys that it does not know are ignored.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ProbeError> {
        let bad = |why: String| ProbeError::BadStamp { why };
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| bad("is no UTF-8 text".into()))?;
        let mut lines = text.lines();
        let magic = lines.next().unwrap_or_default();
        if magic != MAGIC {
            let found = magic.chars().take(MAGIC.len()).collect::<String>();
            return Err(bad(format!("begins with `{}`, not `{MAGIC}`", found.escape_debug())));
        }
        const KEYS: [&str; 6] = ["package", "version", "api", "rustc", "target", "panic"];
        let mut values = [None::<&str>; KEYS.len()];
        for line in lines {
            let Some((key, value)) = line.split_once('=') else {
                return Err(bad(format!("has a line without `=`: `{}`", line.escape_debug())));
            };
            let Some(at) = KEYS.iter().position(|known| *known == key) else { continue };
            // Values are shown on terminals.
            if value.is_empty() || value.chars().any(char::is_control) {
                return Err(bad(format!("has no readable `{key}`")));
            }
            if values[at].replace(value).is_some() {
                return Err(bad(format!("states `{key}` twice")));
            }
        }
        let value = |at: usize| values[at].ok_or_else(|| bad(format!("lacks `{}`", KEYS[at])));
        let version = |at: usize| {
            let text = value(at)?;
            semver::Version::parse(text)
                .map_err(|error| bad(format!("has `{text}` as `{}`: {error}", KEYS[at])))
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

fn is_shared_std(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    let name = name.strip_prefix("lib").unwrap_or(name);
    name.starts_with("std-") || name.starts_with("rustc_driver")
}

/// What can be asked of a library, whatever its format.
trait Image<'d> {
    /// Refuses what is not whole or not for this host.
    fn check(&self) -> Result<(), ProbeError>;
    fn needs(&self) -> Result<Vec<String>, ProbeError>;
    /// The bytes from an exported symbol's address on, at most as many as a stamp may have.
    fn symbol(&self, name: &str) -> Result<Option<&'d [u8]>, ProbeError>;
    fn exports(&self) -> Result<Vec<String>, ProbeError>;
}

/// Finds out what `bytes` are and hands them on as an image.
fn on_image<T>(
    bytes: &[u8],
    job: impl FnOnce(&dyn Image<'_>) -> Result<T, ProbeError>,
) -> Result<T, ProbeError> {
    if bytes.is_empty() {
        return Err(ProbeError::Empty);
    }
    // `object` reads tables in place, so they must be aligned as in a mapping.
    let copy;
    let bytes = if (bytes.as_ptr() as usize).is_multiple_of(align_of::<u64>()) {
        bytes
    } else {
        copy = bytes.to_vec();
        &copy
    };
    if bytes.starts_with(&elf::ELFMAG) {
        // The class decides how everything else is read, so it comes before the header's length.
        let is_64 = bytes.get(4) == Some(&elf::ELFCLASS64.0);
        if is_64 {
            job(&Elf::<elf::FileHeader64<Endianness>>::read(bytes)?)
        } else {
            job(&Elf::<elf::FileHeader32<Endianness>>::read(bytes)?)
        }
    } else {
        use FileKind::{MachO32, MachO64, MachOFat32, MachOFat64, Pe32, Pe64};
        match FileKind::parse(bytes) {
            Ok(MachO32 | MachO64 | Pe32 | Pe64) => job(&Generic::read(bytes)?),
            Ok(MachOFat32 | MachOFat64) => Err(ProbeError::NotALibrary {
                looks_like: "a universal binary",
                advice: " for one processor; `lipo -thin` takes it out",
            }),
            _ => Err(not_a_library(bytes)),
        }
    }
}

/// Says what a file without machine code looks like.
fn not_a_library(bytes: &[u8]) -> ProbeError {
    let begins: [(&[u8], &str, &str); 9] = [
        (b"#!", "a script", ""),
        (b"!<arch>\n", "a static archive (`.a`, `.rlib`)", " instead of `rlib` or `staticlib`"),
        (b"!<thin>\n", "a static archive", ""),
        (b"PK\x03\x04", "a zip archive", "; unpack it first"),
        (b"\x1f\x8b", "a gzip archive", "; unpack it first"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive", "; unpack it first"),
        (b"\0asm", "a WebAssembly module", ""),
        (b"version https://git-lfs", "a Git LFS pointer", "; `git lfs pull` fetches it"),
        (b"MZ", "a Windows program that was cut off", ""),
    ];
    let known = begins.into_iter().find(|(magic, ..)| bytes.starts_with(magic));
    let head = &bytes[..bytes.len().min(512)];
    let is_text = |byte: &u8| matches!(byte, 0x20..=0x7e | 0x80.. | b'\n' | b'\r' | b'\t');
    let (looks_like, advice) = match known {
        Some((_, looks_like, advice)) => (looks_like, advice),
        None if head.iter().all(|byte| *byte == 0) => ("a hole of zeros", "; half-written?"),
        None if std::str::from_utf8(head).is_ok() && head.iter().all(is_text) => ("a text file", ""),
        None => ("no program file at all", ""),
    };
    ProbeError::NotALibrary { looks_like, advice }
}

/// What a library must be made for.
#[derive(PartialEq, Eq)]
struct Platform<'a> {
    format: &'a str,
    arch: &'a str,
    bits: usize,
    is_little_endian: bool,
}

impl Platform<'static> {
    const HERE: Self = Self {
        format: if cfg!(target_vendor = "apple") {
            "Mach-O"
        } else if cfg!(windows) {
            "PE"
        } else {
            "ELF"
        },
        arch: ARCH,
        bits: usize::BITS as usize,
        is_little_endian: cfg!(target_endian = "little"),
    };
}

impl Platform<'_> {
    fn check(&self) -> Result<(), ProbeError> {
        if *self == Platform::HERE {
            return Ok(());
        }
        let (found, wanted) = (self.to_string(), Platform::HERE.to_string());
        Err(ProbeError::WrongPlatform { found, wanted })
    }
}

impl fmt::Display for Platform<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endian = if self.is_little_endian { "little" } else { "big" };
        let Self { format, arch, bits, .. } = self;
        write!(f, "{format} for {arch}, {bits}-bit, {endian}-endian")
    }
}

fn malformed(what: impl Into<String>) -> ProbeError {
    ProbeError::Malformed { what: what.into() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
