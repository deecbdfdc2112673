//! Why a program that could be run came to its end.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use super::super::lines::Tail;
use super::program::{Program, mode_of};
use super::words;

/// Why `program` ended before it could be called: what happened, the usual cause if one is
/// known, and what it wrote to stderr.
pub(crate) fn of_exit(status: ExitStatus, program: &Path, tail: &Tail) -> String {
    let mut lines = vec![format!("`{}` {}", program.display(), what_happened(status))];
    lines.extend(cause(status, program, tail));
    lines.push(words::told(tail).unwrap_or_else(|| "it wrote nothing to stderr".to_owned()));
    lines.join("\n")
}

fn what_happened(status: ExitStatus) -> String {
    let dumped = if status.core_dumped() { ", and left a core dump" } else { "" };
    match (status.code(), status.signal()) {
        (Some(0), _) => "ended with exit code 0, as if it had nothing to do".to_owned(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by {}{dumped}", signal_name(signal)),
        (None, None) => format!("ended in an unusual way: {status}"),
    }
}

fn cause(status: ExitStatus, path: &Path, tail: &Tail) -> Option<String> {
    if let Some(cause) = words::cause(tail) {
        return Some(cause);
    }
    let program = Program::look(path);
    if let Some(signal) = status.signal() {
        return of_signal(signal, &program).map(str::to_owned);
    }
    match status.code()? {
        // To a shell an empty file is a program that does nothing.
        0 => program.why_not_runnable().or_else(|| {
            Some(
                "it should print where it listens and go on running; does it know `--config`?"
                    .to_owned(),
            )
        }),
        // Where the kernel refuses a file, the C library has a shell read it: an ELF file too.
        code @ (2 | 126 | 127) => program.why_not_runnable().or_else(|| match code {
            126 => not_executable(path),
            127 => not_found(&program, tail),
            _ => of_code(code, tail),
        }),
        code => of_code(code, tail),
    }
}

fn of_code(code: i32, tail: &Tail) -> Option<String> {
    let said = |words: &[&str]| {
        let has = |line: &str| words.iter().any(|word| line.to_ascii_lowercase().contains(word));
        tail.lines().any(has)
    };
    if code == 101 && said(&["panicked at"]) {
        return Some("it panicked; mend the program".to_owned());
    }
    if said(&["address already in use", "address in use"]) {
        return Some(
            "its address is taken; end the other program, or let it choose one".to_owned(),
        );
    }
    let refused =
        ["usage:", "unknown flag", "unknown option", "unrecognized", "unexpected argument"];
    if said(&refused) || said(&["unknown command", "invalid option"]) {
        return Some(
            "it does not seem to know the arguments `capabilities` or `--config`; is it a plugin?"
                .to_owned(),
        );
    }
    let signal =
        code.checked_sub(128).filter(|signal| NAMES.iter().any(|(known, _)| known == signal))?;
    Some(format!("to a shell this code means that a child was ended by {}", signal_name(signal)))
}

fn not_executable(path: &Path) -> Option<String> {
    Some(match mode_of(path) {
        Some(mode) if mode & 0o111 == 0 => {
            format!(
                "the file is not executable (mode {mode:04o}); run `chmod +x {}`",
                path.display()
            )
        }
        _ => "something that it runs is there, but not executable".to_owned(),
    })
}

fn not_found(program: &Program, tail: &Tail) -> Option<String> {
    if let Some(command) = words::command_not_found(tail) {
        return Some(format!(
            "it runs `{command}`, which is not in PATH; install it, or mend PATH"
        ));
    }
    match program.wanted_of_env() {
        Some(wanted) if tail.is_empty() => Some(words::missing_interpreter(wanted)),
        _ => Some(program.missing_helper().unwrap_or_else(|| {
            "a command or a library that it needs is not on this machine".to_owned()
        })),
    }
}

fn of_signal(signal: i32, program: &Program) -> Option<&'static str> {
    Some(match signal {
        libc::SIGSEGV if program.is_library() => {
            "the file is a library, not a program; load it as kind `library`"
        }
        libc::SIGKILL => {
            "another process killed it, or it used more memory than there is or than it may have: see the \
             kernel's log"
        }
        libc::SIGXCPU => "it used up the CPU time that it may have; raise the limit",
        libc::SIGXFSZ => "it wrote a larger file than it may; raise the limit",
        libc::SIGSYS => "it made a system call that it may not make, or that this kernel has not",
        libc::SIGSEGV | libc::SIGBUS => "it used memory that is not its own; mend the program",
        libc::SIGILL => {
            "it has instructions that this CPU has not, or stopped itself; build it for an older CPU"
        }
        libc::SIGFPE => "it divided by zero, or the like; mend the program",
        libc::SIGABRT | libc::SIGTRAP => {
            "it stopped itself: a failed check, a panic that aborts, or no memory left"
        }
        libc::SIGPIPE => "it wrote to a pipe or a socket that nobody reads",
        libc::SIGINT | libc::SIGHUP | libc::SIGQUIT => "another process ended it",
        libc::SIGTERM => "it was asked to end, and does not handle that signal",
        _ => return None,
    })
}

/// Signals that end a program, with their names.
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

/// The name of a signal, such as `SIGKILL`.
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

    fn told(bytes: &[u8], status: ExitStatus, stderr: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin");
        std::fs::write(&path, bytes).unwrap();
        let mut tail = Tail::default();
        stderr.iter().for_each(|line| tail.push(line));
        let told = of_exit(status, &path, &tail);
        told.replace(&path.display().to_string(), "plugin")
    }

    fn check(bytes: &[u8], status: ExitStatus, stderr: &[&str], expect: &[&str]) {
        let told = told(bytes, status, stderr);
        for expect in expect {
            assert!(told.contains(expect), "`{expect}` in: {told}");
        }
    }

    #[test]
    fn the_code_and_the_last_lines_are_told() {
        let told_here = told(SCRIPT, code(3), &["one", "two", "three", "four"]);
        assert_eq!(
            told_here,
            "`plugin` ended with exit code 3\nit wrote:\n  one\n  two\n  three\n  four"
        );
        let nothing = told(SCRIPT, code(3), &[]);
        assert_eq!(nothing, "`plugin` ended with exit code 3\nit wrote nothing to stderr");
        check(SCRIPT, code(0), &[], &["ended with exit code 0", "go on running"]);
        check(b"", code(0), &[], &["ended with exit code 0", "the file is empty"]);
    }

    #[test]
    fn a_signal_is_told_by_its_name_and_its_usual_cause() {
        let cases = [
            (libc::SIGKILL, "was ended by SIGKILL", "more memory"),
            (libc::SIGSEGV, "was ended by SIGSEGV", "memory that is not its own"),
            (libc::SIGSYS, "was ended by SIGSYS", "system call that it may not make"),
            (libc::SIGXCPU, "was ended by SIGXCPU", "used up the CPU time"),
            (libc::SIGILL, "was ended by SIGILL", "build it for an older CPU"),
            (libc::SIGABRT, "was ended by SIGABRT", "it stopped itself"),
            (libc::SIGTERM, "was ended by SIGTERM", "asked to end"),
            (libc::SIGHUP, "was ended by SIGHUP", "another process ended it"),
            (50, "was ended by signal 50", "it wrote nothing"),
        ];
        for (signal, name, cause) in cases {
            check(SCRIPT, ExitStatus::from_raw(signal), &[], &[name, cause]);
        }
        let dumped = ExitStatus::from_raw(libc::SIGSEGV | 0x80);
        check(&library(), dumped, &[], &["SIGSEGV, and left a core dump", "is a library, not a"]);
    }

    #[test]
    fn what_was_not_found_is_named() {
        let env = "env: ‘python9’: No such file or directory";
        let wanted = "wants the interpreter `python9`, which is not in PATH";
        check(b"#!/usr/bin/env python9\n", code(127), &[env], &["code 127", wanted, env]);
        check(b"#!/usr/bin/env python9\n", code(127), &[], &[wanted]);
        check(
            SCRIPT,
            code(127),
            &["sh: 1: jq: not found"],
            &["it runs `jq`, which is not in PATH"],
        );
        let library = "x: error while loading shared libraries: liba.so.1: cannot open shared \
                       object file: No such file or directory";
        check(&elf(HERE, None), code(127), &[library], &["wants the library `liba.so.1`"]);
        check(SCRIPT, code(127), &["what?"], &["a command or a library"]);
    }

    #[test]
    fn a_file_that_a_shell_had_to_read_is_told() {
        let shell = ["plugin: 1: Syntax error: \"(\" unexpected"];
        for exit in [2, 126, 127] {
            check(&elf(OTHER, None), code(exit), &shell, &["built for", "this machine is"]);
        }
        check(b"print()\n", code(2), &shell, &["a script without a `#!` line"]);
    }

    #[test]
    fn a_file_that_may_not_run_is_told() {
        check(SCRIPT, code(126), &[], &["code 126", "not executable (mode 0", "chmod +x plugin"]);
    }

    #[test]
    fn other_usual_causes_are_told() {
        let panic = ["thread 'main' panicked at src/main.rs:1:1:", "no port"];
        check(SCRIPT, code(101), &panic, &["it panicked", "main.rs:1:1:\n  no port"]);
        check(SCRIPT, code(1), &["Usage: x FILE"], &["does not seem to know the arguments"]);
        check(SCRIPT, code(2), &["error: unexpected argument"], &["is it a plugin?"]);
        check(SCRIPT, code(1), &["bind: Address already in use"], &["its address is taken"]);
        check(SCRIPT, code(137), &[], &["code 137", "a child was ended by SIGKILL"]);
        assert_eq!(told(SCRIPT, code(255), &[]).lines().count(), 2);
    }

    proptest! {
        #[test]
        fn every_status_is_told_in_one_to_three_lines(raw in any::<u16>(), line in "\\PC{0,30}") {
            let told = of_exit(ExitStatus::from_raw(raw.into()), Path::new("/nowhere"), &{
                let mut tail = Tail::default();
                tail.push(&line);
                tail
            });
            prop_assert!((1..=3).contains(&told.lines().count()), "{}", told);
        }
    }
}
