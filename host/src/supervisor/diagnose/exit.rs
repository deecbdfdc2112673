//! Explains why a program that could be executed has exited.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use super::super::lines::Tail;
use super::program::{Program, without_execute_permission};
use super::words;
use crate::error::Diagnosis;

/// Explains why `program` exited before it could be called: its exit status, the usual cause if
/// known, and its output on stderr.
pub(crate) fn of_exit(status: ExitStatus, program: &Path, tail: &Tail) -> Diagnosis {
    let exit = format!("`{}` {}", program.display(), describe(status));
    let output = words::output(tail).unwrap_or_else(|| "no output on stderr".to_owned());
    match cause(status, program, tail) {
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

fn cause(status: ExitStatus, path: &Path, tail: &Tail) -> Option<Diagnosis> {
    if let Some(cause) = words::cause(tail) {
        return Some(cause);
    }
    let program = Program::inspect(path);
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

fn not_found(program: &Program, tail: &Tail) -> Diagnosis {
    if let Some(command) = words::command_not_found(tail) {
        let message = format!("it runs `{command}`, which was not found in PATH");
        return Diagnosis::new(message, "install it, or fix PATH");
    }
    match program.command_of_env() {
        Some(expected) if tail.is_empty() => words::missing_interpreter(expected),
        _ => program
            .missing_helper()
            .unwrap_or_else(|| "a command or a library that it needs is not installed".into()),
    }
}

fn of_signal(signal: i32, program: &Program) -> Option<Diagnosis> {
    Some(match signal {
        libc::SIGSEGV if program.is_library() => {
            Diagnosis::new("the file is a library, not a program", "load it as kind `library`")
        }
        libc::SIGKILL => Diagnosis::new(
            "another process killed it, or it exceeded the available or permitted memory",
            "check the kernel log",
        ),
        libc::SIGXCPU => Diagnosis::new("it exceeded its CPU time limit", "raise the limit"),
        libc::SIGXFSZ => Diagnosis::new("it exceeded its file size limit", "raise the limit"),
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
    use super::super::program::examples::*;
    use super::*;
    use proptest::prelude::*;

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
        let Diagnosis { message, hint } = of_exit(status, &path, &tail);
        let hint = hint.map_or_else(String::new, |hint| format!("\nhint: {hint}"));
        format!("{message}{hint}").replace(&path.display().to_string(), "plugin")
    }

    fn check(bytes: &[u8], status: ExitStatus, stderr: &[&str], expect: &[&str]) {
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
        check(SCRIPT, code(0), &[], &["exited with code 0", "keeps running", "hint: check that"]);
        check(b"", code(0), &[], &["exited with code 0", "the file is empty"]);
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
            check(SCRIPT, ExitStatus::from_raw(signal), &[], &[name, cause]);
        }
        let dumped = ExitStatus::from_raw(libc::SIGSEGV | 0x80);
        check(&library(), dumped, &[], &["SIGSEGV with a core dump", "is a library, not a"]);
    }

    #[test]
    fn missing_command_or_library_is_named() {
        let env = "env: ‘python9’: No such file or directory";
        let expected = "needs the interpreter `python9`, which was not found in PATH";
        check(b"#!/usr/bin/env python9\n", code(127), &[env], &["code 127", expected, env]);
        check(b"#!/usr/bin/env python9\n", code(127), &[], &[expected]);
        check(
            SCRIPT,
            code(127),
            &["sh: 1: jq: not found"],
            &["it runs `jq`, which was not found in PATH"],
        );
        let library = "x: error while loading shared libraries: liba.so.1: cannot open shared \
                       object file: No such file or directory";
        check(&elf(HERE, None), code(127), &[library], &["needs the library `liba.so.1`"]);
        check(SCRIPT, code(127), &["what?"], &["a command or a library"]);
    }

    #[test]
    fn file_run_by_a_shell_is_recognized() {
        let shell = ["plugin: 1: Syntax error: \"(\" unexpected"];
        for exit in [2, 126, 127] {
            check(&elf(OTHER, None), code(exit), &shell, &["built for", "this machine is"]);
        }
        check(b"print()\n", code(2), &shell, &["a script without a `#!` line"]);
    }

    #[test]
    fn file_that_is_not_executable_is_reported() {
        check(
            SCRIPT,
            code(126),
            &[],
            &["code 126", "not executable (mode 0", "hint: run `chmod +x plugin`"],
        );
    }

    #[test]
    fn other_usual_causes_are_reported() {
        let panic = ["thread 'main' panicked at src/main.rs:1:1:", "no port"];
        check(SCRIPT, code(101), &panic, &["program panicked", "main.rs:1:1:\n  no port"]);
        check(SCRIPT, code(1), &["Usage: x FILE"], &["does not seem to support the arguments"]);
        check(
            SCRIPT,
            code(2),
            &["error: unexpected argument"],
            &["hint: check that it is a plugin"],
        );
        check(
            SCRIPT,
            code(1),
            &["bind: Address already in use"],
            &["its address is already in use"],
        );
        check(SCRIPT, code(137), &[], &["code 137", "a child killed by SIGKILL"]);
        assert_eq!(report_of(SCRIPT, code(255), &[]).lines().count(), 2);
    }

    proptest! {
        #[test]
        fn every_status_is_reported_in_one_to_three_lines(raw in any::<u16>(), line in "\\PC{0,30}") {
            let Diagnosis { message, hint } = of_exit(ExitStatus::from_raw(raw.into()), Path::new("/nowhere"), &{
                let mut tail = Tail::default();
                tail.push(&line);
                tail
            });
            prop_assert!((1..=3).contains(&message.lines().count()), "{}", message);
            prop_assert!(hint.is_none_or(|hint| hint.lines().count() == 1));
        }
    }
}
