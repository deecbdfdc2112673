//! Private folders of hosts: who owns them, when they are removed, and the effect of process limits
//! and umask.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hotbay::{Host, HostEvent, Request};
use hotbay_tests::{Plugins, ProgramFolder, binary, block_on, event, loaded, unique, until};
use tempfile::TempDir;

/// Runs the command in a shell after the shell command `before`.
#[allow(clippy::disallowed_methods, reason = "the parent shell sets the limits of the process")]
fn hotbay_after(before: &str, plugins: &Plugins, temp: &Path, args: &[&str]) -> Output {
    let hotbay = binary("hotbay-cli", "hotbay");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{before}; exec \"$0\" \"$@\"")).arg(hotbay).args(args);
    command.args(["--dir", "."]).current_dir(plugins.dir()).env("TMPDIR", temp);
    command.stdin(Stdio::null()).output().unwrap()
}

/// Returns the private folders in a temporary folder.
fn private_folders(temp: &Path) -> Vec<String> {
    let entries = fs::read_dir(temp).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("hotbay-")).collect()
}

#[allow(clippy::disallowed_methods, reason = "the killed host is a subprocess")]
fn killed_host(plugins: &Plugins, temp: &Path) {
    let mut command = Command::new(binary("hotbay-cli", "hotbay"));
    command.args(["run", "--dir", "."]).current_dir(plugins.dir()).env("TMPDIR", temp);
    let mut host = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        assert!(lines.next().unwrap().unwrap().contains("loaded"));
    }
    assert!(!private_folders(temp).is_empty());
    host.kill().unwrap();
    host.wait().unwrap();
}

#[test]
fn folders_of_killed_host_are_removed_at_next_start() {
    let (plugins, temp) = (Plugins::new(), TempDir::new().unwrap());
    plugins.add("library", "faulty").write();
    ProgramFolder::new(plugins.dir(), "program").install();
    killed_host(&plugins, temp.path());
    let call = hotbay_after("true", &plugins, temp.path(), &["call", "program", "--text", "hi"]);
    assert!(call.status.success(), "{call:?}");
    // The sweep runs in the background.
    until("nothing is left", || {
        let left = private_folders(temp.path());
        if left.is_empty() {
            return Some(());
        }
        hotbay_after("true", &plugins, temp.path(), &["call", "library", "--text", "hi"]);
        None
    });
}

#[test]
fn folder_of_running_host_is_kept_by_others() {
    let (plugins, temp) = (Plugins::new(), TempDir::new().unwrap());
    let folder = plugins.add("living", "faulty").write();
    let build = || Host::builder().staging_dir(temp.path()).build().unwrap();
    let first = build();
    let living = loaded(&first, &folder);
    let owned = private_folders(temp.path());
    assert_eq!(owned.len(), 1);
    // A process ID that does not exist in this namespace proves nothing.
    let foreign = temp.path().join("hotbay-4194303-living");
    fs::rename(temp.path().join(&owned[0]), &foreign).unwrap();
    let second = build();
    loaded(&second, &folder);
    until("the sweep has finished", || {
        let abandoned = temp.path().join("hotbay-4194303-closed");
        fs::create_dir(&abandoned).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&abandoned, private).unwrap();
        loaded(&build(), &folder);
        until("the abandoned folder is removed", || (!abandoned.exists()).then_some(()));
        Some(())
    });
    assert!(foreign.exists());
    assert_eq!(living.call(Request::text("hi")).unwrap().as_bytes(), b"hi");
}

#[test]
fn file_size_limit_fails_load() {
    let (plugins, temp) = (Plugins::new(), TempDir::new().unwrap());
    plugins.add("library", "faulty").write();
    ProgramFolder::new(plugins.dir(), "program").install();
    for plugin in ["library", "program"] {
        let args = ["call", plugin, "--text", "hi"];
        let run = hotbay_after("ulimit -f 4", &plugins, temp.path(), &args);
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        assert!(stderr.contains("ulimit -f") && stderr.contains("stage"), "{stderr}");
    }
    assert_eq!(private_folders(temp.path()), [""; 0]);
}

#[test]
fn restrictive_umask_is_harmless() {
    let (plugins, temp) = (Plugins::new(), TempDir::new().unwrap());
    plugins.add("library", "faulty").write();
    ProgramFolder::new(plugins.dir(), "program").install();
    for plugin in ["library", "program"] {
        let args = ["call", plugin, "--text", "hi"];
        let run = hotbay_after("umask 0777", &plugins, temp.path(), &args);
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success() && run.stdout == b"hi" || stderr.contains("umask"), "{run:?}");
    }
}

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
