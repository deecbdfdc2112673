//! Recognizes the kind of a program file by its first bytes.

use std::env::consts::ARCH;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};

use crate::error::Diagnosis;

/// The part of a file that is read; program headers and the linker's name come early.
const MAX_HEAD_BYTES: u64 = 64 * 1024;

/// The kind of a program file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ProgramFile {
    Missing,
    NotAFile,
    Unreadable,
    Empty,
    /// It begins with `#!`.
    Script {
        interpreter: PathBuf,
        argument: Option<String>,
        has_carriage_return: bool,
    },
    /// Text that does not begin with `#!`.
    Text,
    Elf(Elf),
    DamagedElf,
    /// A program for another system.
    Foreign(&'static str),
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    arch: &'static str,
    is_little_endian: bool,
    kind: Kind,
    /// The dynamic linker.
    interpreter: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Program,
    Library,
    ObjectFile,
}

impl ProgramFile {
    /// Inspects the file at `path`; never blocks, and runs nothing.
    pub(crate) fn inspect(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Self::NotAFile,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::Missing,
            Err(_) => return Self::Unreadable,
        }
        let mut head = Vec::new();
        // Non-blocking, in case the file was replaced by a pipe.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        match file.and_then(|file| file.take(MAX_HEAD_BYTES).read_to_end(&mut head)) {
            Ok(_) => Self::of_head(&head),
            Err(_) => Self::Unreadable,
        }
    }

    /// Recognizes a file by its first bytes.
    pub(crate) fn of_head(head: &[u8]) -> Self {
        match head {
            [] => Self::Empty,
            [b'#', b'!', rest @ ..] => script(rest),
            [0x7f, b'E', b'L', b'F', ..] => elf_of(head).map_or(Self::DamagedElf, Self::Elf),
            [b'M', b'Z', ..] => Self::Foreign("Windows"),
            [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => {
                Self::Foreign("macOS")
            }
            _ if head.iter().take(256).all(|&byte| is_text(byte)) => Self::Text,
            _ => Self::Unknown,
        }
    }

    /// Explains why this machine's kernel cannot run it, if the file shows that.
    pub(crate) fn why_not_runnable(&self) -> Option<Diagnosis> {
        Some(match self {
            Self::Empty => {
                Diagnosis::new("the file is empty", "build or install the program again")
            }
            Self::Text => Diagnosis::new(
                "it is a script without a `#!` line",
                "begin it with the interpreter, such as `#!/bin/sh`",
            ),
            Self::Foreign(system) => {
                Diagnosis::new(format!("it is a program for {system}"), "build it for this machine")
            }
            Self::DamagedElf => Diagnosis::new(
                "its ELF header is damaged or truncated",
                "build or install the program again",
            ),
            Self::Elf(elf) => return elf.why_not_runnable(),
            _ => return None,
        })
    }

    /// Names the interpreter or linker that it needs, if that is missing.
    pub(crate) fn missing_helper(&self) -> Option<Diagnosis> {
        let (message, hint) = match self {
            Self::Script { has_carriage_return: true, interpreter, .. } => (
                format!(
                    "its `#!` line ends with a carriage return, so the kernel searches for \
                     `{}\\r`",
                    interpreter.display()
                ),
                "save it with LF line endings",
            ),
            Self::Script { interpreter, .. } if !interpreter.exists() => (
                format!(
                    "its `#!` line needs the interpreter `{}`, which is not installed",
                    interpreter.display()
                ),
                "install it, or fix the line",
            ),
            Self::Elf(Elf { interpreter: Some(linker), .. }) if !linker.exists() => (
                format!(
                    "it needs the dynamic linker `{}`, which is not installed",
                    linker.display()
                ),
                "install the C library that it was built for, or link it statically",
            ),
            _ => return None,
        };
        Some(Diagnosis::new(message, hint))
    }

    /// Names the interpreter or linker that it needs, if that is not executable.
    pub(crate) fn not_executable_helper(&self) -> Option<Diagnosis> {
        let (Self::Script { interpreter: helper, .. }
        | Self::Elf(Elf { interpreter: Some(helper), .. })) = self
        else {
            return None;
        };
        let runs = helper.is_file() && mode_of(helper).is_some_and(|mode| mode & 0o111 != 0);
        (!runs).then(|| {
            let name = if matches!(self, Self::Elf(_)) { "dynamic linker" } else { "interpreter" };
            format!("it needs the {name} `{}`, which is not an executable file", helper.display())
                .into()
        })
    }

    /// Returns the command that `env` runs for a script, as the kernel passes it.
    pub(crate) fn command_of_env(&self) -> Option<&str> {
        match self {
            Self::Script { interpreter, argument, .. } if interpreter.ends_with("env") => {
                argument.as_deref()
            }
            _ => None,
        }
    }

    /// Returns whether it is a library without an entry point.
    pub(crate) fn is_library(&self) -> bool {
        matches!(self, Self::Elf(Elf { kind: Kind::Library, .. }))
    }
}

impl Elf {
    fn why_not_runnable(&self) -> Option<Diagnosis> {
        if self.kind == Kind::ObjectFile {
            return Some("it is an object file, not a linked program".into());
        }
        let runs_here = match (ARCH, self.arch) {
            ("x86_64", "x86") | ("aarch64", "arm") => true,
            (here, arch) => here == arch && self.is_little_endian == cfg!(target_endian = "little"),
        };
        let order = match (self.arch == ARCH, self.is_little_endian) {
            (false, _) => "",
            (true, true) => ", little-endian",
            (true, false) => ", big-endian",
        };
        (!runs_here).then(|| {
            let arch = self.arch;
            Diagnosis::new(
                format!("it is built for {arch}{order}, but this machine is {ARCH}"),
                format!("build it for {ARCH}"),
            )
        })
    }
}

/// Returns the permission bits of a file.
pub(crate) fn mode_of(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.permissions().mode() & 0o7777)
}

/// Returns the diagnosis of a file that no user may execute.
pub(crate) fn without_execute_permission(path: &Path) -> Option<Diagnosis> {
    let mode = mode_of(path).filter(|mode| mode & 0o111 == 0)?;
    Some(Diagnosis::new(
        format!("the file is not executable (mode {mode:04o})"),
        format!("run `chmod +x {}`", path.display()),
    ))
}

/// Parses the line after `#!`: the kernel passes everything after the interpreter as one argument.
fn script(rest: &[u8]) -> ProgramFile {
    let line = rest.split(|&byte| byte == b'\n').next().unwrap_or(rest);
    let has_carriage_return = line.ends_with(b"\r");
    let line = line.trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(end);
    let argument = String::from_utf8_lossy(argument.trim_ascii()).into_owned();
    ProgramFile::Script {
        interpreter: PathBuf::from(std::ffi::OsStr::from_bytes(interpreter)),
        has_carriage_return: has_carriage_return && argument.is_empty(),
        argument: Some(argument).filter(|argument| !argument.is_empty()),
    }
}

fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || matches!(byte, b'\n' | b'\r' | b'\t' | 0x0c)
}

fn elf_of(head: &[u8]) -> Option<Elf> {
    if head.get(4) == Some(&elf::ELFCLASS64.0) {
        read_elf::<elf::FileHeader64<Endianness>>(head)
    } else {
        read_elf::<elf::FileHeader32<Endianness>>(head)
    }
}

fn read_elf<H: FileHeader<Endian = Endianness>>(head: &[u8]) -> Option<Elf> {
    let header = H::parse(head).ok()?;
    let endian = header.endian().ok()?;
    let program_headers = header.program_headers(endian, head).unwrap_or(&[]);
    let interpreter = program_headers
        .iter()
        .find_map(|header| header.interpreter(endian, head).ok().flatten())
        .map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name)));
    let entry: u64 = header.e_entry(endian).into();
    let kind = match header.e_type(endian) {
        elf::ET_REL => Kind::ObjectFile,
        elf::ET_DYN if interpreter.is_none() && entry == 0 => Kind::Library,
        _ => Kind::Program,
    };
    let arch = arch(header.e_machine(endian), header.is_type_64());
    Some(Elf { arch, is_little_endian: endian == Endianness::Little, kind, interpreter })
}

/// Returns Rust's name of a processor.
fn arch(machine: elf::Machine, is_64: bool) -> &'static str {
    match (machine, is_64) {
        (elf::EM_X86_64, _) => "x86_64",
        (elf::EM_386, _) => "x86",
        (elf::EM_AARCH64, _) => "aarch64",
        (elf::EM_ARM, _) => "arm",
        (elf::EM_RISCV, true) => "riscv64",
        (elf::EM_RISCV, false) => "riscv32",
        (elf::EM_PPC64, _) => "powerpc64",
        (elf::EM_PPC, _) => "powerpc",
        (elf::EM_S390, _) => "s390x",
        (elf::EM_LOONGARCH, _) => "loongarch64",
        (elf::EM_SPARCV9, _) => "sparc64",
        (elf::EM_MIPS, true) => "mips64",
        (elf::EM_MIPS, false) => "mips",
        _ => "another processor",
    }
}

#[cfg(test)]
pub(crate) mod examples {
    //! Handwritten ELF headers.

    use object::elf;

    /// The processors of this machine and of another one.
    pub(crate) const HERE: elf::Machine =
        if cfg!(target_arch = "x86_64") { elf::EM_X86_64 } else { elf::EM_AARCH64 };
    pub(crate) const OTHER: elf::Machine =
        if cfg!(target_arch = "x86_64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };

    /// Returns a 64-bit little-endian program whose only segment names its dynamic linker.
    pub(crate) fn elf(machine: elf::Machine, linker: Option<&str>) -> Vec<u8> {
        file(elf::ET_EXEC, machine, 0x1000, linker)
    }

    pub(crate) fn library() -> Vec<u8> {
        file(elf::ET_DYN, HERE, 0, None)
    }

    pub(crate) fn file(
        kind: elf::FileType,
        machine: elf::Machine,
        entry: u64,
        linker: Option<&str>,
    ) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(16, &kind.0.to_le_bytes());
        put(18, &machine.0.to_le_bytes());
        put(20, &[1]);
        put(24, &entry.to_le_bytes());
        put(32, &[64]); // the offset of the program headers
        put(52, &[64, 0, 56, 0, u8::from(linker.is_some())]); // their sizes and number
        if let Some(linker) = linker {
            let length = (linker.len() + 1) as u64;
            let (interp, readable) = (3_u32, 4_u32);
            bytes.extend(interp.to_le_bytes());
            bytes.extend(readable.to_le_bytes());
            for value in [120, 0, 0, length, length, 1_u64] {
                bytes.extend(value.to_le_bytes());
            }
            bytes.extend(linker.as_bytes());
            bytes.push(0);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::examples::*;
    use super::*;
    use proptest::prelude::*;

    fn check_script(text: &str, path: &str, argument: Option<&str>, has_carriage_return: bool) {
        let argument = argument.map(str::to_owned);
        let expect =
            ProgramFile::Script { interpreter: path.into(), argument, has_carriage_return };
        assert_eq!(ProgramFile::of_head(text.as_bytes()), expect, "{text:?}");
    }

    #[test]
    fn shebang_line_is_parsed() {
        check_script("#!/bin/sh\nexit", "/bin/sh", None, false);
        check_script("#! /bin/sh -e -u \nexit", "/bin/sh", Some("-e -u"), false);
        check_script("#!/usr/bin/env python3", "/usr/bin/env", Some("python3"), false);
        check_script("#!/bin/sh\r\nexit", "/bin/sh", None, true);
        check_script("#!", "", None, false);
    }

    #[test]
    fn elf_file_is_recognized() {
        let check = |bytes: &[u8], expect: Option<&str>| {
            let why = ProgramFile::of_head(bytes).why_not_runnable();
            assert_eq!(why.as_ref().map(|why| &why.message[..15]), expect.map(|why| &why[..15]));
        };
        check(&elf(HERE, None), None);
        check(&elf(HERE, Some("/lib/ld.so")), None);
        check(&elf(OTHER, None), Some("it is built for "));
        check(&file(elf::ET_REL, HERE, 0, None), Some("it is an object file"));
        check(&elf(HERE, None)[..40], Some("its ELF header is damaged"));
        assert!(ProgramFile::of_head(&library()).is_library());
        assert!(!ProgramFile::of_head(&file(elf::ET_DYN, HERE, 64, None)).is_library());
    }

    #[test]
    fn test_program_itself_is_runnable() {
        let program = ProgramFile::inspect(&std::env::current_exe().unwrap());
        let problems = (program.why_not_runnable(), program.missing_helper());
        assert_eq!(
            (problems, program.not_executable_helper()),
            ((None, None), None),
            "{program:?}"
        );
        assert!(cfg!(not(target_os = "linux")) || matches!(program, ProgramFile::Elf(_)));
    }

    proptest! {
        #[test]
        fn of_head_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..40), at in any::<prop::sample::Index>(),
        ) {
            let _ = ProgramFile::of_head(&bytes);
            let mut damaged = elf(HERE, Some("/lib/ld.so"));
            let at = at.index(damaged.len());
            damaged.splice(at.., bytes);
            let program = ProgramFile::of_head(&damaged);
            let _ = (program.why_not_runnable(), program.missing_helper());
        }
    }
}
