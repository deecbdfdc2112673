//! Why a program did not start, and what to do about it.
//! Looks at the file and at what was written to stderr; runs nothing and decides nothing.

mod exit;
mod program;
mod words;

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::lines::Tail;
pub(crate) use exit::of_exit;
use program::{Program, mode_of};

/// Why `program` is none, if its file shows that: a shell reads what the kernel refuses.
pub(crate) fn of_file(program: &Path) -> Option<String> {
    Program::look(program).why_not_runnable()
}

/// What a program wrote, introduced: its last lines, and before its start also the first ones.
/// None if it wrote nothing.
pub(crate) fn last_words(tail: &Tail) -> Option<String> {
    words::told(tail)
}

/// Why `program` could not be run at all, given the `error` of the attempt. One or two lines.
pub(crate) fn of_spawn(error: &io::Error, program: &Path) -> String {
    let mut told = format!("cannot run `{}`: {error}", program.display());
    if let Some(cause) = cause(error, program) {
        // Infallible for a String.
        let _ = write!(told, "\n{cause}");
    }
    told
}

fn cause(error: &io::Error, path: &Path) -> Option<String> {
    let program = Program::look(path);
    Some(match error.raw_os_error()? {
        libc::ENOENT => missing(path, &program),
        libc::ENOTDIR => "a part of its path is a file, not a folder; mend the path".to_owned(),
        libc::EACCES | libc::EPERM => not_permitted(path, &program),
        libc::ENOEXEC => program.why_not_runnable().unwrap_or_else(|| {
            "the kernel does not know the format of the file; build it for this machine".to_owned()
        }),
        libc::ETXTBSY => "the file is open for writing; start it when the copy is done".to_owned(),
        libc::EMFILE | libc::ENFILE => {
            "this process or machine has too many files open; raise `ulimit -n`".to_owned()
        }
        libc::EAGAIN => {
            "this user or group has too many processes; raise `ulimit -u` or the limit on tasks"
                .to_owned()
        }
        libc::ENOMEM => "there is not enough memory for another process".to_owned(),
        libc::E2BIG => {
            "its config, arguments and environment are too long for a command line; make the \
             config shorter, or let the program read it from a file (HOTBAY_CONFIG_FILE)"
                .to_owned()
        }
        _ => return program.why_not_runnable(),
    })
}

fn missing(path: &Path, program: &Program) -> String {
    match program {
        Program::Missing => match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(folder) if !folder.exists() => {
                format!("there is no folder `{}`; install the program again", folder.display())
            }
            _ => "there is no such file; build or install the program, or mend its path".to_owned(),
        },
        _ => program.missing_helper().unwrap_or_else(|| {
            "the file is there; what is missing may be the folder it should start in".to_owned()
        }),
    }
}

fn not_permitted(path: &Path, program: &Program) -> String {
    if matches!(program, Program::NotAFile) {
        return "it is a folder or a device, not a program; mend the path".to_owned();
    }
    match mode_of(path) {
        Some(mode) if mode & 0o111 == 0 => {
            format!(
                "the file is not executable (mode {mode:04o}); run `chmod +x {}`",
                path.display()
            )
        }
        Some(mode) => program.not_executable_helper().unwrap_or_else(|| {
            format!(
                "the file has mode {mode:04o}; it may be closed to this user, or be on a file \
                 system that is mounted with `noexec`"
            )
        }),
        None => "a folder above it is closed to this user".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::program::examples::*;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A file with `bytes` and `mode`, and what is told when running it fails with `code`.
    fn told(bytes: &[u8], mode: u32, code: i32) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let told = of_spawn(&io::Error::from_raw_os_error(code), &path);
        assert!(told.starts_with(&format!("cannot run `{}`: ", path.display())), "{told}");
        assert!(told.lines().count() <= 3, "{told}");
        told.lines().nth(1).unwrap_or("").to_owned()
    }

    fn check(bytes: &[u8], mode: u32, code: i32, expect: &str) {
        let told = told(bytes, mode, code);
        assert!(told.contains(expect), "`{expect}` in: {told}");
    }

    #[test]
    fn a_file_or_a_folder_that_is_missing_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        let cases = [("none", "there is no such file"), ("no/none", "there is no folder `")];
        for (path, expect) in cases {
            let told = of_spawn(&error, &folder.path().join(path));
            assert!(told.contains(expect), "{told}");
        }
        let told = of_spawn(&io::Error::from_raw_os_error(libc::EACCES), folder.path());
        assert!(told.contains("it is a folder or a device"), "{told}");
    }

    #[test]
    fn a_helper_that_is_missing_is_named() {
        let script = b"#!/nowhere/python3 -u\nprint()\n";
        check(
            script,
            0o755,
            libc::ENOENT,
            "wants the interpreter `/nowhere/python3`, which is not",
        );
        check(b"#!/bin/sh\r\nexit\r\n", 0o755, libc::ENOENT, "ends with a carriage return");
        let program = elf(HERE, Some("/nowhere/ld-musl.so.1"));
        check(&program, 0o755, libc::ENOENT, "wants the dynamic linker `/nowhere/ld-musl.so.1`");
        check(b"#!/bin/sh\n", 0o755, libc::ENOENT, "the folder it should start in");
    }

    #[test]
    fn a_file_that_is_not_executable_is_told_with_its_mode() {
        check(
            b"#!/bin/sh\n",
            0o644,
            libc::EACCES,
            "is not executable (mode 0644); run `chmod +x /",
        );
        check(b"#!/bin/sh\n", 0o755, libc::EACCES, "mode 0755; it may be closed to this user");
        check(
            b"#!/\n",
            0o755,
            libc::EACCES,
            "wants the interpreter `/`, which is not an executable",
        );
    }

    #[test]
    fn a_file_of_the_wrong_kind_is_told() {
        let noexec = |bytes: &[u8], expect: &str| check(bytes, 0o755, libc::ENOEXEC, expect);
        let other = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86_64" };
        let here = std::env::consts::ARCH;
        noexec(&elf(OTHER, None), &format!("built for {other}, this machine is {here}"));
        noexec(b"", "the file is empty");
        noexec(b"echo hello\n", "a script without a `#!` line");
        noexec(b"MZ\x90\0", "a program for Windows");
        noexec(b"\xcf\xfa\xed\xfe\x07\0", "a program for macOS");
        noexec(b"\x7fELF", "damaged");
        noexec(b"\0\x01\x02", "does not know the format");
    }

    #[test]
    fn what_the_machine_has_no_room_for_is_told() {
        check(b"#!/bin/sh\n", 0o755, libc::ETXTBSY, "open for writing");
        check(b"#!/bin/sh\n", 0o755, libc::EMFILE, "too many files open");
        check(b"#!/bin/sh\n", 0o755, libc::EAGAIN, "too many processes");
        check(b"#!/bin/sh\n", 0o755, libc::E2BIG, "too long for a command line");
        assert_eq!(told(b"#!/bin/sh\n", 0o755, libc::EINTR), "");
    }
}
