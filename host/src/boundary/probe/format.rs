//! Code shared by the readers of all formats: the properties of a library, checks of positions, and
//! the check that this host can open it (format, processor, word size and byte order).

use std::collections::HashSet;
use std::env::consts::ARCH;
use std::fmt;

use object::read::elf::FileHeader;
use object::{Endianness, elf};

use crate::error::boundary::ProbeError;

/// A complete library for this host, of any format.
pub(super) trait Image<'d> {
    fn needs(&self) -> Result<Vec<String>, ProbeError>;
    /// Returns the bytes at an exported symbol's address, at most `limit`, and as many as the symbol
    /// has if the format says so.
    fn symbol(&self, name: &str, limit: u64) -> Result<Option<&'d [u8]>, ProbeError>;
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

/// Aligned bytes, as `object` requires: it reads tables in place.
pub(super) enum Aligned<'d> {
    Borrowed(&'d [u8]),
    Owned(Vec<u8>),
}

impl<'d> Aligned<'d> {
    pub(super) fn of(bytes: &'d [u8]) -> Self {
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

pub(super) fn malformed(what: impl Into<String>) -> ProbeError {
    ProbeError::Malformed { what: what.into() }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks that a part is inside the file.
pub(super) fn check_inside(
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

/// The platform of a library.
#[derive(PartialEq, Eq)]
pub(super) struct Platform<'a> {
    pub(super) format: &'a str,
    pub(super) arch: &'a str,
    pub(super) bits: usize,
    pub(super) is_little_endian: bool,
}

impl Platform<'static> {
    pub(super) const HERE: Self = Self {
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
    pub(super) fn check(&self) -> Result<(), ProbeError> {
        if *self == Platform::HERE {
            return Ok(());
        }
        let (found, expected) = (self.to_string(), Platform::HERE.to_string());
        Err(ProbeError::WrongPlatform { found, expected })
    }
}

impl fmt::Display for Platform<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endian = if self.is_little_endian { "little" } else { "big" };
        let Self { format, arch, bits, .. } = self;
        write!(f, "{format} for {arch}, {bits}-bit, {endian}-endian")
    }
}

pub(super) fn elf_platform(
    header: &impl FileHeader<Endian = Endianness>,
    endian: Endianness,
) -> Result<(), ProbeError> {
    let bits = if header.is_type_64() { 64 } else { 32 };
    let other;
    let arch = match (header.e_machine(endian), bits) {
        (elf::EM_X86_64, _) => "x86_64",
        (elf::EM_386, _) => "x86",
        (elf::EM_AARCH64, _) => "aarch64",
        (elf::EM_ARM, _) => "arm",
        (elf::EM_RISCV, 64) => "riscv64",
        (elf::EM_RISCV, _) => "riscv32",
        (elf::EM_PPC64, _) => "powerpc64",
        (elf::EM_PPC, _) => "powerpc",
        (elf::EM_S390, _) => "s390x",
        (elf::EM_LOONGARCH, 64) => "loongarch64",
        (elf::EM_LOONGARCH, _) => "loongarch32",
        (elf::EM_SPARCV9, _) => "sparc64",
        (elf::EM_MIPS, 64) => "mips64",
        (elf::EM_MIPS, _) => "mips",
        (machine, _) => {
            other = format!("processor {}", machine.0);
            &other
        }
    };
    // Linux rejects libraries of other systems; other systems mark theirs in their own ways.
    let os_abi = header.e_ident().os_abi;
    let is_foreign = cfg!(any(target_os = "linux", target_os = "android"))
        && !matches!(os_abi, elf::ELFOSABI_NONE | elf::ELFOSABI_GNU);
    let foreign_format;
    let format = if is_foreign {
        foreign_format = format!("ELF of another system (OS ABI {})", os_abi.0);
        &foreign_format
    } else {
        "ELF"
    };
    Platform { format, arch, bits, is_little_endian: endian == Endianness::Little }.check()
}
