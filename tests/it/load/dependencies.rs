//! Libraries in a plugin's folder that its library links: each plugin and each build uses its own,
//! whatever its search path is.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use hotbay::{Error, Host, HostEvent, PluginHandle, Reloaded, Request};
use hotbay_tests::{Plugins, block_on, event, loaded, refused, unique};
use tempfile::TempDir;

const DEP: &str = "libdep.so.1";
/// Length of the search path that the fixture is built with.
const PATH_BYTES: usize = 200;

/// Compiles C to a library with these compiler arguments.
#[allow(clippy::disallowed_methods, reason = "a C compiler is a program")]
fn compiled(source: &str, args: &[&str]) -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("dep.c"), source).unwrap();
    fs::write(at("dep.map"), "DEP_1 { global: dep_version; local: *; };\n").unwrap();
    let mut cc = Command::new("cc");
    cc.current_dir(folder.path()).args(["-shared", "-fPIC", "dep.c", "-o", "dep.so"]).args(args);
    let output = cc.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::read(at("dep.so")).unwrap()
}

/// Compiles a dependency that returns this version.
fn dep(version: u32) -> Vec<u8> {
    let source = format!("int dep_version(void) {{ return {version}; }}");
    compiled(&source, &["-Wl,-soname,libdep.so.1", "-Wl,--version-script=dep.map"])
}

/// Replaces a file atomically, as an installer does.
fn put(file: &Path, bytes: &[u8]) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::set_permissions(file.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    let new = file.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::set_permissions(&new, PermissionsExt::from_mode(0o644)).unwrap();
    fs::rename(new, file).unwrap();
}

/// Installs the fixture with a search path, padded with slashes.
fn install(plugins: &Plugins, name: &str, search_path: &str) -> PathBuf {
    let placeholder = format!("/placeholder/{}", "x".repeat(PATH_BYTES - 13));
    let slashes = "/".repeat(PATH_BYTES - search_path.len());
    plugins
        .add(name, "with-dependency")
        .patch(&placeholder, &(search_path.to_owned() + &slashes))
        .write()
}

/// Installs the fixture with a dependency in its folder.
fn install_with(plugins: &Plugins, name: &str, search_path: &str, version: u32) -> PathBuf {
    let folder = install(plugins, name, search_path);
    put(&folder.join(DEP), &dep(version));
    folder
}

fn version(handle: &PluginHandle) -> String {
    handle.call(Request::text("x")).unwrap().as_text().unwrap().to_owned()
}

fn host() -> (Host, TempDir) {
    let staging = TempDir::new().unwrap();
    (Host::builder().staging_dir(staging.path()).build().unwrap(), staging)
}

fn refusal(host: &Host, folder: &Path, expected: &[&str]) {
    let error: Error = refused(host, folder);
    let message = error.full_message();
    for part in expected {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
}

#[test]
fn dependency_resolves_by_origin_absolute_or_no_path() {
    let plugins = Plugins::new();
    let (host, _staging) = host();
    for (number, search_path) in (1..).zip(["$ORIGIN", "${ORIGIN}", "DIR", "/nowhere"]) {
        let name = unique("search");
        let dir = plugins.dir().join(&name).display().to_string();
        let folder = install_with(&plugins, &name, &search_path.replace("DIR", &dir), number);
        let handle = loaded(&host, &folder);
        assert_eq!(version(&handle), number.to_string(), "{search_path}");
        assert_eq!(hotbay_tests::mappings(&dir), 0, "the originals are not mapped");
    }
}

#[test]
fn dependency_in_subfolder_is_found() {
    let plugins = Plugins::new();
    let (host, _staging) = host();
    let folder = install(&plugins, &unique("below"), "$ORIGIN/lib");
    put(&folder.join("lib").join(DEP), &dep(8));
    assert_eq!(version(&loaded(&host, &folder)), "8");
}

#[test]
fn two_plugins_use_separate_dependencies() {
    let plugins = Plugins::new();
    let (host, staging) = host();
    let [first, second] = [1, 2]
        .map(|number| loaded(&host, install_with(&plugins, &unique("each"), "$ORIGIN", number)));
    assert_eq!((version(&first), version(&second)), ("1".to_owned(), "2".to_owned()));
    drop((first, second, host));
    assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0, "no copy is left");
}

#[test]
fn reload_after_dependency_change_runs_new_one() {
    let plugins = Plugins::new();
    let (host, _staging) = host();
    let name = unique("alone");
    let dir = plugins.dir().join(&name).display().to_string();
    let folder = install_with(&plugins, &name, &dir, 1);
    let handle = loaded(&host, &folder);
    assert_eq!(version(&handle), "1");
    assert!(matches!(block_on(host.reload(&name)).unwrap(), Reloaded::Unchanged));
    put(&folder.join(DEP), &dep(2));
    assert!(matches!(block_on(host.reload(&name)).unwrap(), Reloaded::Promoted(_)));
    assert_eq!(version(&handle), "2");
}

#[test]
fn watch_detects_dependency_change() {
    let plugins = Plugins::new();
    let name = unique("watched");
    let folder = install(&plugins, &name, "$ORIGIN/lib");
    put(&folder.join("lib").join(DEP), &dep(1));
    let host = Host::builder().plugin_dir(plugins.dir()).hot_reload(true).build().unwrap();
    let mut events = host.events();
    let handle = loaded(&host, &folder);
    assert_eq!(version(&handle), "1");
    put(&folder.join("lib").join(DEP), &dep(2));
    event(&mut events, |event| matches!(event, HostEvent::Promoted { from: Some(_), .. }));
    assert_eq!(version(&handle), "2");
}

#[test]
fn transitive_dependency_is_staged() {
    let plugins = Plugins::new();
    let (host, _staging) = host();
    for (name, args) in
        [("libinner.so", &[][..]), ("libinner.so.3", &["-Wl,-soname,libinner.so.3"])]
    {
        let folder = install(&plugins, &unique("inner"), "$ORIGIN");
        let inner = compiled("int inner(void) { return 33; }", args);
        put(&folder.join(name), &inner);
        let source = "int inner(void); int dep_version(void) { return inner(); }";
        let library = folder.join(name).display().to_string();
        // Without a soname it is linked by its path.
        let args = ["-Wl,-soname,libdep.so.1", "-Wl,--version-script=dep.map", &library];
        put(&folder.join(DEP), &compiled(source, &args));
        assert_eq!(version(&loaded(&host, &folder)), "33", "{name}");
    }
}

#[test]
fn mutually_linked_dependencies_are_loaded() {
    let plugins = Plugins::new();
    let (host, _staging) = host();
    let folder = install(&plugins, &unique("loop"), "$ORIGIN");
    let other = folder.join("libother.so.1");
    let link = other.display().to_string();
    put(&other, &compiled("int other(void) { return 5; }", &["-Wl,-soname,libother.so.1"]));
    let source = "int other(void); int dep_version(void) { return other(); }";
    let args = ["-Wl,-soname,libdep.so.1", "-Wl,--version-script=dep.map", &link];
    put(&folder.join(DEP), &compiled(source, &args));
    let dep = folder.join(DEP).display().to_string();
    let source = "int dep_version(void); int other(void) { return 6; } int back(void) { return dep_version(); }";
    put(&other, &compiled(source, &["-Wl,-soname,libother.so.1", &dep]));
    assert_eq!(version(&loaded(&host, &folder)), "6");
}

#[test]
fn dependency_behind_inner_symlink_is_loaded() {
    let plugins = Plugins::new();
    let (host, _staging) = host();
    let folder = install(&plugins, &unique("linked"), "$ORIGIN");
    put(&folder.join("libdep.so.1.2"), &dep(12));
    symlink("libdep.so.1.2", folder.join(DEP)).unwrap();
    assert_eq!(version(&loaded(&host, &folder)), "12");
}

#[test]
fn dependency_writable_by_others_is_refused() {
    let plugins = Plugins::new();
    let (host, _staging) = host();
    let folder = install_with(&plugins, &unique("write"), "$ORIGIN", 1);
    fs::set_permissions(folder.join(DEP), PermissionsExt::from_mode(0o666)).unwrap();
    refusal(&host, &folder, &[DEP, "mode 0666"]);
    let folder = install(&plugins, &unique("write"), "$ORIGIN/lib");
    put(&folder.join("lib").join(DEP), &dep(1));
    fs::set_permissions(folder.join("lib"), PermissionsExt::from_mode(0o777)).unwrap();
    refusal(&host, &folder, &["lib`", "mode 0777"]);
}

#[test]
fn dependency_behind_outer_symlink_is_refused() {
    let plugins = Plugins::new();
    let (host, _staging) = host();
    let folder = install(&plugins, &unique("outside"), "$ORIGIN");
    let outside = plugins.dir().join("outside.so");
    put(&outside, &dep(1));
    symlink(&outside, folder.join(DEP)).unwrap();
    refusal(&host, &folder, &[DEP, "outside.so"]);
}

#[test]
fn damaged_dependency_is_refused_before_opening() {
    let plugins = Plugins::new();
    let (host, _staging) = host();
    let whole = dep(1);
    let mut foreign = whole.clone();
    foreign[0x12..0x14].copy_from_slice(&[0xf3, 0]);
    let cases = [
        (whole[..whole.len() / 2].to_vec(), "bytes"),
        (Vec::new(), "empty"),
        (b"INPUT(-ldep)\n".to_vec(), "a text file"),
        (foreign, "ELF for riscv64"),
    ];
    for (bytes, expected) in cases {
        let folder = install(&plugins, &unique("damaged"), "$ORIGIN");
        put(&folder.join(DEP), &bytes);
        refusal(&host, &folder, &[DEP, expected]);
    }
}

#[test]
fn missing_dependency_is_named_with_search_paths() {
    let plugins = Plugins::new();
    let (host, staging) = host();
    let name = unique("missing");
    let folder = install(&plugins, &name, "$ORIGIN/lib");
    let dir = folder.canonicalize().unwrap().join("lib").display().to_string();
    refusal(&host, &folder, &[DEP, "libwith_dependency.so` links", &dir, "loader"]);
    let area = fs::read_dir(staging.path()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_dir(area).unwrap().count(), 0, "no copy is left");
}

#[test]
fn c_library_part_in_folder_is_ignored() {
    let plugins = Plugins::new();
    let (host, _staging) = host();
    let folder = install_with(&plugins, &unique("system"), "$ORIGIN", 4);
    put(&folder.join("libc.so.6"), &compiled("int nothing;", &["-nostdlib"]));
    let handle = loaded(&host, &folder);
    assert_eq!(version(&handle), "4");
    let notes = host.list().pop().unwrap().notes;
    assert!(notes.iter().any(|note| note.contains("`libc.so.6`")), "{notes:?}");
}
