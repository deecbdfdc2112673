//! Explains why a program did not start or why it exited, and how to fix it. Inspects the file and
//! its output on stderr; runs nothing and decides nothing.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use hotbay_sandbox::Enforcement;

use crate::error::Diagnosis;
use crate::last_output;
use crate::output::Tail;
use crate::program_file::{ProgramFile, mode_of, without_execute_permission};

/// Explains from its file why `program` is not executable. If the kernel rejects a file, the C
/// library runs it with a shell.
pub(crate) fn of_file(program: &Path) -> Option<Diagnosis> {
    ProgramFile::inspect(program).why_not_runnable()
}

/// Explains why `program`, which messages call `name`, could not be executed, given the `error` of
/// the attempt. One or two lines.
pub(crate) fn of_spawn(
    error: &io::Error,
    program: &Path,
    name: &str,
    is_confined: bool,
) -> Diagnosis {
    if let Some(cause) = Enforcement::explain_namespaces(error) {
        return Diagnosis::new(
            format!("cannot run {name} in new namespaces: {cause}"),
            "restart the host, which then runs programs without namespaces unless they are \
             required, or remove the cause",
        );
    }
    let message = format!("cannot run {name}: {error}");
    match cause_of_spawn(error, program, is_confined) {
        Some(cause) => cause.map_message(|cause| format!("{message}\n{cause}")),
        None => message.into(),
    }
}

fn cause_of_spawn(error: &io::Error, path: &Path, is_confined: bool) -> Option<Diagnosis> {
    let program = ProgramFile::inspect(path);
    Some(match error.raw_os_error()? {
        libc::ENOENT => missing(path, &program),
        libc::ENOTDIR => {
            Diagnosis::new("a part of its path is a file, not a folder", "fix the path")
        }
        libc::EACCES | libc::EPERM => not_permitted(path, &program, is_confined),
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

fn missing(path: &Path, program: &ProgramFile) -> Diagnosis {
    match program {
        ProgramFile::Missing => match path.parent().filter(|parent| !parent.as_os_str().is_empty())
        {
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

fn not_permitted(path: &Path, program: &ProgramFile, is_confined: bool) -> Diagnosis {
    if matches!(program, ProgramFile::NotAFile) {
        return Diagnosis::new("it is a folder or a device, not a program", "fix the path");
    }
    if let Some(diagnosis) = without_execute_permission(path) {
        return diagnosis;
    }
    match mode_of(path) {
        Some(_) if is_confined && matches!(program, ProgramFile::Script { .. }) => Diagnosis::new(
            "its sandbox may deny the interpreter of its `#!` line",
            "set `preset` in its sandbox to `python` or `node`, whichever it is, or list the interpreter \
             in `run`, and the folder of its installation in `read`",
        ),
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

/// Explains why `program`, which messages call `name`, exited: its exit status, the usual cause if
/// known, and its output on stderr.
pub(crate) fn of_exit(status: ExitStatus, program: &Path, name: &str, tail: &Tail) -> Diagnosis {
    let exit = format!("{name} {}", describe(status));
    let output = last_output::output(tail).unwrap_or_else(|| "no output on stderr".to_owned());
    match cause_of_exit(status, program, tail) {
        Some(cause) => cause.map_message(|cause| format!("{exit}\n{cause}\n{output}")),
        None => format!("{exit}\n{output}").into(),
    }
}

fn describe(status: ExitStatus) -> String {
    let dumped = if status.core_dumped() { " with a core dump" } else { "" };
    match (status.code(), status.signal()) {
        (Some(0), _) => "exited with code 0".to_owned(),
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by {}{dumped}", signal_name(signal)),
        (None, None) => format!("exited with an unknown status: {status}"),
    }
}

fn cause_of_exit(status: ExitStatus, path: &Path, tail: &Tail) -> Option<Diagnosis> {
    if let Some(cause) = last_output::cause(tail) {
        return Some(cause);
    }
    let program = ProgramFile::inspect(path);
    if let Some(signal) = status.signal() {
        return of_signal(signal, &program);
    }
    match status.code()? {
        // A shell runs an empty file as a program that does nothing.
        0 => program.why_not_runnable().or_else(|| {
            Some(Diagnosis::new(
                "it exited, but a plugin keeps running after it prints its location",
                "check that the program supports `--config`",
            ))
        }),
        // If the kernel rejects a file, even an ELF file, the C library runs it with a shell.
        code @ (2 | 126 | 127) => program.why_not_runnable().or_else(|| match code {
            126 => Some(
                without_execute_permission(path)
                    .unwrap_or_else(|| "a command that it runs is not executable".into()),
            ),
            127 => Some(not_found(&program, tail)),
            _ => of_code(code, tail),
        }),
        code => of_code(code, tail),
    }
}

fn of_code(code: i32, tail: &Tail) -> Option<Diagnosis> {
    let printed = |words: &[&str]| {
        let has = |line: &str| words.iter().any(|word| line.to_ascii_lowercase().contains(word));
        tail.lines().any(has)
    };
    if code == 101 && printed(&["panicked at"]) {
        return Some(Diagnosis::new("the program panicked", "fix the program"));
    }
    if printed(&["address already in use", "address in use"]) {
        return Some(Diagnosis::new(
            "its address is already in use",
            "stop the other program, or let this one choose a port",
        ));
    }
    let rejected =
        ["usage:", "unknown flag", "unknown option", "unrecognized", "unexpected argument"];
    if printed(&rejected) || printed(&["unknown command", "invalid option"]) {
        return Some(Diagnosis::new(
            "the program does not seem to support the arguments `capabilities` or `--config`",
            "check that it is a plugin",
        ));
    }
    let signal =
        code.checked_sub(128).filter(|signal| NAMES.iter().any(|(known, _)| known == signal))?;
    let signal = signal_name(signal);
    Some(format!("by shell convention this code means a child killed by {signal}").into())
}

fn not_found(program: &ProgramFile, tail: &Tail) -> Diagnosis {
    if let Some(command) = last_output::command_not_found(tail) {
        let message = format!("it runs `{command}`, which was not found in PATH");
        return Diagnosis::new(message, "install it, or fix PATH");
    }
    match program.command_of_env() {
        Some(expected) if tail.is_empty() => last_output::missing_interpreter(expected),
        _ => program
            .missing_helper()
            .unwrap_or_else(|| "a command or a library that it needs is not installed".into()),
    }
}

fn of_signal(signal: i32, program: &ProgramFile) -> Option<Diagnosis> {
    Some(match signal {
        libc::SIGSEGV if program.is_library() => {
            Diagnosis::new("the file is a library, not a program", "load it as kind `library`")
        }
        libc::SIGKILL => Diagnosis::new(
            "another process killed it, or it exceeded the available or permitted memory",
            "check the kernel log",
        ),
        libc::SIGXCPU => Diagnosis::new(
            "it exceeded its CPU time limit",
            "raise `max_process_cpu_time` in `[limits]` of hotbay.toml",
        ),
        libc::SIGXFSZ => Diagnosis::new(
            "it exceeded its file size limit",
            "raise the limit of the host's user (`ulimit -f`)",
        ),
        libc::SIGSYS => "it made a system call that is forbidden, or missing in this kernel".into(),
        libc::SIGSEGV | libc::SIGBUS => {
            Diagnosis::new("it accessed invalid memory", "fix the program")
        }
        libc::SIGILL => Diagnosis::new(
            "it used an instruction that this CPU does not support, or aborted",
            "build it for an older CPU",
        ),
        libc::SIGFPE => Diagnosis::new(
            "it made an arithmetic error, such as a division by zero",
            "fix the program",
        ),
        libc::SIGABRT | libc::SIGTRAP => {
            "it aborted: a failed assertion, a panic that aborts, or out of memory".into()
        }
        libc::SIGPIPE => "it wrote to a closed pipe or socket".into(),
        libc::SIGINT | libc::SIGHUP | libc::SIGQUIT => "another process stopped it".into(),
        libc::SIGTERM => "it was stopped by a signal that it does not handle".into(),
        _ => return None,
    })
}

/// The signals that terminate a process, with their names.
const NAMES: [(i32, &str); 21] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGSYS, "SIGSYS"),
];

/// Returns the name of a signal, such as `SIGKILL`.
fn signal_name(signal: i32) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program_file::examples::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn quoted(path: &Path) -> String {
        format!("`{}`", path.display())
    }

    fn spawn(error: &io::Error, program: &Path) -> Diagnosis {
        of_spawn(error, program, &quoted(program), false)
    }

    /// Creates a file with `bytes` and `mode`, and returns the cause and the hint reported when
    /// running it fails with `code`.
    fn reported_cause(bytes: &[u8], mode: u32, code: i32) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let Diagnosis { message, hint } = spawn(&io::Error::from_raw_os_error(code), &path);
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
            let message = spawn(&error, &folder.path().join(path)).message;
            assert!(message.contains(expect), "{message}");
        }
        let denied = spawn(&io::Error::from_raw_os_error(libc::EACCES), folder.path());
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

    const SCRIPT: &[u8] = b"#!/bin/sh\nexit\n";

    fn code(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    /// Returns the message, followed by the hint on its own line.
    fn report_of(bytes: &[u8], status: ExitStatus, stderr: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin");
        std::fs::write(&path, bytes).unwrap();
        let mut tail = Tail::default();
        stderr.iter().for_each(|line| tail.push(line));
        let Diagnosis { message, hint } = of_exit(status, &path, &quoted(&path), &tail);
        let hint = hint.map_or_else(String::new, |hint| format!("\nhint: {hint}"));
        format!("{message}{hint}").replace(&path.display().to_string(), "plugin")
    }

    fn check_exit(bytes: &[u8], status: ExitStatus, stderr: &[&str], expect: &[&str]) {
        let message = report_of(bytes, status, stderr);
        for expect in expect {
            assert!(message.contains(expect), "`{expect}` in: {message}");
        }
    }

    #[test]
    fn exit_code_and_output_are_reported() {
        let message = report_of(SCRIPT, code(3), &["one", "two", "three", "four"]);
        assert_eq!(message, "`plugin` exited with code 3\noutput:\n  one\n  two\n  three\n  four");
        let silent = report_of(SCRIPT, code(3), &[]);
        assert_eq!(silent, "`plugin` exited with code 3\nno output on stderr");
        check_exit(
            SCRIPT,
            code(0),
            &[],
            &["exited with code 0", "keeps running", "hint: check that"],
        );
        check_exit(b"", code(0), &[], &["exited with code 0", "the file is empty"]);
    }

    #[test]
    fn signal_is_reported_with_its_name_and_usual_cause() {
        let cases = [
            (libc::SIGKILL, "was killed by SIGKILL", "permitted memory"),
            (libc::SIGSEGV, "was killed by SIGSEGV", "accessed invalid memory"),
            (libc::SIGSYS, "was killed by SIGSYS", "system call that is forbidden"),
            (libc::SIGXCPU, "was killed by SIGXCPU", "exceeded its CPU time limit"),
            (libc::SIGILL, "was killed by SIGILL", "\nhint: build it for an older CPU"),
            (libc::SIGABRT, "was killed by SIGABRT", "it aborted"),
            (libc::SIGTERM, "was killed by SIGTERM", "does not handle"),
            (libc::SIGHUP, "was killed by SIGHUP", "another process stopped it"),
            (50, "was killed by signal 50", "no output"),
        ];
        for (signal, name, cause) in cases {
            check_exit(SCRIPT, ExitStatus::from_raw(signal), &[], &[name, cause]);
        }
        let dumped = ExitStatus::from_raw(libc::SIGSEGV | 0x80);
        check_exit(&library(), dumped, &[], &["SIGSEGV with a core dump", "is a library, not a"]);
    }

    #[test]
    fn missing_command_or_library_is_named() {
        let env = "env: ‘python9’: No such file or directory";
        let expected = "needs the interpreter `python9`, which was not found in PATH";
        check_exit(b"#!/usr/bin/env python9\n", code(127), &[env], &["code 127", expected, env]);
        check_exit(b"#!/usr/bin/env python9\n", code(127), &[], &[expected]);
        check_exit(
            SCRIPT,
            code(127),
            &["sh: 1: jq: not found"],
            &["it runs `jq`, which was not found in PATH"],
        );
        let library = "x: error while loading shared libraries: liba.so.1: cannot open shared \
                       object file: No such file or directory";
        check_exit(&elf(HERE, None), code(127), &[library], &["needs the library `liba.so.1`"]);
        check_exit(SCRIPT, code(127), &["what?"], &["a command or a library"]);
    }

    #[test]
    fn file_run_by_a_shell_is_recognized() {
        let shell = ["plugin: 1: Syntax error: \"(\" unexpected"];
        for exit in [2, 126, 127] {
            check_exit(&elf(OTHER, None), code(exit), &shell, &["built for", "this machine is"]);
        }
        check_exit(b"print()\n", code(2), &shell, &["a script without a `#!` line"]);
    }

    #[test]
    fn file_that_is_not_executable_is_reported() {
        check_exit(
            SCRIPT,
            code(126),
            &[],
            &["code 126", "not executable (mode 0", "hint: run `chmod +x plugin`"],
        );
    }

    #[test]
    fn other_usual_causes_are_reported() {
        let panic = ["thread 'main' panicked at src/main.rs:1:1:", "no port"];
        check_exit(SCRIPT, code(101), &panic, &["program panicked", "main.rs:1:1:\n  no port"]);
        check_exit(
            SCRIPT,
            code(1),
            &["Usage: x FILE"],
            &["does not seem to support the arguments"],
        );
        check_exit(
            SCRIPT,
            code(2),
            &["error: unexpected argument"],
            &["hint: check that it is a plugin"],
        );
        check_exit(
            SCRIPT,
            code(1),
            &["bind: Address already in use"],
            &["its address is already in use"],
        );
        check_exit(SCRIPT, code(137), &[], &["code 137", "a child killed by SIGKILL"]);
        assert_eq!(report_of(SCRIPT, code(255), &[]).lines().count(), 2);
    }

    proptest! {
        #[test]
        fn every_status_is_reported_in_one_to_three_lines(raw in any::<u16>(), line in "\\PC{0,30}") {
            let Diagnosis { message, hint } = of_exit(ExitStatus::from_raw(raw.into()), Path::new("/nowhere"), "`/nowhere`", &{
                let mut tail = Tail::default();
                tail.push(&line);
                tail
            });
            prop_assert!((1..=3).contains(&message.lines().count()), "{}", message);
            prop_assert!(hint.is_none_or(|hint| hint.lines().count() == 1));
        }
    }
}
