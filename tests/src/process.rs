//! Looks at this process: what is mapped, which threads run. Tests run side by side, so
//! everything is looked for by names that only one test uses.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

/// A plugin name that no other test of this process uses, short enough for a thread's name.
///
/// # Panics
///
/// When it would be longer than a thread's name shows.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{name}-{}x", NEXT.fetch_add(1, Ordering::Relaxed));
    // The kernel shows 15 characters, and two are for `-1`.
    assert!(unique.len() <= 13, "`{unique}` is too long for a thread's name");
    unique
}

/// Counts this process's mappings of files whose path contains a text; none where the system
/// does not tell.
pub fn mappings(of: &str) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter(|line| line.split_whitespace().nth(5).is_some_and(|_| line.contains(of)))
        .count()
}

/// The names of this process's threads that start with a text; none where the system does not
/// tell. The kernel shows the first 15 characters of a name.
pub fn threads(prefix: &str) -> Vec<String> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// The mapped files of this process whose path contains a text, each once; none where the system
/// does not tell.
pub fn images(of: &str) -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| line[at..].to_owned()));
    let paths: BTreeSet<_> = paths.filter(|path| path.contains(of)).collect();
    paths.into_iter().collect()
}
