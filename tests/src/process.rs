//! Inspects this process: mappings and threads. Tests run in parallel, so each uses unique names.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

/// Returns a plugin name that no other test of this process uses, short enough for a thread name.
///
/// # Panics
///
/// Panics if the name is too long for a thread name.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = format!("{name}-{}x", NEXT.fetch_add(1, Ordering::Relaxed));
    // The kernel keeps 15 characters; two are for the suffix `-1`.
    assert!(unique.len() <= 13, "`{unique}` is too long for a thread name");
    unique
}

/// Counts this process's mappings of files whose path contains a text; 0 on systems without
/// `/proc`.
pub fn mappings(of: &str) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter(|line| line.split_whitespace().nth(5).is_some_and(|_| line.contains(of)))
        .count()
}

/// Returns the names of this process's threads that start with a text; none on systems without
/// `/proc`. The kernel keeps the first 15 characters of a name.
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

/// Returns the mapped files of this process whose path contains a text, without duplicates; none on
/// systems without `/proc`.
pub fn images(of: &str) -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| line[at..].to_owned()));
    let paths: BTreeSet<_> = paths.filter(|path| path.contains(of)).collect();
    paths.into_iter().collect()
}
