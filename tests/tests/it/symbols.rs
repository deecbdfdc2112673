//! Symbols of plugins for backtraces, debuggers and profilers: the file of a library exists as long
//! as it is mapped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hotbay::{Host, HostEvent, Request};
use hotbay_tests::{Plugins, binary, block_on, event, loaded, unique};
use tempfile::TempDir;

/// Returns the files under a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Returns the paths under which a plugin's library is mapped.
fn mapped(name: &str) -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let lines = maps.lines().filter(|line| line.contains(&format!("/{name}-")));
    lines.map(|line| line[line.find('/').unwrap()..].to_owned()).collect()
}

#[test]
fn library_file_exists_until_unmapped() {
    let (plugins, staging) = (Plugins::new(), TempDir::new().unwrap());
    let name = unique("symbols");
    let folder = plugins.add(&name, "faulty").write();
    let host = Host::builder().staging_dir(staging.path()).build().unwrap();
    let mut events = host.events();
    let handle = loaded(&host, &folder);
    let paths = mapped(&name);
    assert!(!paths.is_empty() && paths.iter().all(|path| Path::new(path).is_file()), "{paths:?}");
    assert_eq!(files_below(staging.path()).len(), 1);
    drop(handle);
    block_on(host.unload(&name)).unwrap();
    event(&mut events, |event| matches!(event, HostEvent::Closed { .. }));
    assert!(mapped(&name).is_empty());
    assert_eq!(files_below(staging.path()), [""; 0].map(PathBuf::from));
}

#[test]
fn backtrace_names_plugin_functions() {
    let (plugins, staging) = (Plugins::new(), TempDir::new().unwrap());
    let folder = plugins.add(&unique("traced"), "with-dependency").write();
    let dep = binary_of_dependency(&folder);
    let host = Host::builder().staging_dir(staging.path()).build().unwrap();
    let handle = loaded(&host, &folder);
    let reply = handle.call(Request::text("backtrace")).unwrap();
    let backtrace = reply.as_text().unwrap();
    assert!(backtrace.contains("WithDependency"), "{dep:?}: {backtrace}");
}

#[allow(clippy::disallowed_methods, reason = "a C compiler is a program")]
fn binary_of_dependency(folder: &Path) -> PathBuf {
    let file = folder.join("libdep.so.1");
    let (source, script) = (folder.join("dep.c"), folder.join("dep.map"));
    fs::write(&source, "int dep_version(void) { return 1; }").unwrap();
    fs::write(&script, "DEP_1 { global: dep_version; local: *; };").unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-Wl,-soname,libdep.so.1", "-o"]).arg(&file).arg(source);
    cc.arg(format!("-Wl,--version-script={}", script.display()));
    assert!(cc.status().unwrap().success());
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    file
}

#[allow(clippy::disallowed_methods, reason = "the test runs the command")]
#[test]
fn command_keeps_copies_on_request() {
    let (plugins, temp) = (Plugins::new(), TempDir::new().unwrap());
    plugins.add("echo", "faulty").write();
    for (option, left) in [(None, 0), (Some("--keep-staged"), 1)] {
        let mut command = Command::new(binary("hotbay-cli", "hotbay"));
        command.args(["call", "echo", "--text", "hi", "--dir", "."]).args(option);
        command.current_dir(plugins.dir()).env("TMPDIR", temp.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stdout == b"hi", "{output:?}");
        let files = files_below(temp.path());
        assert_eq!(files.len(), left, "{option:?}: {files:?}");
    }
}
