//! Interprets the last output of a program: messages of linkers, shells and panics.

use crate::error::Diagnosis;
use crate::output::Tail;

/// The number of last lines that are reported.
const MAX_LAST_LINES: usize = 3;

/// Returns the cause if a linker or `env` has named it.
pub(crate) fn cause(tail: &Tail) -> Option<Diagnosis> {
    tail.lines().rev().find_map(of_linker).or_else(|| tail.lines().rev().find_map(of_env))
}

/// Returns the command that a shell did not find.
pub(crate) fn command_not_found(tail: &Tail) -> Option<&str> {
    tail.lines().rev().find_map(|line| {
        // `bash: line 1: jq: command not found`, `sh: 1: jq: not found`
        let line = line.strip_suffix(": command not found").or(line.strip_suffix(": not found"))?;
        line.rsplit(": ").next().map(str::trim).filter(|name| !name.is_empty())
    })
}

/// Returns the output under a heading: the last lines, and also the first ones if the program has
/// not started, with `…` for the gap; `None` if there was no output.
///
/// After a panic, returns its message and the lines below, since a backtrace hides it. A single
/// line follows its heading directly.
pub(crate) fn output(tail: &Tail) -> Option<String> {
    let is_note = |line: &&str| line.trim_start().starts_with("note: ");
    let lines: Vec<&str> = tail.lines().collect();
    let panic = lines.iter().rposition(|line| line.contains("panicked at "));
    let first: Vec<&str> = if panic.is_some() { Vec::new() } else { tail.first().collect() };
    let from = panic.unwrap_or(lines.len().saturating_sub(MAX_LAST_LINES));
    // The lines already reported as first lines.
    let skipped = (tail.count() - lines.len()) + from;
    let repeated = first.len().saturating_sub(skipped);
    let mut last = lines[from..].iter().copied().filter(|line| !is_note(line)).take(MAX_LAST_LINES);
    let last: Vec<&str> = last.by_ref().skip(repeated).collect();
    let is_missing = !first.is_empty() && skipped > first.len();
    let gap = is_missing.then_some("…");
    let shown: Vec<&str> = first.into_iter().chain(gap).chain(last).collect();
    match (&shown[..], panic.is_some() || tail.first().len() == 0) {
        ([], _) => None,
        ([line], _) => Some(format!("output: {}", line.trim())),
        (_, true) => Some(format!("last output:\n  {}", shown.join("\n  "))),
        (_, false) => Some(format!("output:\n  {}", shown.join("\n  "))),
    }
}

/// Returns the output like [`output`], to be appended to a message.
pub(crate) fn output_suffix(tail: &Tail) -> String {
    output(tail).map_or_else(String::new, |output| format!("\n{output}"))
}

fn of_linker(line: &str) -> Option<Diagnosis> {
    let after = |prefix: &str| line.split_once(prefix).map(|(_, rest)| rest.trim());
    // glibc: `version `GLIBC_2.38' not found (required by …)`
    if let Some(version) = between(line, "version `", "' not found") {
        return Some(Diagnosis::new(
            format!("it was built for a newer system with {version}"),
            "build it on an older system, or link it statically",
        ));
    }
    // glibc, then musl, then macOS.
    let library = after("error while loading shared libraries: ")
        .or_else(|| after("Error loading shared library "))
        .and_then(|rest| rest.split_once(": "));
    match library {
        Some((name, why)) if why.contains("No such file") => return Some(missing_library(name)),
        Some((name, why)) => {
            return Some(format!("cannot load its library `{name}`: {why}").into());
        }
        None => {}
    }
    if let Some(name) = after("Library not loaded: ") {
        return Some(missing_library(name));
    }
    // The second message of musl ends in `: symbol not found`.
    let symbol = after("undefined symbol: ").or_else(|| {
        between(line, "Error relocating ", ": symbol not found")?.rsplit(": ").next()
    })?;
    Some(Diagnosis::new(
        format!(
            "a library on this machine has no symbol `{symbol}`, so its version differs from the \
             one the program was built for"
        ),
        "install the version that the program was built for",
    ))
}

fn of_env(line: &str) -> Option<Diagnosis> {
    let rest =
        line.split_once("env: ").filter(|(start, _)| start.is_empty() || start.ends_with('/'))?.1;
    let rest = rest.strip_prefix("can't execute ").unwrap_or(rest);
    let (name, why) = rest.split_once(": ")?;
    let name = name.trim_matches(['\'', '‘', '’', '"', '`']);
    why.starts_with("No such file").then(|| missing_interpreter(name))
}

/// Explains that `env` did not find the interpreter of a script.
pub(crate) fn missing_interpreter(name: &str) -> Diagnosis {
    let hint = match name.split_whitespace().next() {
        // `#!/usr/bin/env python3 -u` is one argument to the kernel.
        Some(first) if first != name => format!("begin the script with `#!/usr/bin/env -S {name}`"),
        _ => "install it, or fix PATH".to_owned(),
    };
    Diagnosis::new(
        format!("its `#!` line needs the interpreter `{name}`, which was not found in PATH"),
        hint,
    )
}

fn missing_library(name: &str) -> Diagnosis {
    let message = format!("it needs the library `{name}`, which is not installed");
    Diagnosis::new(message, "install it")
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> Option<&'t str> {
    Some(text.split_once(start)?.1.split_once(end)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tail(lines: &[&str]) -> Tail {
        let mut tail = Tail::default();
        lines.iter().for_each(|line| tail.push(line));
        tail
    }

    #[test]
    fn linker_message_names_the_cause() {
        let check = |line: &str, expect: &str| {
            let cause = cause(&tail(&["starting", line])).expect(line);
            assert!(cause.message.contains(expect), "`{expect}` in: {cause}");
        };
        check(
            "./x: error while loading shared libraries: libpq.so.5: cannot open shared object \
             file: No such file or directory",
            "needs the library `libpq.so.5`, which is not",
        );
        check(
            "Error loading shared library libpq.so.5: No such file or directory (needed by ./x)",
            "needs the library `libpq.so.5`, which is not",
        );
        check("dyld[7]: Library not loaded: @rpath/libpq.dylib", "needs the library `@rpath/libpq");
        check(
            "./x: error while loading shared libraries: liba.so: wrong ELF class: ELFCLASS32",
            "cannot load its library `liba.so`: wrong ELF class",
        );
        check(
            "./x: /lib/libc.so.6: version `GLIBC_2.38' not found (required by ./x)",
            "a newer system with GLIBC_2.38",
        );
        check("./x: symbol lookup error: ./x: undefined symbol: go", "has no symbol `go`");
        check("Error relocating ./x: __go: symbol not found", "has no symbol `__go`");
    }

    #[test]
    fn missing_command_of_env_or_a_shell_is_named() {
        for line in [
            "env: ‘python9’: No such file or directory",
            "/usr/bin/env: 'python9': No such file or directory",
            "env: can't execute 'python9': No such file or directory",
            "env: python9: No such file or directory",
        ] {
            let cause = cause(&tail(&[line]));
            assert_eq!(cause, Some(missing_interpreter("python9")), "{line}");
        }
        let hint = missing_interpreter("a -u").hint;
        assert_eq!(hint.as_deref(), Some("begin the script with `#!/usr/bin/env -S a -u`"));
        for line in ["sh: 1: jq: not found", "bash: line 1: jq: command not found", "jq: not found"]
        {
            assert_eq!(command_not_found(&tail(&[line])), Some("jq"), "{line}");
        }
    }

    #[test]
    fn unrelated_output_names_no_cause() {
        for line in ["hello", "my env: ‘a’: No such file", "env: b", "env: a: Permission denied"]
        {
            assert_eq!(cause(&tail(&[line])), None, "{line}");
        }
        assert_eq!(command_not_found(&tail(&["404: page not found", "x"])), None);
    }

    #[test]
    fn last_lines_or_the_panic_are_reported() {
        let check = |lines: &[&str], expect: &str| {
            assert_eq!(output(&tail(lines)).unwrap_or_default(), expect);
            let mut tail = tail(lines);
            tail.discard_first();
            let last: Vec<&str> = lines.iter().rev().take(3).rev().copied().collect();
            if lines.len() > 1 && !lines.iter().any(|line| line.contains("panicked")) {
                let expect = format!("last output:\n  {}", last.join("\n  "));
                assert_eq!(output(&tail), Some(expect));
            }
        };
        check(&[], "");
        check(&[" a"], "output: a");
        check(&["a", "b", " c", "d"], "output:\n  a\n  b\n   c\n  d");
        let numbers: Vec<String> = (1..=50).map(|number| number.to_string()).collect();
        let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
        let first = numbers[..10].join("\n  ");
        for (count, rest) in
            [(10, ""), (11, "11"), (13, "11\n  12\n  13"), (14, "…\n  12\n  13\n  14")]
        {
            let rest = if rest.is_empty() { String::new() } else { format!("\n  {rest}") };
            check(&numbers[..count], &format!("output:\n  {first}{rest}"));
        }
        check(&numbers, &format!("output:\n  {first}\n  …\n  48\n  49\n  50"));
        check(
            &[
                "a",
                "thread 'main' panicked at src/main.rs:1:2:",
                "no port",
                "stack backtrace:",
                "   0: f",
                "   1: g",
                "note: run with `RUST_BACKTRACE=1`",
            ],
            "last output:\n  thread 'main' panicked at src/main.rs:1:2:\n  no port\n  stack backtrace:",
        );
    }

    proptest! {
        #[test]
        fn output_is_interpreted_without_panics(
            start in "|env: |version `|Error relocating |Error loading shared library ",
            rest in "\\PC{0,40}|[a-z:' ‘]{0,40}", end in "|: not found|' not found|: symbol not found",
        ) {
            let tail = tail(&[&format!("{start}{rest}{end}")]);
            let _ = (cause(&tail), command_not_found(&tail), output(&tail));
        }
    }
}
