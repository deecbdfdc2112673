//! What the last words of a program say about its end: texts of linkers, shells and panics.

use super::super::lines::Tail;

/// How many of the last lines are told.
const LINES_TOLD_MAX: usize = 3;

/// The cause that linkers and shells name themselves.
pub(super) fn cause(tail: &Tail) -> Option<String> {
    tail.lines().rev().find_map(of_linker).or_else(|| tail.lines().rev().find_map(of_env))
}

/// The command that a shell did not find.
pub(super) fn command_not_found(tail: &Tail) -> Option<&str> {
    tail.lines().rev().find_map(|line| {
        // `bash: line 1: jq: command not found`, `sh: 1: jq: not found`
        let line = line.strip_suffix(": command not found").or(line.strip_suffix(": not found"))?;
        line.rsplit(": ").next().map(str::trim).filter(|name| !name.is_empty())
    })
}

/// The last lines in one: the panic, if there is one, since a backtrace hides it.
pub(super) fn told(tail: &Tail) -> Option<String> {
    let lines: Vec<&str> = tail.lines().collect();
    let from = match lines.iter().rposition(|line| line.contains("panicked at ")) {
        Some(panic) => panic,
        None => lines.len().saturating_sub(LINES_TOLD_MAX),
    };
    let hint = |line: &&str| line.trim_start().starts_with("note: ");
    let told = lines[from..].iter().filter(|line| !hint(line)).take(LINES_TOLD_MAX);
    let told: Vec<&str> = told.map(|line| line.trim()).collect();
    (!told.is_empty()).then(|| told.join(" | "))
}

fn of_linker(line: &str) -> Option<String> {
    let after = |mark: &str| line.split_once(mark).map(|(_, rest)| rest.trim());
    // glibc: `version `GLIBC_2.38' not found (required by …)`
    if let Some(version) = between(line, "version `", "' not found") {
        return Some(format!(
            "it was built for a newer system, one with {version}; build it on an older one, or \
             link it statically"
        ));
    }
    // glibc, then musl, then macOS.
    let library = after("error while loading shared libraries: ")
        .or_else(|| after("Error loading shared library "))
        .and_then(|rest| rest.split_once(": "));
    match library {
        Some((name, why)) if why.contains("No such file") => return Some(missing_library(name)),
        Some((name, why)) => {
            return Some(format!("its library `{name}` cannot be used: {why}"));
        }
        None => {}
    }
    if let Some(name) = after("Library not loaded: ") {
        return Some(missing_library(name));
    }
    // musl's second text ends in `: symbol not found`.
    let symbol = after("undefined symbol: ").or_else(|| {
        between(line, "Error relocating ", ": symbol not found")?.rsplit(": ").next()
    })?;
    Some(format!(
        "a library of this machine has no `{symbol}`, so it is another version than the program \
         was built for; install that version"
    ))
}

fn of_env(line: &str) -> Option<String> {
    let rest =
        line.split_once("env: ").filter(|(start, _)| start.is_empty() || start.ends_with('/'))?.1;
    let rest = rest.strip_prefix("can't execute ").unwrap_or(rest);
    let (name, why) = rest.split_once(": ")?;
    let name = name.trim_matches(['\'', '‘', '’', '"', '`']);
    why.starts_with("No such file").then(|| missing_interpreter(name))
}

/// That `env` did not find the interpreter of a script.
pub(super) fn missing_interpreter(name: &str) -> String {
    let cure = match name.split_whitespace().next() {
        // `#!/usr/bin/env python3 -u` is one argument to the kernel.
        Some(first) if first != name => format!("begin the script with `#!/usr/bin/env -S {name}`"),
        _ => "install it, or mend PATH".to_owned(),
    };
    format!("its `#!` line wants the interpreter `{name}`, which is not in PATH; {cure}")
}

fn missing_library(name: &str) -> String {
    format!("it wants the library `{name}`, which is not on this machine; install it")
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
    fn what_a_linker_misses_is_named() {
        let check = |line: &str, expect: &str| {
            let told = cause(&tail(&["starting", line])).unwrap_or_default();
            assert!(told.contains(expect), "`{expect}` in: {told}");
        };
        check(
            "./x: error while loading shared libraries: libpq.so.5: cannot open shared object \
             file: No such file or directory",
            "wants the library `libpq.so.5`, which is not",
        );
        check(
            "Error loading shared library libpq.so.5: No such file or directory (needed by ./x)",
            "wants the library `libpq.so.5`, which is not",
        );
        check("dyld[7]: Library not loaded: @rpath/libpq.dylib", "wants the library `@rpath/libpq");
        check(
            "./x: error while loading shared libraries: liba.so: wrong ELF class: ELFCLASS32",
            "its library `liba.so` cannot be used: wrong ELF class",
        );
        check(
            "./x: /lib/libc.so.6: version `GLIBC_2.38' not found (required by ./x)",
            "a newer system, one with GLIBC_2.38",
        );
        check("./x: symbol lookup error: ./x: undefined symbol: go", "has no `go`");
        check("Error relocating ./x: __go: symbol not found", "has no `__go`");
    }

    #[test]
    fn what_env_or_a_shell_misses_is_named() {
        for line in [
            "env: ‘python9’: No such file or directory",
            "/usr/bin/env: 'python9': No such file or directory",
            "env: can't execute 'python9': No such file or directory",
            "env: python9: No such file or directory",
        ] {
            let told = cause(&tail(&[line]));
            assert_eq!(told, Some(missing_interpreter("python9")), "{line}");
        }
        assert!(
            missing_interpreter("a -u").contains("begin the script with `#!/usr/bin/env -S a -u`")
        );
        for line in ["sh: 1: jq: not found", "bash: line 1: jq: command not found", "jq: not found"]
        {
            assert_eq!(command_not_found(&tail(&[line])), Some("jq"), "{line}");
        }
    }

    #[test]
    fn what_is_no_such_text_names_nothing() {
        for line in ["hello", "my env: ‘a’: No such file", "env: b", "env: a: Permission denied"]
        {
            assert_eq!(cause(&tail(&[line])), None, "{line}");
        }
        assert_eq!(command_not_found(&tail(&["404: page not found", "x"])), None);
    }

    #[test]
    fn the_last_lines_or_the_panic_are_told() {
        let check = |lines: &[&str], expect: &str| {
            assert_eq!(told(&tail(lines)).unwrap_or_default(), expect);
        };
        check(&[], "");
        check(&["a"], "a");
        check(&["a", "b", " c", "d"], "b | c | d");
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
            "thread 'main' panicked at src/main.rs:1:2: | no port | stack backtrace:",
        );
    }

    proptest! {
        #[test]
        fn no_last_words_make_the_reader_panic(
            start in "|env: |version `|Error relocating |Error loading shared library ",
            rest in "\\PC{0,40}|[a-z:' ‘]{0,40}", end in "|: not found|' not found|: symbol not found",
        ) {
            let tail = tail(&[&format!("{start}{rest}{end}")]);
            let _ = (cause(&tail), command_not_found(&tail), told(&tail));
        }
    }
}
