//! The Landlock ruleset of a policy, made in the parent.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use hotbay_manifest::NetRule;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    PathBeneath, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, Scope,
    make_bitflags,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::lookup::Lookup;
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
    let writable = policy.write.iter().filter_map(|granted| resolve(granted, folder));
    let writable = writable.filter_map(|granted| Some(Lookup::of(&granted.path).ok()?.target));
    let writable: Vec<_> = writable.filter(|path| path.is_dir()).collect();
    let rules = [(&policy.read, read), (&policy.run, run), (&policy.write, write)];
    let mut ruleset = ruleset;
    let system: Vec<_> = policy.system.iter().map(GrantedPath::from).collect();
    for (paths, access) in [(&system, read)].into_iter().chain(rules) {
        for granted in paths.iter().filter_map(|granted| resolve(granted, folder)) {
            // Paths that do not exist are omitted.
            let Ok(opened) = open(&granted, &writable) else { continue };
            ruleset = add_path(ruleset, opened, access).map_err(|error| failed(&error))?;
        }
    }
    if let Some(folder) = folder {
        let opened = open(&folder.into(), &[])?;
        ruleset = add_path(ruleset, opened, write).map_err(|error| failed(&error))?;
    }
    add_ports(ruleset, policy).map_err(|error| failed(&error)).map(Option::from)
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

/// Opens what a path leads to, unless the process can change that, or it is outside of the folders
/// that the path must not leave.
fn open(granted: &GrantedPath, writable: &[PathBuf]) -> io::Result<OwnedFd> {
    let denied = || Err(io::ErrorKind::PermissionDenied.into());
    let found = Lookup::of(&granted.path)?;
    if found.depends_on(writable) || !granted.permits(&found.target) {
        return denied();
    }
    // A component that has become a link since then is not followed.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    match openat2(CWD, &found.target, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Filters of older containers do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {
            let opened = rustix::fs::open(&found.target, flags | OFlags::NOFOLLOW, Mode::empty())?;
            let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
            if std::fs::read_link(link)? == found.target { Ok(opened) } else { denied() }
        }
        opened => Ok(opened?),
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
