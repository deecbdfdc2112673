//! The Landlock ruleset of a policy, made in the parent.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use hotbay_manifest::NetRule;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    PathBeneath, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, Scope,
    make_bitflags,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::lookup::{Id, Lookup};
use crate::policy::resolve;
use crate::{GrantedPath, OmittedPath, PathChecks, PathError, Policy};

/// The newest version of the ABI that the rules below were written for.
const ABI: ABI = landlock::ABI::V10;

/// A ruleset, and the paths whose rules it does not have.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) descriptor: Option<OwnedFd>,
    pub(crate) omitted: Vec<OmittedPath>,
}

/// Creates a ruleset of everything that the kernel knows. `folder` is the private folder of the
/// launch, which can be changed.
///
/// Rules of paths that do not exist are omitted: what they would permit is denied. So are those of
/// paths that a program may have replaced, which are returned.
pub(crate) fn create(policy: &Policy, folder: Option<&Path>) -> io::Result<Rules> {
    let failed = |error: &dyn std::fmt::Display| {
        io::Error::other(format!("cannot create its Landlock ruleset: {error}"))
    };
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI)))
        .and_then(Ruleset::create)
        .map_err(|error| failed(&error))?;
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let run = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});
    // Devices could be made by root only, and lead past all paths.
    let devices = make_bitflags!(AccessFs::{MakeChar | MakeBlock});
    let write = read | (AccessFs::from_write(ABI) & !devices);
    let system: Vec<_> = policy.system.iter().map(GrantedPath::from).collect();
    let checks = PathChecks::new(policy);
    let rules = [(&system, read), (&policy.read, read), (&policy.run, run), (&policy.write, write)];
    let (mut ruleset, mut omitted) = (ruleset, Vec::new());
    for (paths, access) in rules {
        for granted in paths.iter().filter_map(|granted| resolve(granted, folder)) {
            match open(&checks, &granted, access == write)? {
                Opened::Found(opened) => {
                    ruleset = add_path(ruleset, opened, access).map_err(|error| failed(&error))?;
                }
                Opened::Missing => {}
                Opened::Denied(reason) => omitted.push(OmittedPath { path: granted.path, reason }),
            }
        }
    }
    if let Some(folder) = folder {
        let opened = open_target(&Lookup::of(folder)?)?;
        ruleset = add_path(ruleset, opened, write).map_err(|error| failed(&error))?;
    }
    let ruleset = add_ports(ruleset, policy).map_err(|error| failed(&error))?;
    Ok(Rules { descriptor: ruleset.into(), omitted })
}

fn add_path(
    ruleset: RulesetCreated,
    opened: OwnedFd,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let is_dir = fstat(&opened).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
    let access = if is_dir { access } else { access & AccessFs::from_file(ABI) };
    ruleset.add_rule(PathBeneath::new(opened, access))
}

enum Opened {
    Found(OwnedFd),
    Missing,
    /// With the reason.
    Denied(String),
}

/// Opens what a path leads to, unless it grants nothing.
///
/// # Errors
///
/// Fails if this process cannot open more files.
fn open(checks: &PathChecks, granted: &GrantedPath, is_write: bool) -> io::Result<Opened> {
    let opened = match checks.lookup(granted, is_write) {
        Ok(found) => open_target(&found),
        Err(PathError::Io(error)) => Err(error),
        Err(error) => return Ok(Opened::Denied(format!("it {error}"))),
    };
    match opened {
        Ok(opened) => Ok(Opened::Found(opened)),
        Err(error) if is_exhausted(&error) => Err(error),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Opened::Missing),
            _ => Ok(Opened::Denied(format!("it cannot be opened: {error}"))),
        },
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// Opens what was found, unless something else is at its path now.
fn open_target(found: &Lookup) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // It is older than Landlock, so a filter that denies it denies Landlock, too.
    let opened = openat2(CWD, &found.target, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let stat = fstat(&opened)?;
    match found.id == (Id { device: stat.st_dev, inode: stat.st_ino }) {
        true => Ok(opened),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it was replaced meanwhile")),
    }
}

fn add_ports(
    ruleset: RulesetCreated,
    policy: &Policy,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let (udp, tcp): (Vec<&NetRule>, Vec<&NetRule>) =
        policy.connect.iter().partition(|rule| rule.udp);
    let connect = tcp.iter().map(|rule| NetPort::new(rule.port, AccessNet::ConnectTcp));
    let send = udp.iter().map(|rule| NetPort::new(rule.port, AccessNet::ConnectSendUdp));
    let listen = policy.listen.iter().map(|rule| NetPort::new(rule.port, AccessNet::BindTcp));
    // The kernel binds a socket to a free port before it sends.
    let free = (!udp.is_empty()).then(|| NetPort::new(0, AccessNet::BindUdp));
    connect.chain(send).chain(listen).chain(free).try_fold(ruleset, RulesetCreated::add_rule)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::Protected;

    #[test]
    fn paths_that_programs_may_have_replaced_are_omitted() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it exists");
        for name in ["shared", "own/sub", "secret"] {
            fs::create_dir_all(root.join(name)).expect("a folder");
        }
        fs::write(root.join("secret/tool"), "").expect("a file");
        symlink(root.join("secret/tool"), root.join("shared/tool")).expect("a link");
        symlink(root.join("secret"), root.join("shared/lib")).expect("a link");
        symlink(root.join("secret"), root.join("own/lib")).expect("a link");
        let policy = Policy {
            run: vec![root.join("shared/tool").into(), root.join("missing").into()],
            system: vec![root.join("shared/lib"), root.join("secret")],
            read: vec![root.join("own/sub").into(), root.join("own/lib").into()],
            write: vec![root.join("own").into(), root.join("secret").into()],
            shared: vec![root.join("shared")],
            protected: vec![Protected {
                path: root.join("secret/missing/file"),
                name: "a test",
                with_content: false,
            }],
            ..Policy::default()
        };
        let omitted = create(&policy, None).expect("a ruleset").omitted;
        let reasons: Vec<_> =
            omitted.iter().map(|it| (it.path.as_path(), it.reason.as_str())).collect();
        let leads_out = |target: &str| {
            let [target, shared] = [target, "shared"].map(|name| root.join(name));
            format!("it leads to `{}`, outside of `{}`", target.display(), shared.display())
        };
        let protected = root.join("secret/missing/file");
        let contains =
            format!("it contains `{}` (a test), which it must not change", protected.display());
        let own = format!(
            "it leads to `{}`, outside of `{}`",
            root.join("secret").display(),
            root.join("own").display()
        );
        let paths = ["shared/lib", "own/lib", "shared/tool", "secret"].map(|name| root.join(name));
        let expected = [
            (paths[0].as_path(), &*leads_out("secret")),
            (paths[1].as_path(), &*own),
            (paths[2].as_path(), &*leads_out("secret/tool")),
            (paths[3].as_path(), &*contains),
        ];
        assert_eq!(reasons, expected);
    }
}
