//! Processes that this process adopted: where it is process 1, or a child subreaper, the system
//! hands it what its plugins' processes left behind. They are reaped, and nobody else's are.
//!
//! A process that has ended tells little, so those that live are looked at from time to time. One
//! belongs to a plugin if it carries the mark of a launch, if its parent belongs to one, or if it
//! is in a group or session of such a process. What left all of that within the time between two
//! looks stays a zombie.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, child_subreaper, getpid, waitid};

use super::child_guard;
use super::launch_tag;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Whether the system hands orphans to this process.
pub(super) fn adopts() -> bool {
    getpid().is_init() || matches!(child_subreaper(), Ok(Some(_)))
}

/// Looks and reaps as long as the runtime lives.
pub(super) async fn reap_for_ever() {
    let mut known = Known::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let looked = tokio::task::spawn_blocking(move || {
            known.look();
            known
        });
        match looked.await {
            Ok(looked) => known = looked,
            Err(_) => return,
        }
    }
}

/// What proc(5) says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    is_zombie: bool,
    parent: i32,
    group: i32,
    session: i32,
    /// Tells it from a later one with its id.
    started_at: u64,
}

impl Stat {
    fn read(text: &str) -> Option<Self> {
        // The name before these may hold anything. The first of them is the third of proc(5).
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

/// The processes that belong to plugins, by their ids.
#[derive(Debug, Default)]
struct Known(BTreeMap<i32, Stat>);

impl Known {
    /// Looks at all processes, and reaps those of plugins that ended as children of this one.
    fn look(&mut self) {
        let (own, all) = (getpid().as_raw_nonzero().get(), all());
        let own_mark = launch_tag::of("self");
        let is_marked = |pid: i32| {
            let mark = launch_tag::of(&pid.to_string());
            mark.is_some() && mark != own_mark
        };
        self.update(own, &all, is_marked);
        child_guard::while_none_is_started(|started| {
            for (&pid, stat) in &all {
                let is_adopted = stat.is_zombie && stat.parent == own && !started.contains(&pid);
                if is_adopted
                    && self.0.contains_key(&pid)
                    && let Some(pid) = Pid::from_raw(pid)
                {
                    // Whoever waits for all children may have been faster.
                    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
                }
            }
        });
    }

    fn update(&mut self, own: i32, all: &BTreeMap<i32, Stat>, is_marked: impl Fn(i32) -> bool) {
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
                        || (!stat.is_zombie && is_marked(pid))
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
    fn stat_is_read_after_a_name_that_holds_anything() {
        let rest = "0 ".repeat(15);
        let text = format!("7 (a ) Z) Z 1 5 6 {rest}99 0 0\n");
        let wanted = Stat { is_zombie: true, parent: 1, group: 5, session: 6, started_at: 99 };
        assert_eq!(Stat::read(&text), Some(wanted));
        assert_eq!(Stat::read("7 (a"), None);
    }

    #[test]
    fn only_what_belongs_to_a_plugin_is_known() {
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
        assert_eq!(ids(&known), [2, 3, 4, 7], "marked, below it, and in its group");
        // Their parents end, and the host adopts them.
        all.remove(&2);
        all.insert(3, stat(1, 3, 3, true));
        all.insert(4, stat(1, 4, 4, false));
        all.insert(9, stat(1, 9, 4, true));
        all.insert(7, Stat { started_at: 2, ..stat(1, 1, 1, false) });
        known.update(1, &all, |_| false);
        assert_eq!(ids(&known), [3, 4, 9], "7 is another one by now");
    }
}
