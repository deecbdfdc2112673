//! What the processes of a confined program use, and whether that exceeds its limits. Linux only;
//! other systems check nothing.
//!
//! Confined processes cannot leave their group, so the group has all of them.

use std::time::Duration;

use hotbay_sandbox::Policy;
use rustix::process::Pid;

/// Interval of the checks. Between two of them, a program may exceed its limits.
const INTERVAL: Duration = Duration::from_millis(100);

/// The limits that the host itself checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CheckedLimits {
    processes: Option<u64>,
    memory_bytes: Option<u64>,
}

/// What the processes of a group use at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    processes: u64,
    memory_bytes: u64,
}

/// Waits until the processes of `group` exceed a limit of `policy`, and returns the reason. Never
/// returns if there is no such limit. Cancel safe.
pub(crate) async fn exceeded(
    group: Option<Pid>,
    guardian: Option<Pid>,
    policy: Option<&Policy>,
) -> String {
    let limits = policy.map(checked);
    let (Some(group), Some(limits)) = (group, limits.filter(CheckedLimits::is_any)) else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(INTERVAL).await;
        let sampled = tokio::task::spawn_blocking(move || of_group(group, guardian)).await;
        if let Some(reason) = sampled.ok().and_then(|usage| limits.exceeded_by(usage)) {
            return reason;
        }
    }
}

fn checked(policy: &Policy) -> CheckedLimits {
    let hotbay_manifest::SandboxLimits { processes, memory_bytes, .. } = policy.limits;
    let controllers = policy.cgroup.as_ref().map(|group| group.controllers).unwrap_or_default();
    CheckedLimits {
        // A single process is a matter of its filter.
        processes: processes.filter(|limit| *limit > 1 && !controllers.pids),
        memory_bytes: memory_bytes.filter(|_| !controllers.memory),
    }
}

impl CheckedLimits {
    fn is_any(&self) -> bool {
        self.processes.is_some() || self.memory_bytes.is_some()
    }

    fn exceeded_by(&self, usage: Usage) -> Option<String> {
        let exceeds = |used: u64, limit: Option<u64>| limit.filter(|limit| used > *limit);
        if let Some(limit) = exceeds(usage.processes, self.processes) {
            return Some(format!(
                "it exceeded its limit `processes`: it had {} processes, {limit} are permitted",
                usage.processes
            ));
        }
        exceeds(usage.memory_bytes, self.memory_bytes).map(|limit| {
            format!(
                "it exceeded its limit `memory_bytes`: its processes used {} bytes, {limit} are \
                 permitted",
                usage.memory_bytes
            )
        })
    }
}

/// Sums up what the processes of a group use, without their guardian. Blocks.
#[cfg(target_os = "linux")]
fn of_group(group: Pid, guardian: Option<Pid>) -> Usage {
    let guardian = guardian.map(Pid::as_raw_nonzero);
    let page_bytes = rustix::param::page_size() as u64;
    let Ok(processes) = std::fs::read_dir("/proc") else { return Usage::default() };
    let mut usage = Usage::default();
    for process in processes.flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| Some(*pid) != guardian) else { continue };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        if let Some(pages) = stat.ok().and_then(|stat| resident_pages(&stat, group)) {
            usage.processes += 1;
            usage.memory_bytes =
                usage.memory_bytes.saturating_add(pages.saturating_mul(page_bytes));
        }
    }
    usage
}

#[cfg(not(target_os = "linux"))]
fn of_group(_: Pid, _: Option<Pid>) -> Usage {
    Usage::default()
}

/// Returns the resident pages of a process of `group`, given its `stat` (see proc(5)); `None` for
/// others and for exited ones.
#[cfg(target_os = "linux")]
fn resident_pages(stat: &str, group: Pid) -> Option<u64> {
    const FIRST_FIELD: usize = 3;
    // The name of the program may have spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - FIRST_FIELD).copied();
    let is_in_group = field(5)?.parse() == Ok(group.as_raw_nonzero().get());
    if !is_in_group || matches!(field(3)?, "Z" | "X") {
        return None;
    }
    field(24)?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn pages_of_processes_in_the_group_are_read() {
        let stat = |state: &str, group: i32| {
            format!("7 (a) b) {state} 1 {group} 1 0 0 0 0 0 0 0 0 0 0 0 20 0 1 0 0 9 42 0")
        };
        let group = Pid::from_raw(5).expect("not zero");
        assert_eq!(resident_pages(&stat("S", 5), group), Some(42));
        assert_eq!(resident_pages(&stat("Z", 5), group), None);
        assert_eq!(resident_pages(&stat("S", 6), group), None);
        assert_eq!(resident_pages("7 (a", group), None);
    }

    #[test]
    fn exceeded_limit_is_named() {
        let limits = CheckedLimits { processes: Some(2), memory_bytes: Some(10) };
        let usage = |processes, memory_bytes| Usage { processes, memory_bytes };
        assert_eq!(limits.exceeded_by(usage(2, 10)), None);
        let reason = |usage| limits.exceeded_by(usage).expect("exceeded");
        assert!(reason(usage(3, 0)).contains("`processes`: it had 3 processes, 2 are permitted"));
        assert!(reason(usage(1, 11)).contains("`memory_bytes`: its processes used 11 bytes"));
    }
}
