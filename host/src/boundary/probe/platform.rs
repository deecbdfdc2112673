//! Checks whether this host can open a library: format, processor, word size and byte order. Reads
//! only headers.

use std::env::consts::ARCH;
use std::fmt;

use object::read::elf::FileHeader;
use object::{Endianness, elf};

use crate::error::probe::ProbeError;

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
