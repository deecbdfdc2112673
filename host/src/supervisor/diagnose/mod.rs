//! Explains why a program did not start, and how to fix it. Inspects the file and its output on
//! stderr; runs nothing and decides nothing.

mod exit;
mod program;
mod words;

use std::io;
use std::path::Path;

use super::lines::Tail;
use crate::error::Diagnosis;
pub(crate) use exit::of_exit;
use program::{Program, mode_of, without_execute_permission};

/// Explains from its file why `program` is not executable: the C library runs a file that the
/// kernel rejects with a shell.
pub(crate) fn of_file(program: &Path) -> Option<Diagnosis> {
    Program::inspect(program).why_not_runnable()
}

/// Returns the program's output with a heading: the last lines, and also the first ones if it has
/// not started. `None` if there was no output.
pub(crate) fn output_of(tail: &Tail) -> Option<String> {
    words::output(tail)
}

/// Explains why `program` could not be executed, given the `error` of the attempt. One or two
/// lines.
pub(crate) fn of_spawn(error: &io::Error, program: &Path) -> Diagnosis {
    let message = format!("cannot run `{}`: {error}", program.display());
    match cause(error, program) {
        Some(cause) => cause.map_message(|cause| format!("{message}\n{cause}")),
        None => message.into(),
    }
}

fn cause(error: &io::Error, path: &Path) -> Option<Diagnosis> {
    let program = Program::inspect(path);
    Some(match error.raw_os_error()? {
        libc::ENOENT => missing(path, &program),
        libc::ENOTDIR => {
            Diagnosis::new("a part of its path is a file, not a folder", "fix the path")
        }
        libc::EACCES | libc::EPERM => not_permitted(path, &program),
        libc::ENOEXEC => program.why_not_runnable().unwrap_or_else(|| {
            Diagnosis::new(
                "the kernel does not recognize the file format",
                "build it for this machine",
            )
        }),
        libc::ETXTBSY => {
            Diagnosis::new("the file is open for writing", "start it after the copy is done")
        }
        libc::EMFILE | libc::ENFILE => {
            Diagnosis::new("this process or machine has too many open files", "raise `ulimit -n`")
        }
        libc::EAGAIN => Diagnosis::new(
            "this user or group has too many processes",
            "raise `ulimit -u` or the limit on tasks",
        ),
        libc::ENOMEM => "not enough memory to start another process".into(),
        libc::E2BIG => Diagnosis::new(
            "its config, arguments and environment are too long for a command line",
            "shorten the config, or let the program read it from a file (HOTBAY_CONFIG_FILE)",
        ),
        _ => return program.why_not_runnable(),
    })
}

fn missing(path: &Path, program: &Program) -> Diagnosis {
    match program {
        Program::Missing => match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(folder) if !folder.exists() => Diagnosis::new(
                format!("folder `{}` not found", folder.display()),
                "install the program again",
            ),
            _ => Diagnosis::new("file not found", "build or install the program, or fix its path"),
        },
        _ => program
            .missing_helper()
            .unwrap_or_else(|| "the file exists, so its working directory may be missing".into()),
    }
}

fn not_permitted(path: &Path, program: &Program) -> Diagnosis {
    if matches!(program, Program::NotAFile) {
        return Diagnosis::new("it is a folder or a device, not a program", "fix the path");
    }
    if let Some(diagnosis) = without_execute_permission(path) {
        return diagnosis;
    }
    match mode_of(path) {
        Some(mode) => program.not_executable_helper().unwrap_or_else(|| {
            format!(
                "the file has mode {mode:04o}; it may be inaccessible to this user, or on a file \
                 system mounted with `noexec`"
            )
            .into()
        }),
        None => "this user cannot access one of its parent folders".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::program::examples::*;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Creates a file with `bytes` and `mode`, and returns the cause and the hint reported when
    /// running it fails with `code`.
    fn reported_cause(bytes: &[u8], mode: u32, code: i32) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let Diagnosis { message, hint } = of_spawn(&io::Error::from_raw_os_error(code), &path);
        assert!(message.starts_with(&format!("cannot run `{}`: ", path.display())), "{message}");
        assert!(message.lines().count() <= 2, "{message}");
        let cause = message.lines().nth(1).unwrap_or("");
        hint.map_or_else(|| cause.to_owned(), |hint| format!("{cause}\nhint: {hint}"))
    }

    fn check(bytes: &[u8], mode: u32, code: i32, expect: &str) {
        let cause = reported_cause(bytes, mode, code);
        assert!(cause.contains(expect), "`{expect}` in: {cause}");
    }

    #[test]
    fn missing_file_or_folder_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        let cases = [("none", "\nfile not found"), ("no/none", "\nfolder `")];
        for (path, expect) in cases {
            let message = of_spawn(&error, &folder.path().join(path)).message;
            assert!(message.contains(expect), "{message}");
        }
        let denied = of_spawn(&io::Error::from_raw_os_error(libc::EACCES), folder.path());
        assert!(denied.message.contains("it is a folder or a device"), "{denied}");
        assert_eq!(denied.hint.as_deref(), Some("fix the path"));
    }

    #[test]
    fn missing_helper_is_named() {
        let script = b"#!/nowhere/python3 -u\nprint()\n";
        check(
            script,
            0o755,
            libc::ENOENT,
            "needs the interpreter `/nowhere/python3`, which is not",
        );
        check(b"#!/bin/sh\r\nexit\r\n", 0o755, libc::ENOENT, "ends with a carriage return");
        let program = elf(HERE, Some("/nowhere/ld-musl.so.1"));
        check(&program, 0o755, libc::ENOENT, "needs the dynamic linker `/nowhere/ld-musl.so.1`");
        check(b"#!/bin/sh\n", 0o755, libc::ENOENT, "its working directory");
    }

    #[test]
    fn file_that_is_not_executable_is_reported_with_its_mode() {
        check(
            b"#!/bin/sh\n",
            0o644,
            libc::EACCES,
            "is not executable (mode 0644)\nhint: run `chmod +x /",
        );
        check(b"#!/bin/sh\n", 0o755, libc::EACCES, "mode 0755; it may be inaccessible");
        check(
            b"#!/\n",
            0o755,
            libc::EACCES,
            "needs the interpreter `/`, which is not an executable",
        );
    }

    #[test]
    fn file_of_the_wrong_kind_is_reported() {
        let noexec = |bytes: &[u8], expect: &str| check(bytes, 0o755, libc::ENOEXEC, expect);
        let other = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86_64" };
        let here = std::env::consts::ARCH;
        noexec(&elf(OTHER, None), &format!("built for {other}, but this machine is {here}"));
        noexec(b"", "the file is empty");
        noexec(b"echo hello\n", "a script without a `#!` line");
        noexec(b"MZ\x90\0", "a program for Windows");
        noexec(b"\xcf\xfa\xed\xfe\x07\0", "a program for macOS");
        noexec(b"\x7fELF", "damaged");
        noexec(b"\0\x01\x02", "does not recognize the file format");
    }

    #[test]
    fn exhausted_resource_is_reported() {
        check(b"#!/bin/sh\n", 0o755, libc::ETXTBSY, "open for writing\nhint: start it after");
        check(b"#!/bin/sh\n", 0o755, libc::EMFILE, "too many open files");
        check(b"#!/bin/sh\n", 0o755, libc::EAGAIN, "too many processes");
        check(b"#!/bin/sh\n", 0o755, libc::E2BIG, "too long for a command line");
        assert_eq!(reported_cause(b"#!/bin/sh\n", 0o755, libc::EINTR), "");
    }
}
