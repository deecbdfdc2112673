//! Which rules of a policy a kernel enforces. Pure: a policy and a kernel lead to a report.

use std::fmt;

use hotbay_manifest::{NetRule, SandboxLimits, SandboxRule};

use crate::{Delegated, Kernel, Policy};

/// The rules of a sandbox, each with how far it is enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// In a fixed order. Limits and namespaces that are not set are omitted.
    pub rules: Vec<RuleReport>,
}

/// One rule of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleReport {
    /// The rule.
    pub rule: SandboxRule,
    /// How far it is enforced.
    pub status: RuleStatus,
}

/// How far a rule is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleStatus {
    /// As it says.
    Enforced,
    /// With an exception, which the text names.
    Partial(String),
    /// Not at all, for the reason in the text.
    Unavailable(String),
}

impl RuleStatus {
    /// Returns `enforced`, `partial` or `unavailable`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Partial(_) => "partial",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Returns what is not enforced, and why.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Enforced => None,
            Self::Partial(reason) | Self::Unavailable(reason) => Some(reason),
        }
    }
}

impl fmt::Display for RuleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.rule, self.status.as_str())?;
        self.status.reason().map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}

impl Confinement {
    /// Returns which rules of `policy` are enforced by `kernel`.
    pub fn new(policy: &Policy, kernel: Kernel) -> Self {
        let set = policy.limits.entries().into_iter().filter(|(_, limit)| limit.is_some());
        let limits = set.map(|(rule, limit)| (rule, limit_status(policy, rule, limit, kernel)));
        let scope = Scope::new(policy, kernel);
        let rules = [
            (SandboxRule::Read, read(kernel)),
            (SandboxRule::Write, write(kernel)),
            (SandboxRule::Run, read(kernel)),
            (SandboxRule::Net, net(policy, kernel, scope)),
            (SandboxRule::Ipc, ipc(kernel, scope)),
            (SandboxRule::Syscalls, syscalls(kernel)),
        ];
        let namespaces = policy.namespaces.then(|| (SandboxRule::Namespaces, namespaces(kernel)));
        let rules = rules.into_iter().chain(namespaces).chain(limits);
        Self { rules: rules.map(|(rule, status)| RuleReport { rule, status }).collect() }
    }

    /// Returns what `kernel` enforces of a policy that uses every rule, with a delegated folder of
    /// control groups if there is one.
    pub fn of_all_rules(kernel: Kernel, cgroup: Option<Delegated>) -> Self {
        let limits = SandboxLimits::default()
            .with_memory_bytes(Some(1))
            .with_processes(Some(2))
            .with_cpu_millis(Some(1))
            .with_cpu_seconds(Some(1))
            .with_call_cpu_millis(Some(1))
            .with_open_files(Some(1))
            .with_file_bytes(Some(1));
        let connect = vec![NetRule::tcp(443)];
        let policy = Policy { connect, namespaces: true, limits, cgroup, ..Policy::default() };
        Self::new(&policy, kernel)
    }

    /// Returns the rules that are not fully enforced.
    pub fn incomplete(&self) -> impl Iterator<Item = &RuleReport> {
        self.rules.iter().filter(|rule| rule.status != RuleStatus::Enforced)
    }

    /// Returns the status of a rule that the policy has.
    pub fn status(&self, rule: SandboxRule) -> Option<&RuleStatus> {
        self.rules.iter().find(|report| report.rule == rule).map(|report| &report.status)
    }
}

/// How far namespaces separate a process from others.
#[derive(Clone, Copy, Debug)]
struct Scope {
    /// It has no privilege over processes outside of its user namespace, so it cannot inspect them.
    own_user: bool,
    /// It has its own network, and abstract Unix sockets belong to a network.
    own_network: bool,
}

impl Scope {
    fn new(policy: &Policy, kernel: Kernel) -> Self {
        let own_user = policy.namespaces && kernel.namespaces.is_ok();
        Self { own_user, own_network: own_user && !policy.has_ports() }
    }
}

fn partial(reason: impl Into<String>) -> RuleStatus {
    RuleStatus::Partial(reason.into())
}

fn unavailable(reason: impl Into<String>) -> RuleStatus {
    RuleStatus::Unavailable(reason.into())
}

/// Says which kernel is needed for a version of the Landlock ABI.
fn needs(abi: u32) -> String {
    format!("needs Linux {} with Landlock", Kernel::linux_of_landlock(abi))
}

fn no_landlock() -> RuleStatus {
    unavailable(format!("Landlock is not available; {}", needs(1)))
}

const NO_SECCOMP: &str = "filters of system calls (seccomp) are not available";

fn read(kernel: Kernel) -> RuleStatus {
    if kernel.landlock == 0 { no_landlock() } else { RuleStatus::Enforced }
}

fn write(kernel: Kernel) -> RuleStatus {
    match kernel {
        Kernel { landlock: 0, .. } => no_landlock(),
        Kernel { landlock: 1 | 2, .. } => {
            partial(format!("files can be truncated by their paths; {}", needs(3)))
        }
        Kernel { seccomp: false, .. } => {
            partial(format!("modes, owners and times of files can be changed; {NO_SECCOMP}"))
        }
        _ => RuleStatus::Enforced,
    }
}

/// Without any rule, no socket of the network can be created. Otherwise Landlock checks ports.
fn net(policy: &Policy, kernel: Kernel, scope: Scope) -> RuleStatus {
    let rules = || policy.connect.iter().chain(&policy.listen);
    let mut reasons = Vec::new();
    match kernel {
        Kernel { seccomp: false, .. } if scope.own_network => {
            return partial(format!(
                "sockets that belong to no network namespace can be used, such as vsock; {NO_SECCOMP}"
            ));
        }
        Kernel { landlock: 0..=3, seccomp: false, .. } => {
            return unavailable(format!("{NO_SECCOMP}, and ports need Landlock of Linux 6.7"));
        }
        Kernel { seccomp: false, .. } => {
            return partial(format!("sockets other than TCP are not restricted; {NO_SECCOMP}"));
        }
        _ if rules().next().is_none() => {}
        Kernel { landlock: 0..=3, .. } => {
            reasons.push(format!("any port can be used; {}", needs(4)))
        }
        Kernel { landlock, .. } => {
            if landlock <= 9 && policy.has_udp() {
                reasons.push(format!("any UDP port can be used; {}", needs(10)));
            }
            if rules().any(|rule| rule.address.is_some()) {
                reasons.push("the kernel checks ports, and not their addresses".to_owned());
            }
            if policy.has_tcp() && policy.listen.iter().all(|rule| rule.port != 0) {
                reasons
                    .push("a TCP socket can listen on a free port, which no kernel checks".into());
            }
        }
    }
    match reasons.is_empty() {
        true => RuleStatus::Enforced,
        false => partial(reasons.join("; ")),
    }
}

fn ipc(kernel: Kernel, scope: Scope) -> RuleStatus {
    let sockets = if scope.own_network { "sockets that have a path" } else { "sockets" };
    match kernel {
        Kernel { landlock: 0, seccomp: false, .. } if scope.own_user => partial(format!(
            "processes of the same user can be signaled and limited, and their {sockets} connected \
             to; {NO_SECCOMP}, and {}",
            needs(6)
        )),
        Kernel { landlock: 0, seccomp: false, .. } => no_landlock(),
        Kernel { seccomp: false, .. } => partial(format!(
            "limits and priorities of other processes can be changed; {NO_SECCOMP}"
        )),
        Kernel { landlock: 0..=5, .. } => partial(format!(
            "processes of the same user can be signaled, and their {sockets} connected to; {}",
            needs(6)
        )),
        Kernel { landlock: 6..=8, .. } => {
            partial(format!("Unix sockets that have a path can be connected to; {}", needs(9)))
        }
        _ => RuleStatus::Enforced,
    }
}

fn syscalls(kernel: Kernel) -> RuleStatus {
    if kernel.seccomp { RuleStatus::Enforced } else { unavailable(NO_SECCOMP) }
}

fn namespaces(kernel: Kernel) -> RuleStatus {
    kernel.namespaces.map_or_else(|cause| unavailable(cause.to_string()), |()| RuleStatus::Enforced)
}

fn limit_status(
    policy: &Policy,
    rule: SandboxRule,
    limit: Option<u64>,
    kernel: Kernel,
) -> RuleStatus {
    if policy.cgroup.as_ref().is_some_and(|group| group.controllers.enforces(rule)) {
        return RuleStatus::Enforced;
    }
    if cfg!(not(target_os = "linux"))
        && matches!(rule, SandboxRule::MemoryBytes | SandboxRule::CallCpuSeconds)
    {
        return unavailable("this system does not enforce it");
    }
    match rule {
        SandboxRule::Processes if limit == Some(1) && kernel.seccomp => RuleStatus::Enforced,
        SandboxRule::Processes => {
            partial("checked each 100 ms: a program that exceeds it meanwhile is stopped")
        }
        SandboxRule::MemoryBytes => partial(
            "allocations of one process above it fail; the memory of all processes is checked each \
             100 ms, without files in memory that are not mapped",
        ),
        SandboxRule::CallCpuSeconds => partial(
            "checked each 100 ms: calls that run at once share the time of all processes evenly",
        ),
        SandboxRule::Cpu => unavailable(match &policy.cgroup {
            None => "needs a folder of control groups that is delegated to the host".to_owned(),
            Some(group) => {
                format!("`{}` has no controller `cpu`", group.folder.display())
            }
        }),
        _ => RuleStatus::Enforced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> NetRule {
        NetRule::parse(text).expect(text)
    }

    /// Checks the reports of `read write run net ipc syscalls`, each by its first letter.
    #[track_caller]
    fn check(policy: &Policy, kernel: Kernel, expect: &str) {
        let report = Confinement::new(policy, kernel);
        let letters: String = report.rules.iter().map(|rule| &rule.status.as_str()[..1]).collect();
        assert_eq!(letters, expect, "{report:?}");
        for rule in report.incomplete() {
            assert!(rule.status.reason().is_some_and(|reason| !reason.is_empty()), "{rule}");
        }
    }

    #[test]
    fn newer_kernels_enforce_more() {
        let none = Policy::default();
        let with = |connect: &[&str]| Policy {
            connect: connect.iter().map(|text| rule(text)).collect(),
            ..Policy::default()
        };
        let kernel = |landlock| Kernel::new(landlock, true);
        check(&none, Kernel::new(0, false), "uuuuuu");
        check(&none, kernel(0), "uuuepe");
        check(&none, kernel(1), "epeepe");
        check(&none, kernel(3), "eeeepe");
        check(&none, kernel(7), "eeeepe");
        check(&none, kernel(9), "eeeeee");
        check(&none, Kernel::new(7, false), "epeppu");
        check(&with(&["443"]), kernel(3), "eeeppe");
        check(&with(&["443"]), kernel(4), "eeeppe");
        check(&with(&["127.0.0.1:443"]), kernel(9), "eeepee");
        check(&with(&["443", "udp:53"]), kernel(9), "eeepee");
        check(&with(&["443", "udp:53"]), kernel(10), "eeepee");
        check(&with(&["udp:53"]), kernel(10), "eeeeee");
        let free = Policy { listen: vec![rule("0")], ..with(&["443"]) };
        check(&free, kernel(4), "eeeepe");
        check(&with(&["443"]), Kernel::new(3, false), "epeupu");
    }

    #[test]
    fn namespaces_enforce_more_on_older_kernels() {
        let policy = Policy { namespaces: true, ..Policy::default() };
        let connect = Policy { connect: vec![rule("443")], ..policy.clone() };
        let kernel = |landlock, seccomp| Kernel::new(landlock, seccomp).with_namespaces(Ok(()));
        check(&policy, kernel(0, false), "uuuppue");
        check(&policy, kernel(0, true), "uuuepee");
        check(&policy, kernel(5, true), "eeeepee");
        check(&policy, kernel(9, true), "eeeeeee");
        check(&policy, Kernel::new(0, false), "uuuuuuu");
        check(&policy, Kernel::new(9, true), "eeeeeeu");
        check(&connect, kernel(0, false), "uuuupue");
        check(&connect, kernel(3, true), "eeeppee");
        let reason = |policy: &Policy, kernel| {
            let report = Confinement::new(policy, kernel);
            report.status(SandboxRule::Ipc).and_then(RuleStatus::reason).map(str::to_owned)
        };
        let has_path = |text: String| text.contains("sockets that have a path");
        assert_eq!(reason(&policy, kernel(5, true)).map(has_path), Some(true));
        assert_eq!(reason(&connect, kernel(5, true)).map(has_path), Some(false));
    }

    #[test]
    fn limits_are_reported_if_they_are_set() {
        let limits = SandboxLimits::default()
            .with_processes(Some(1))
            .with_cpu_millis(Some(500))
            .with_call_cpu_millis(Some(500))
            .with_open_files(Some(8));
        let policy = Policy { limits, ..Policy::default() };
        check(&policy, Kernel::new(9, true), "eeeeeeeupe");
        check(&policy, Kernel::new(9, false), "epeppupupe");
        let limits = SandboxLimits::default().with_processes(Some(4)).with_memory_bytes(Some(1));
        let policy = Policy { limits, ..Policy::default() };
        check(&policy, Kernel::new(9, true), "eeeeeepp");
    }
}
