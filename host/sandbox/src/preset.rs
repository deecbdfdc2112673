//! What a usual program needs to start: its libraries, its interpreter, and a few files of the
//! system.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use hotbay_manifest::Preset;

use crate::{GrantedPath, Policy, SharedFolders};

/// Libraries and data that compiled programs read.
const SYSTEM: [&str; 24] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/ld-musl-x86_64.path",
    "/etc/ld-musl-aarch64.path",
    "/etc/localtime",
    "/etc/timezone",
    "/usr/share/zoneinfo",
    "/usr/share/locale",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/filesystems",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/kernel/mm/transparent_hugepage",
];

/// The loaders of dynamically linked programs, which the kernel executes.
const LOADERS: [&str; 6] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux-riscv64-lp64d.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
    "/lib/ld-musl-riscv64.so.1",
];

/// Files that name resolution and TLS read, for programs that connect.
const NETWORK: [&str; 16] = [
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/openssl.cnf",
    "/usr/share/ca-certificates",
    "/run/systemd/resolve",
];

const PYTHON: [&str; 2] = ["python3", "python"];
const NODE: [&str; 2] = ["node", "nodejs"];

/// Files that Node reads in any case.
const OPENSSL: [&str; 4] = [
    "/etc/ssl/openssl.cnf",
    "/usr/lib/ssl",
    "/usr/local/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
];

/// Adds what `preset` needs; `path` is a value of `PATH`. Returns the value for the program.
pub(crate) fn add(policy: &mut Policy, preset: Preset, path: &str) -> String {
    policy.system.extend(SYSTEM.map(PathBuf::from));
    policy.write.push("/dev/null".into());
    policy.run.extend(LOADERS.map(GrantedPath::from));
    if policy.has_ports() {
        policy.system.extend(NETWORK.map(PathBuf::from));
    }
    let interpreters: &[&str] = match preset {
        Preset::Native => return path.to_owned(),
        Preset::Python => &PYTHON,
        Preset::Node => &NODE,
    };
    if preset == Preset::Node {
        policy.system.extend(OPENSSL.map(PathBuf::from));
    }
    let shared = policy.changeable();
    let is_unusable = |program: PathBuf| is_script(&program) || shared.can_replace(&program);
    let has_launcher =
        |folder: &&str| interpreters.iter().any(|name| is_unusable(Path::new(folder).join(name)));
    let folders: Vec<_> = path.split(':').filter(|folder| !has_launcher(folder)).collect();
    let path = folders.join(":");
    // Scripts usually start with `#!/usr/bin/env`.
    policy.run.push("/usr/bin/env".into());
    for program in interpreters.iter().filter_map(|name| find(name, &path, &shared)) {
        add_interpreter(policy, program);
    }
    path
}

fn is_script(program: &Path) -> bool {
    let mut start = [0; 2];
    // Others, such as a FIFO, would block.
    program.is_file()
        && File::open(program).and_then(|mut file| file.read_exact(&mut start)).is_ok()
        && start == *b"#!"
}

/// Returns the first program of this name in `path`, a value of `PATH`, that no program can replace.
pub(crate) fn find(name: &str, path: &str, shared: &SharedFolders) -> Option<PathBuf> {
    let folders = path.split(':').filter(|folder| folder.starts_with('/'));
    let mut programs = folders.map(|folder| Path::new(folder).join(name));
    programs.find(|program| program.is_file() && !shared.can_replace(program))
}

/// Adds a program and what its links lead to, which are different files for the kernel.
pub(crate) fn add_program(policy: &mut Policy, program: PathBuf) {
    let target = program.canonicalize().ok();
    for program in [Some(program), target].into_iter().flatten().map(GrantedPath::from) {
        if !policy.run.contains(&program) {
            policy.run.push(program);
        }
    }
}

/// Adds a program, what its links lead to, and the libraries of both installations.
fn add_interpreter(policy: &mut Policy, program: PathBuf) {
    let target = program.canonicalize().ok();
    for program in [Some(&program), target.as_ref()].into_iter().flatten() {
        if let Some(prefix) = program.parent().and_then(Path::parent) {
            let parts = ["lib", "lib64", "include", "pyvenv.cfg"];
            // Those of the system are listed above; the prefix `/` has the same `lib`.
            policy.system.extend(parts.map(|part| prefix.join(part)));
        }
    }
    add_program(policy, program);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_of_a_virtual_environment_adds_both_installations() {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut policy = Policy::default();
        let path = policy.add_preset(Preset::Python, &path);
        let Some(python) = find("python3", &path, &SharedFolders::default()) else { return };
        let target = python.canonicalize().expect("it exists");
        assert!(policy.run.contains(&python.into()) && policy.run.contains(&target.clone().into()));
        let lib = target.parent().and_then(Path::parent).expect("a prefix").join("lib");
        assert!(policy.system.contains(&lib));
    }

    #[test]
    fn native_programs_get_no_interpreter_and_no_network_files() {
        let mut policy = Policy::default();
        policy.add_preset(Preset::Native, "/usr/bin");
        assert!(!policy.run.iter().any(|program| program.path.ends_with("env")));
        assert!(!policy.system.iter().any(|file| file.ends_with("resolv.conf")));
    }

    #[test]
    fn interpreters_that_are_scripts_are_skipped() {
        let folder = std::env::temp_dir().join(format!("hotbay-preset-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a new folder");
        std::fs::write(folder.join("python3"), "#!/bin/sh\n").expect("a file");
        let path = format!("{}:/usr/bin", folder.display());
        assert_eq!(Policy::default().add_preset(Preset::Python, &path), "/usr/bin");
        assert_eq!(Policy::default().add_preset(Preset::Node, &path), path);
        std::fs::remove_dir_all(&folder).expect("it exists");
    }

    #[test]
    fn relative_folders_of_path_are_ignored() {
        assert_eq!(find("sh", "bin:.", &SharedFolders::default()), None);
    }

    #[cfg(unix)]
    #[test]
    fn interpreters_that_programs_can_replace_are_skipped() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it exists");
        for name in ["shared", "fixed", "secret"] {
            std::fs::create_dir(root.join(name)).expect("a folder");
        }
        std::fs::write(root.join("secret/file"), "secret").expect("a file");
        let link = |name: &str, target: &str| {
            std::os::unix::fs::symlink(root.join(target), root.join(name)).expect("a link");
        };
        link("shared/python", "secret/file");
        link("fixed/python3", "shared/python");
        let in_path = |name: &str| root.join(name).display().to_string();
        let path = format!("{}:{}", in_path("shared"), in_path("fixed"));
        for is_own in [false, true] {
            let mut policy = Policy::default();
            match is_own {
                true => policy.write.push(root.join("shared").into()),
                false => policy.shared.push(root.join("shared")),
            }
            assert_eq!(policy.add_preset(Preset::Python, &path), "");
            let is_below = |granted: &GrantedPath| granted.path.starts_with(&root);
            assert!(!policy.run.iter().any(is_below), "{:?}", policy.run);
            assert!(!policy.system.iter().any(|path| path.starts_with(&root)));
        }
    }
}
