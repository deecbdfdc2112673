//! Reaps orphaned descendants of plugins when this process is process 1 or a child subreaper, in
//! which case the system reparents them to it. Other children are left alone.
//!
//! `/proc` shows little about a process that has exited, so live processes are scanned
//! periodically. A process belongs to a plugin if it carries a launch tag, if its parent belongs to
//! one, or if it shares a group or session with such a process. A process that escapes all of these
//! between two scans remains a zombie.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, child_subreaper, getpid, waitid};

use crate::child_guard;
use crate::descendants::tag_of;

/// Time between two scans.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Returns whether the system reparents orphans to this process.
pub(crate) fn adopts() -> bool {
    getpid().is_init() || matches!(child_subreaper(), Ok(Some(_)))
}

/// Scans and reaps for as long as the runtime lives.
pub(crate) async fn reap_forever() {
    let mut known = Known::default();
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let scanned = tokio::task::spawn_blocking(move || {
            known.scan();
            known
        });
        match scanned.await {
            Ok(scanned) => known = scanned,
            Err(_) => return,
        }
    }
}

/// The fields used from `/proc/PID/stat`, see proc(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    is_zombie: bool,
    parent: i32,
    group: i32,
    session: i32,
    /// Distinguishes the process from a later one with the same id.
    started_at: u64,
}

impl Stat {
    fn read(text: &str) -> Option<Self> {
        // The name may contain anything, so parsing starts after it. The first field here is field
        // 3 of proc(5).
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at - 3)?.parse().ok();
        Some(Self {
            is_zombie: *fields.first()? == "Z",
            parent: number(4)?,
            group: number(5)?,
            session: number(6)?,
            started_at: fields.get(22 - 3)?.parse().ok()?,
        })
    }
}

/// The processes that belong to plugins, by id.
#[derive(Debug, Default)]
struct Known(BTreeMap<i32, Stat>);

impl Known {
    /// Scans all processes, and reaps exited plugin processes that are children of this one.
    fn scan(&mut self) {
        let (own, all) = (getpid().as_raw_nonzero().get(), all());
        let own_tag = tag_of("self");
        let is_tagged = |pid: i32| {
            let tag = tag_of(&pid.to_string());
            tag.is_some() && tag != own_tag
        };
        self.update(own, &all, is_tagged);
        child_guard::with_started(|started| {
            for (&pid, stat) in &all {
                let is_adopted = stat.is_zombie && stat.parent == own && !started.contains(&pid);
                if is_adopted
                    && self.0.contains_key(&pid)
                    && let Some(pid) = Pid::from_raw(pid)
                {
                    // Another waiter may have reaped it first.
                    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
                }
            }
        });
    }

    fn update(&mut self, own: i32, all: &BTreeMap<i32, Stat>, is_tagged: impl Fn(i32) -> bool) {
        let host = all.get(&own).map(|host| (host.group, host.session));
        let (host_group, host_session) = host.unwrap_or_default();
        self.0.retain(|pid, known| {
            all.get(pid).is_some_and(|found| found.started_at == known.started_at)
        });
        let mut groups: BTreeSet<i32> = self.0.values().map(|known| known.group).collect();
        let mut sessions: BTreeSet<i32> = self.0.values().map(|known| known.session).collect();
        loop {
            let before = self.0.len();
            for (&pid, stat) in all {
                let belongs = || {
                    self.0.contains_key(&stat.parent)
                        || (stat.group != host_group && groups.contains(&stat.group))
                        || (stat.session != host_session && sessions.contains(&stat.session))
                        || (!stat.is_zombie && is_tagged(pid))
                };
                if pid != own && !self.0.contains_key(&pid) && belongs() {
                    groups.insert(stat.group);
                    sessions.insert(stat.session);
                    self.0.insert(pid, *stat);
                }
            }
            if self.0.len() == before {
                return;
            }
        }
    }
}

fn all() -> BTreeMap<i32, Stat> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stat = |process: fs::DirEntry| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let stat = Stat::read(&fs::read_to_string(process.path().join("stat")).ok()?)?;
        Some((pid, stat))
    };
    processes.filter_map(stat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(parent: i32, group: i32, session: i32, is_zombie: bool) -> Stat {
        Stat { is_zombie, parent, group, session, started_at: 1 }
    }

    #[test]
    fn stat_is_parsed_after_a_name_with_any_characters() {
        let rest = "0 ".repeat(15);
        let text = format!("7 (a ) Z) Z 1 5 6 {rest}99 0 0\n");
        let expected = Stat { is_zombie: true, parent: 1, group: 5, session: 6, started_at: 99 };
        assert_eq!(Stat::read(&text), Some(expected));
        assert_eq!(Stat::read("7 (a"), None);
    }

    #[test]
    fn only_processes_of_plugins_are_known() {
        let mut known = Known::default();
        let mut all = BTreeMap::from([
            (1, stat(0, 1, 1, false)),
            (2, stat(1, 2, 1, false)),
            (3, stat(2, 3, 3, false)),
            (4, stat(3, 4, 4, false)),
            (5, stat(1, 1, 1, false)),
            (6, stat(5, 1, 1, false)),
            (7, stat(1, 2, 1, true)),
            (8, stat(1, 8, 8, true)),
        ]);
        known.update(1, &all, |pid| pid == 2);
        let ids = |known: &Known| known.0.keys().copied().collect::<Vec<_>>();
        assert_eq!(ids(&known), [2, 3, 4, 7], "tagged, descendant, and same group");
        // Their parents exit, and the host adopts them.
        all.remove(&2);
        all.insert(3, stat(1, 3, 3, true));
        all.insert(4, stat(1, 4, 4, false));
        all.insert(9, stat(1, 9, 4, true));
        all.insert(7, Stat { started_at: 2, ..stat(1, 1, 1, false) });
        known.update(1, &all, |_| false);
        assert_eq!(ids(&known), [3, 4, 9], "the id 7 was reused");
    }
}
