//! The filter of system calls of a policy: what Landlock does not cover, and calls with which
//! programs have left sandboxes. It is compiled in the parent.
//!
//! It lists what is denied. What a confined program needs differs between languages and
//! versions; the paths and ports that it can use are Landlock's.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::Policy;
use crate::number_filter::{self, Decision};

/// A call that is denied under conditions, one of which must hold.
type Denied = (libc::c_long, Vec<Vec<SeccompCondition>>);

/// Rules by the number of their call, as `seccompiler` takes them.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

// The numbers of newer calls are the same on all processors that filters are compiled for, and not
// all of them are in `libc`.
const QUOTACTL_FD: libc::c_long = 443;
const FCHMODAT2: libc::c_long = 452;
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;
const OPEN_TREE_ATTR: libc::c_long = 467;
const FILE_SETATTR: libc::c_long = 469;

/// Calls that are denied always.
const DENIED: &[libc::c_long] = &[
    // Memory, files and state of other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_bpf,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // All processes stay in the group by which the host stops them.
    libc::SYS_setsid,
    libc::SYS_setpgid,
    // Keys are shared by all processes of a user.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Memory, messages and semaphores that all processes of a user share.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    // Files by handles, and events of all files of a mount.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    // Attributes of files, which Landlock does not cover. `fchmod` and `futimens` need an open file.
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_fchown,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SETXATTRAT,
    REMOVEXATTRAT,
    FILE_SETATTR,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
    // The machine itself.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    QUOTACTL_FD,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Calls that programs replace by others if the kernel does not know them. Filters cannot read the
/// arguments of `clone3`, and `io_uring` runs other calls past all filters.
const UNKNOWN: &[libc::c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Calls that change the process in their first argument: only the caller itself, which is 0.
const ONLY_SELF: &[libc::c_long] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];

/// Requests of `ioctl` that are denied.
const DENIED_REQUESTS: &[u64] = &[
    // Input could be typed into a terminal, as if by its user.
    libc::TIOCSTI,
    libc::TIOCLINUX,
    // Attributes of files: `FS_IOC_SETFLAGS` (also of 32 bits) and `FS_IOC_FSSETXATTR`.
    0x4008_6602,
    0x4004_6602,
    0x401c_5820,
];

/// Returns whether filters can be compiled for this processor.
pub(crate) fn is_known_architecture() -> bool {
    TargetArch::try_from(std::env::consts::ARCH).is_ok()
}

/// Compiles the filter of a policy.
pub(crate) fn compile(policy: &Policy) -> io::Result<BpfProgram> {
    let failed = |error: &dyn Display| {
        io::Error::other(format!("cannot compile its filter of system calls: {error}"))
    };
    let architecture =
        TargetArch::try_from(std::env::consts::ARCH).map_err(|error| failed(&error))?;
    let deny = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let program = |rules: Rules| {
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, deny.clone(), architecture);
        filter.and_then(BpfProgram::try_from).map_err(|error| failed(&error))
    };
    let number = |call: i64| u32::try_from(call).map_err(|error| failed(&error));
    let mut calls = BTreeMap::new();
    for (call, code) in errors(policy) {
        calls.insert(number(call)?, Decision::Fail(code));
    }
    for (call, rules) in conditional(policy).and_then(rules).map_err(|error| failed(&error))? {
        let conditions = program(Rules::from([(call, rules)]))?;
        // Does not replace an error: that would permit more.
        calls.entry(number(call)?).or_insert(Decision::Run(conditions));
    }
    number_filter::compile(calls, program(Rules::new())?)
        .map_err(|_| failed(&"it has too many numbers, so a jump exceeds 255 instructions"))
}

/// Returns the calls that always fail, with their error numbers.
fn errors(policy: &Policy) -> impl Iterator<Item = (libc::c_long, i32)> {
    let denied = DENIED.iter().map(|call| (*call, libc::EPERM));
    let unknown = UNKNOWN.iter().map(|call| (*call, libc::ENOSYS));
    #[cfg(target_arch = "x86_64")]
    let forks = [libc::SYS_fork, libc::SYS_vfork].map(|call| (call, libc::EPERM));
    #[cfg(not(target_arch = "x86_64"))]
    let forks: [(libc::c_long, i32); 0] = [];
    let is_single_process = policy.limits.processes == Some(1);
    denied.chain(unknown).chain(forks.into_iter().filter(move |_| is_single_process))
}

fn rules(calls: Vec<Denied>) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for (call, alternatives) in calls {
        let conditions = alternatives.into_iter().map(SeccompRule::new);
        let conditions: Vec<_> = conditions.collect::<Result<_, _>>()?;
        rules.entry(call).or_default().extend(conditions);
    }
    Ok(rules)
}

/// Returns the calls that are denied with some arguments.
fn conditional(policy: &Policy) -> Result<Vec<Denied>, seccompiler::BackendError> {
    let mut denied: Vec<Denied> = Vec::new();
    for call in ONLY_SELF {
        denied.push((*call, vec![vec![is(0, SeccompCmpOp::Ne, 0)?]]));
    }
    // The first argument is the kind of id, the second the process.
    const IOPRIO_WHO_PROCESS: u64 = 1;
    for (call, process) in [
        (libc::SYS_setpriority, u64::from(libc::PRIO_PROCESS)),
        (libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS),
    ] {
        let others = [is(0, SeccompCmpOp::Ne, process)?, is(1, SeccompCmpOp::Ne, 0)?];
        denied.push((call, others.map(|one| vec![one]).into()));
    }
    // It connects without the check of Landlock.
    const FAST_OPEN: u64 = libc::MSG_FASTOPEN as u64;
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        denied.push((call, vec![vec![is(flags, SeccompCmpOp::MaskedEq(FAST_OPEN), FAST_OPEN)?]]));
    }
    // By a path; without one, the first argument is an open file.
    let by_path = SeccompCondition::new(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    denied.push((libc::SYS_utimensat, vec![vec![by_path]]));
    // Programs could be executed from memory.
    let is_executable = is(1, SeccompCmpOp::MaskedEq(MFD_NOEXEC_SEAL), 0)?;
    denied.push((libc::SYS_memfd_create, vec![vec![is_executable]]));
    for request in DENIED_REQUESTS {
        denied.push((libc::SYS_ioctl, vec![vec![is(1, SeccompCmpOp::Eq, *request)?]]));
    }
    denied.push((libc::SYS_clone, namespaces()?));
    if policy.limits.processes == Some(1) {
        let is_process = is(0, SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64), 0)?;
        denied.push((libc::SYS_clone, vec![vec![is_process]]));
    }
    denied.push((libc::SYS_socket, sockets(policy)?));
    Ok(denied)
}

const MFD_NOEXEC_SEAL: u64 = 8;

fn namespaces() -> Result<Vec<Vec<SeccompCondition>>, seccompiler::BackendError> {
    const FLAGS: [libc::c_int; 7] = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let condition = |flag: libc::c_int| {
        let flag = flag as u64;
        Ok(vec![is(0, SeccompCmpOp::MaskedEq(flag), flag)?])
    };
    FLAGS.into_iter().map(condition).collect()
}

/// Sockets other than Unix sockets, and TCP or UDP as far as the policy has such ports. Landlock
/// checks neither other protocols nor other families.
fn sockets(policy: &Policy) -> Result<Vec<Vec<SeccompCondition>>, seccompiler::BackendError> {
    const TYPE_MASK: u64 = 0xf;
    let not_unix = || is(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64);
    let (tcp, udp) = (policy.has_tcp(), policy.has_udp());
    if !policy.has_ports() {
        return Ok(vec![vec![not_unix()?]]);
    }
    let ip = [libc::AF_INET as u64, libc::AF_INET6 as u64];
    let other_family =
        vec![not_unix()?, is(0, SeccompCmpOp::Ne, ip[0])?, is(0, SeccompCmpOp::Ne, ip[1])?];
    let other_protocol = vec![
        not_unix()?,
        is(2, SeccompCmpOp::Ne, 0)?,
        is(2, SeccompCmpOp::Ne, libc::IPPROTO_TCP as u64)?,
        is(2, SeccompCmpOp::Ne, libc::IPPROTO_UDP as u64)?,
    ];
    let is_allowed = |kind: &u64| {
        (tcp && *kind == libc::SOCK_STREAM as u64) || (udp && *kind == libc::SOCK_DGRAM as u64)
    };
    let mut denied = vec![other_family, other_protocol];
    for kind in (0..=TYPE_MASK).filter(|kind| !is_allowed(kind)) {
        denied.push(vec![not_unix()?, is(1, SeccompCmpOp::MaskedEq(TYPE_MASK), kind)?]);
    }
    Ok(denied)
}

/// Compares an argument of 32 bits.
fn is(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::number_filter::tests::run;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const PERMIT: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();

    fn result(policy: &Policy, (architecture, call): (u32, libc::c_long), args: &[u64]) -> u32 {
        let mut data = [0; 16];
        (data[0], data[1]) = (u32::try_from(call).expect("a number"), architecture);
        for (at, argument) in args.iter().enumerate() {
            let (low, high) = (*argument as u32, (*argument >> 32) as u32);
            (data[4 + 2 * at], data[5 + 2 * at]) = (low, high);
        }
        run(&compile(policy).expect("a filter"), &data).0
    }

    #[test]
    fn calls_are_decided_by_number_and_arguments() {
        let (ipv4, stream) = (libc::AF_INET as u64, libc::SOCK_STREAM as u64);
        let thread = libc::CLONE_THREAD as u64;
        for (call, args, expected) in [
            (libc::SYS_read, &[0][..], PERMIT),
            (libc::SYS_execve, &[], PERMIT),
            (libc::SYS_ptrace, &[], EPERM),
            (libc::SYS_clone3, &[], ENOSYS),
            (libc::SYS_fork, &[], PERMIT),
            (0x4000_0000, &[], ENOSYS),
            (libc::SYS_socket, &[libc::AF_UNIX as u64, stream], PERMIT),
            (libc::SYS_socket, &[ipv4, stream], EPERM),
            (libc::SYS_clone, &[thread], PERMIT),
            (libc::SYS_clone, &[libc::CLONE_NEWUSER as u64], EPERM),
            (libc::SYS_prlimit64, &[0], PERMIT),
            (libc::SYS_prlimit64, &[1], EPERM),
            (libc::SYS_ioctl, &[0, libc::TIOCSTI], EPERM),
            // The kernel ignores the upper half of a request.
            (libc::SYS_ioctl, &[0, libc::TIOCSTI | 1 << 32], EPERM),
            (libc::SYS_ioctl, &[0, libc::TIOCGWINSZ], PERMIT),
            (libc::SYS_utimensat, &[0, 0], PERMIT),
            (libc::SYS_utimensat, &[0, 1 << 32], EPERM),
        ] {
            let found = result(&Policy::default(), (X86_64, call), args);
            assert_eq!(found, expected, "{call} {args:x?}");
        }
    }

    #[test]
    fn limits_and_ports_decide_about_processes_and_sockets() {
        let mut policy = Policy::default();
        policy.limits.processes = Some(1);
        policy.connect.push(hotbay_manifest::NetRule::tcp(443));
        let (ipv4, ipv6) = (libc::AF_INET as u64, libc::AF_INET6 as u64);
        let (stream, datagram) = (libc::SOCK_STREAM as u64, libc::SOCK_DGRAM as u64);
        for (call, args, expected) in [
            (libc::SYS_fork, &[][..], EPERM),
            (libc::SYS_clone, &[0], EPERM),
            (libc::SYS_clone, &[libc::CLONE_THREAD as u64], PERMIT),
            (libc::SYS_socket, &[ipv4, stream], PERMIT),
            (libc::SYS_socket, &[ipv6, stream | libc::SOCK_CLOEXEC as u64], PERMIT),
            (libc::SYS_socket, &[ipv4, datagram], EPERM),
            (libc::SYS_socket, &[ipv4, stream, libc::IPPROTO_SCTP as u64], EPERM),
            (libc::SYS_socket, &[libc::AF_NETLINK as u64, stream], EPERM),
        ] {
            let found = result(&policy, (X86_64, call), args);
            assert_eq!(found, expected, "{call} {args:x?}");
        }
    }

    #[test]
    fn no_call_of_another_architecture_is_permitted() {
        for call in 0..600 {
            let found = result(&Policy::default(), (I386, call), &[]);
            assert!([libc::SECCOMP_RET_KILL_PROCESS, EPERM, ENOSYS].contains(&found), "{call}");
        }
    }
}
