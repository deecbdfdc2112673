//! The Landlock ruleset of a policy, made in the parent.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hotbay_manifest::NetRule;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    PathBeneath, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, Scope,
    make_bitflags,
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use crate::policy::resolve;
use crate::{GrantedPath, Policy};

/// The newest version of the ABI that the rules below were written for.
const ABI: ABI = landlock::ABI::V10;

/// Creates a ruleset of everything that the kernel knows. `folder` is the private folder of the
/// launch, which can be changed.
///
/// Rules of paths that do not exist are omitted: what they would permit is denied.
pub(crate) fn create(policy: &Policy, folder: Option<&Path>) -> io::Result<Option<OwnedFd>> {
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
    let writable = policy.write.iter().filter_map(|granted| granted.path.canonicalize().ok());
    let writable: Vec<_> = writable.filter(|path| path.is_dir()).collect();
    let rules = [(&policy.read, read), (&policy.run, run), (&policy.write, write)];
    let mut ruleset = ruleset;
    for path in &policy.system {
        ruleset = add_path(ruleset, &path.into(), read).map_err(|error| failed(&error))?;
    }
    for (paths, access) in rules {
        for granted in paths.iter().filter_map(|granted| resolve(granted, folder)) {
            if is_below_any(&granted.path, &writable) {
                continue;
            }
            ruleset = add_path(ruleset, &granted, access).map_err(|error| failed(&error))?;
        }
    }
    if let Some(folder) = folder {
        ruleset = add_path(ruleset, &folder.into(), write).map_err(|error| failed(&error))?;
    }
    add_ports(ruleset, policy).map_err(|error| failed(&error)).map(Option::from)
}

/// Returns whether a part of `path` leads into one of these folders, which the process can change:
/// what exists now may be a link that it made.
fn is_below_any(path: &Path, writable: &[PathBuf]) -> bool {
    let leads_into = |ancestor: &Path| {
        let target = ancestor.canonicalize();
        target.is_ok_and(|target| writable.iter().any(|folder| target.starts_with(folder)))
    };
    !writable.is_empty() && path.ancestors().skip(1).any(leads_into)
}

fn add_path(
    ruleset: RulesetCreated,
    granted: &GrantedPath,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let Ok(opened) = open(granted) else { return Ok(ruleset) };
    let is_dir = fstat(&opened).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
    let access = if is_dir { access } else { access & AccessFs::from_file(ABI) };
    ruleset.add_rule(PathBeneath::new(opened, access))
}

/// Opens a path, without its links if they lead out of the folder that it must not leave. A check
/// before would be too early: a process could replace a part of the path by a link meanwhile.
fn open(granted: &GrantedPath) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let GrantedPath { path, beneath } = granted;
    let Some(folder) = beneath else { return Ok(rustix::fs::open(path, flags, Mode::empty())?) };
    let opened = rustix::fs::open(folder, flags | OFlags::DIRECTORY, Mode::empty())?;
    match path.strip_prefix(folder) {
        Ok(rest) if rest.as_os_str().is_empty() => Ok(opened),
        Ok(rest) => Ok(openat2(&opened, rest, flags, Mode::empty(), ResolveFlags::BENEATH)?),
        Err(_) => Err(io::ErrorKind::InvalidInput.into()),
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
