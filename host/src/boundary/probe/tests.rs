//! Tests what a probe finds and rejects, and that no bytes make it panic.

use std::fmt;

use std::env::consts::ARCH;

use object::elf;
use proptest::prelude::*;

use super::*;

const TEXT: &str = "HOTBAY-STAMP 1\npackage=transform\nversion=0.1.0\napi=1.0.0\n\
    rustc=rustc 1.95.0 (59807616e 2026-04-14)\ntarget=x86_64-unknown-linux-gnu\npanic=unwind\n";

#[track_caller]
fn assert_error<T: fmt::Debug>(probed: Result<T, ProbeError>, expected: &str) {
    let message = probed.unwrap_err().to_string();
    assert!(message.contains(expected) && !message.contains('\n'), "`{expected}` in: {message}");
}

#[test]
fn stamp_has_all_values_and_ignores_unknown_ones() {
    let stamp = Stamp::parse(format!("{TEXT}later=x\n\0\0garbage\u{1}").as_bytes()).unwrap();
    assert_eq!((&*stamp.package, &*stamp.panic), ("transform", "unwind"));
    assert_eq!(
        (stamp.version.to_string(), stamp.api.to_string()),
        ("0.1.0".into(), "1.0.0".into())
    );
    assert!(stamp.rustc.starts_with("rustc 1.95.0") && stamp.target.starts_with("x86_64-"));
}

#[test]
fn invalid_stamp_is_rejected_with_reason() {
    let replaced = [
        ("HOTBAY-STAMP 1", "HOTBAY-STAMP 2", "expected `HOTBAY-STAMP 1`"),
        ("package=transform\n", "", "has no `package`"),
        ("version=0.1.0", "version=0.1", "the invalid version `0.1` in `version`"),
        ("api=1.0.0", "api=1.0.0\napi=1.0.0", "`api` twice"),
        ("panic=unwind", "panic", "without `=`"),
        ("panic=unwind", "panic=", "unprintable `panic`"),
        ("transform", "trans\u{1b}[2Jform", "unprintable `package`"),
    ];
    for (from, to, expected) in replaced {
        assert_error(Stamp::parse(TEXT.replace(from, to).as_bytes()), expected);
    }
    assert_error(Stamp::parse(b""), "begins with ``");
    assert_error(Stamp::parse(&[0xff; 512]), "UTF-8");
}

#[test]
fn file_that_is_not_a_library_is_described() {
    let cases: [(&[u8], &str); 10] = [
        (b"", "is empty"),
        (b"#!/bin/sh\nexit 0\n", "a script"),
        (b"PK\x03\x04......", "zip archive"),
        (b"!<arch>\nlib.rmeta/", "static archive"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"{\"name\": \"x\"}", "a text file"),
        (&[0; 4096], "a block of zeros"),
        (&[1, 2, 3], "an unknown format"),
        (b"\x7fELF\x02\x01\x01", "the ELF header ends at byte 64, but the file has only 7"),
        (b"MZ", "truncated"),
    ];
    for (bytes, expected) in cases {
        assert_error(probe(bytes), expected);
    }
}

#[test]
fn test_program_is_rejected_as_a_program() {
    let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_error(probe(&bytes), "a program; expected a shared library");
}

#[test]
fn needs_report_libraries_that_may_start_threads() {
    let check = |needs: &[&str], unknown: &[&str]| {
        let needs: Vec<String> = needs.iter().map(ToString::to_string).collect();
        assert_eq!(needs_only_known(&needs).err().unwrap_or_default(), unknown);
    };
    check(&[], &[]);
    check(&["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"], &[]);
    check(&["libpthread.so.0", "libdl.so.2", "librt.so.1", "libc.musl-x86_64.so.1"], &[]);
    check(&["libpq.so.5", "libc.so.6", "libcurl.so"], &["libpq.so.5", "libcurl.so"]);
    check(
        &["libc.sober", "/tmp/libc.so.6", "libc++.so.1"],
        &["libc.sober", "/tmp/libc.so.6", "libc++.so.1"],
    );
}

/// Builds a library with the stamp by the C compiler; `None` without a compiler.
#[cfg(target_os = "linux")]
fn library(flags: &[&str]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let [source, output] = ["x.c", "x.so"].map(|name| folder.path().join(name));
    let code = format!(
        "#include <stdio.h>\n__attribute__((constructor)) static void hello(void) {{ puts(\"\"); }}\n\
         void exported(void) {{}}\nint main(void) {{ return 0; }}\n\
         #ifdef UNIQUE\nasm(\".globl one\\n.type one, @gnu_unique_object\\n.data\\none: .quad 0\\n\
         .size one, 8\\n.text\");\n#endif\n\
         #ifdef CALLS_BACK\nextern int clone(), openlog();\n\
         void *callbacks[] = {{(void *)clone, (void *)openlog}};\n#endif\n\
         #ifdef LOCAL\n__thread int local;\nint get(void) {{ return local; }}\n#endif\n\
         #ifndef BARE\nconst char HOTBAY_PLUGIN_STAMP[512] = {TEXT:?};\n#endif\n"
    );
    std::fs::write(&source, code).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the bytes of a real library")]
    let status = std::process::Command::new("cc")
        .args(["-fPIC", "-o"])
        .args([&output, &source])
        .args(flags)
        .status();
    if status.is_ok_and(|status| status.success()) {
        return Some(std::fs::read(output).unwrap());
    }
    println!("skipped: no C compiler for {flags:?}");
    None
}

#[cfg(target_os = "linux")]
#[test]
fn stamp_is_found_with_any_linker_flags() {
    let flag_sets: [&[&str]; 5] = [
        &["-shared"],
        &["-shared", "-s"],
        &["-shared", "-Wl,--hash-style=sysv"],
        &["-shared", "-Wl,--hash-style=gnu", "-Wl,--gc-sections"],
        &["-shared", "-g", "-Wl,-z,relro,-z,now"],
    ];
    for bytes in flag_sets.iter().filter_map(|flags| library(flags)) {
        let probed = probe(&bytes).unwrap();
        assert_eq!(probed.stamp, Stamp::parse(TEXT.as_bytes()).unwrap());
        assert_eq!(needs_only_known(&probed.needs), Ok(()), "{:?}", probed.needs);
        assert!(probed.platform.starts_with("ELF for "));
        let exports = exports(&bytes).unwrap();
        assert!(exports.contains(&SYMBOL.into()) && exports.contains(&"exported".into()));
        assert!(exports.is_sorted() && !exports.contains(&"puts".into()), "{exports:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn library_that_is_never_unmapped_is_detected() {
    let pin = |flags: &[&str]| library(flags).map(|bytes| probe(&bytes).unwrap().pin);
    if let Some(pin) = pin(&["-shared"]) {
        assert_eq!(pin, None);
    }
    if let Some(pin) = pin(&["-shared", "-Wl,-z,nodelete"]) {
        assert_eq!(pin, Some(Pin::NoDelete));
    }
    if let Some(pin) = pin(&["-shared", "-DUNIQUE"]) {
        assert_eq!(pin, Some(Pin::UniqueSymbols { first: "one".into(), count: 1 }));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn imported_callback_functions_are_listed() {
    let names = |flags: &[&str]| {
        let probed = probe(&library(flags)?).unwrap();
        Some(probed.callbacks.iter().map(|callback| callback.name).collect::<Vec<_>>())
    };
    if let Some(names) = names(&["-shared"]) {
        assert_eq!(names, [""; 0]);
    }
    if let Some(names) = names(&["-shared", "-DCALLS_BACK"]) {
        assert_eq!(names, ["openlog", "clone"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn static_thread_local_storage_is_detected() {
    let is_static =
        |flags: &[&str]| library(flags).map(|bytes| probe(&bytes).unwrap().is_static_tls);
    let dynamic = is_static(&["-shared", "-DLOCAL"]);
    assert!(dynamic.is_none_or(|is_static| !is_static));
    let initial = is_static(&["-shared", "-DLOCAL", "-ftls-model=initial-exec"]);
    assert!(initial.is_none_or(|is_static| is_static));
}

#[cfg(target_os = "linux")]
#[test]
fn other_files_than_plugin_libraries_are_rejected() {
    let cases: [(&[&str], &str); 4] = [
        (&["-shared", "-DBARE"], "exports no plugin stamp"),
        (&["-pie"], "is a program"),
        (&["-no-pie"], "is a program"),
        (&["-c"], "an object file"),
    ];
    for (flags, expected) in cases {
        library(flags).into_iter().for_each(|bytes| assert_error(probe(&bytes), expected));
    }
    for name in ["libstd-0ff.so", "librustc_driver-1a.so", "/opt/libstd-0ff.so"] {
        assert!(is_shared_std(name), "{name}");
    }
    assert!(!["libstdc++.so.6", "libc.so.6"].into_iter().any(is_shared_std));
}

#[cfg(target_os = "linux")]
#[test]
fn other_platform_is_rejected_with_expected_one() {
    let Some(bytes) = library(&["-shared"]) else {
        return;
    };
    let machine = if ARCH == "riscv64" { elf::EM_X86_64 } else { elf::EM_RISCV };
    let code = if cfg!(target_endian = "little") {
        machine.0.to_le_bytes()
    } else {
        machine.0.to_be_bytes()
    };
    let cases: [(usize, &[u8], &str); 4] = [
        (18, &code, &format!("expected ELF for {ARCH}")),
        (5, &[if cfg!(target_endian = "little") { 2 } else { 1 }], "endian; expected"),
        (4, &[if cfg!(target_pointer_width = "64") { 1 } else { 2 }], "-bit, "),
        (7, &[9], "OS ABI 9"),
    ];
    for (at, patch, expected) in cases {
        let mut bytes = bytes.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        assert_error(probe(&bytes), expected);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn truncated_file_and_zeroed_tables_are_rejected() {
    let Some(bytes) = library(&["-shared"]) else {
        return;
    };
    for length in 0..bytes.len() {
        assert!(probe(&bytes[..length]).is_err(), "cut to {length} of {}", bytes.len());
    }
    assert_error(probe(&bytes[..bytes.len() - 1]), "the file has only");
    let read = Elf::<elf::FileHeader64<Endianness>>::read(&bytes);
    let Ok(image) = read else {
        return println!("skipped the holes: not 64-bit");
    };
    let begin = |part: *const u8| part as usize - bytes.as_ptr() as usize;
    let holes = [
        ("segments", begin(image.segments.as_ptr().cast()), size_of_val(image.segments)),
        ("dynamic", begin(image.dynamic.as_ptr().cast()), size_of_val(image.dynamic)),
        ("names", begin(image.strings.as_ptr()), image.strings.len()),
        ("symbols", begin(image.symbols.as_ptr().cast()), size_of_val(image.symbols)),
    ];
    for (what, at, length) in holes {
        let mut bytes = bytes.clone();
        bytes[at..at + length].fill(0);
        assert!(probe(&bytes).is_err(), "zeros over {what}");
    }
}

proptest! {
    #[test]
    fn stamp_parser_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Stamp::parse(&bytes);
        let text = [TEXT.as_bytes(), &bytes].concat();
        let _ = Stamp::parse(&text);
    }

    #[test]
    fn probe_never_panics(
        magic in proptest::sample::select(vec![
            &b""[..], b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x02\x01", b"MZ",
            b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe",
        ]),
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let bytes = [magic, &bytes].concat();
        prop_assert!(probe(&bytes).is_err());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn probe_of_mutated_library_never_panics() {
    let Some(original) = library(&["-shared"]) else {
        return;
    };
    // Most tables are in the first two pages, so half of the bytes are changed there.
    let place = prop_oneof![0..original.len(), 0..8192.min(original.len())];
    let change = (place, prop_oneof![Just(0), Just(0xff), any::<u8>()], 1..16usize);
    let changes = proptest::collection::vec(change, 1..8);
    proptest!(|(changes in changes, shift in 0..8usize)| {
        let mut bytes = vec![0; shift];
        bytes.extend_from_slice(&original);
        for (at, value, length) in changes {
            let end = (shift + at + length).min(bytes.len());
            bytes[shift + at..end].fill(value);
        }
        let _ = probe(&bytes[shift..]);
        let _ = exports(&bytes[shift..]);
    });
}
