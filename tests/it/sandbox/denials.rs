//! Tests in a process whose kernel seems to lack what confines programs, as in a container that
//! denies the system calls.

use hotbay_tests::run_in_subprocess;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const VARIABLE: &str = "HOTBAY_TEST_WITHOUT";

/// Runs a test again in a process without these abilities, and returns false; returns true there.
#[track_caller]
pub(super) fn run_without(abilities: &str, test: &str) -> bool {
    let Ok(denied) = std::env::var(VARIABLE) else {
        run_in_subprocess(test, &[(VARIABLE, abilities)]);
        return false;
    };
    deny(&denied);
    true
}

/// Takes abilities from this process: `landlock`, `seccomp` or `namespaces`, separated by spaces.
pub(super) fn deny(abilities: &str) {
    // The last one denies further filters.
    let order = ["namespaces", "landlock", "seccomp"];
    for ability in
        order.into_iter().filter(|ability| abilities.split(' ').any(|one| one == *ability))
    {
        let (calls, code): (&[_], _) = match ability {
            "namespaces" => (&[libc::SYS_unshare], libc::EPERM),
            "seccomp" => (&[libc::SYS_seccomp], libc::ENOSYS),
            _ => (
                &[
                    libc::SYS_landlock_create_ruleset,
                    libc::SYS_landlock_add_rule,
                    libc::SYS_landlock_restrict_self,
                ],
                libc::ENOSYS,
            ),
        };
        let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
        let deny = SeccompAction::Errno(code.unsigned_abs());
        let architecture = std::env::consts::ARCH.try_into().expect("a known processor");
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, deny, architecture);
        let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
        seccompiler::apply_filter_all_threads(&program).expect("it is installed");
    }
}
