//! The `tracing` callsites of the lines that plugins log: `tracing` needs each to be static and
//! registered before its first line. Knows no plugins.
//!
//! `tracing` keeps callsites forever, once per process. So they are created once, limited in
//! number, and kept in one table for all hosts. No host can observe another through the table: its
//! content only decides whether a callsite is created.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{LazyLock, OnceLock, PoisonError, RwLock};

use tracing::Level;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing_core::callsite::{self, Callsite};
use tracing_core::field::FieldSet;
use tracing_core::subscriber::Interest;
use tracing_core::{Kind, Metadata, dispatcher, identify_callsite};

/// Maximum number of callsites; further lines share one for each level.
const MAX_CALLSITES: usize = 4096;
/// Maximum number of callsites that include the source location, which changes with each build.
const MAX_PLACED_CALLSITES: usize = MAX_CALLSITES / 2;

/// The target of lines without their own callsite, and of the host's messages about plugin logs.
pub(crate) const HOST_TARGET: &str = "hotbay::plugin";
/// The fields of lines without their own callsite.
pub(crate) const SHARED_NAMES: &[&str] = &["target", "fields"];
/// The fields that each line has, before and after its own ones.
pub(crate) const FIRST_NAMES: [&str; 1] = ["message"];
pub(crate) const LAST_NAMES: [&str; 2] = ["plugin", "generation"];

/// The key of a callsite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LineCallsite<'a> {
    pub(crate) level: Level,
    pub(crate) target: &'a str,
    /// The file and line of the log statement.
    pub(crate) location: Option<(&'a str, u32)>,
    /// The names of the fields, in order, without duplicates.
    pub(crate) names: &'a [&'a str],
}

/// Returns the callsite for a line, or `None` if it has to use [`LineSite::shared`].
pub(crate) fn site_of(key: LineCallsite<'_>) -> Option<&'static LineSite> {
    static TABLE: LazyLock<CallsiteTable> =
        LazyLock::new(|| CallsiteTable::new(MAX_PLACED_CALLSITES, MAX_CALLSITES));
    TABLE.site_of(key)
}

struct CallsiteTable {
    sites: RwLock<HashMap<LineCallsite<'static>, &'static LineSite>>,
    max_placed_callsites: usize,
    max_callsites: usize,
}

impl CallsiteTable {
    fn new(max_placed_callsites: usize, max_callsites: usize) -> Self {
        Self { sites: RwLock::default(), max_placed_callsites, max_callsites }
    }

    fn site_of(&self, key: LineCallsite<'_>) -> Option<&'static LineSite> {
        let unplaced = LineCallsite { location: None, ..key };
        self.find_or_insert(key, self.max_placed_callsites)
            .or_else(|| self.find_or_insert(unplaced, self.max_callsites))
    }

    fn find_or_insert(
        &self,
        key: LineCallsite<'_>,
        max_callsites: usize,
    ) -> Option<&'static LineSite> {
        let sites = self.sites.read().unwrap_or_else(PoisonError::into_inner);
        let found = find(&sites, key);
        if found.is_some() || sites.len() >= max_callsites {
            return found;
        }
        drop(sites);
        let mut sites = self.sites.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have inserted it.
        let found = find(&sites, key);
        if found.is_some() || sites.len() >= max_callsites {
            return found;
        }
        let (key, site) = LineSite::leak(key);
        sites.insert(key, site);
        drop(sites);
        // Registration calls subscribers, so no lock is held.
        callsite::register(site);
        Some(site)
    }
}

fn find<'a>(
    // A shorter lifetime than that of the keys, so that a borrowed key can be looked up.
    sites: &HashMap<LineCallsite<'a>, &'static LineSite>,
    key: LineCallsite<'a>,
) -> Option<&'static LineSite> {
    sites.get(&key).copied()
}

/// The `tracing` callsite of lines.
pub(crate) struct LineSite {
    metadata: OnceLock<Metadata<'static>>,
    interest: AtomicU8,
}

const NEVER: u8 = 0;
const SOMETIMES: u8 = 1;
const ALWAYS: u8 = 2;

impl LineSite {
    /// Creates a callsite that is never freed.
    fn leak(key: LineCallsite<'_>) -> (LineCallsite<'static>, &'static Self) {
        let leak = |text: &str| -> &'static str { text.to_owned().leak() };
        let mut all = FIRST_NAMES.to_vec();
        all.extend(key.names.iter().map(|name| leak(name)));
        all.extend(LAST_NAMES);
        let all: &'static [&'static str] = all.leak();
        let key = LineCallsite {
            level: key.level,
            target: leak(key.target),
            location: key.location.map(|(file, line)| (leak(file), line)),
            names: &all[FIRST_NAMES.len()..all.len() - LAST_NAMES.len()],
        };
        let empty = Self { metadata: OnceLock::new(), interest: AtomicU8::new(SOMETIMES) };
        let site: &'static Self = Box::leak(Box::new(empty));
        site.metadata.get_or_init(|| {
            Metadata::new(
                "line of a plugin",
                key.target,
                key.level,
                key.location.map(|(file, _)| file),
                key.location.map(|(_, line)| line),
                None,
                FieldSet::new(all, identify_callsite!(site)),
                Kind::EVENT,
            )
        });
        (key, site)
    }

    /// Returns the callsite of lines without their own one, with the fields [`SHARED_NAMES`].
    pub(crate) fn shared(level: Level) -> &'static Self {
        static SHARED: LazyLock<CallsiteTable> =
            LazyLock::new(|| CallsiteTable::new(0, usize::MAX));
        let key = LineCallsite { level, target: HOST_TARGET, location: None, names: SHARED_NAMES };
        SHARED.site_of(key).expect("the table has no limit")
    }

    pub(crate) fn metadata(&self) -> &Metadata<'static> {
        self.metadata.get().expect("set before the callsite is shared")
    }

    /// Returns whether a subscriber is interested in lines of this callsite now.
    pub(crate) fn is_enabled(&self) -> bool {
        match self.interest.load(Ordering::Relaxed) {
            _ if !level_is_enabled(*self.metadata().level()) => false,
            NEVER => false,
            ALWAYS => true,
            _ => dispatcher::get_default(|dispatch| dispatch.enabled(self.metadata())),
        }
    }
}

/// Returns whether a subscriber may be interested in lines of this level now.
pub(crate) fn level_is_enabled(level: Level) -> bool {
    level <= STATIC_MAX_LEVEL && level <= LevelFilter::current()
}

impl Callsite for LineSite {
    fn set_interest(&self, interest: Interest) {
        let interest = match () {
            () if interest.is_never() => NEVER,
            () if interest.is_always() => ALWAYS,
            () => SOMETIMES,
        };
        self.interest.store(interest, Ordering::Relaxed);
    }

    fn metadata(&self) -> &Metadata<'_> {
        self.metadata()
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    const KEY: LineCallsite<'_> = LineCallsite {
        level: Level::INFO,
        target: "t",
        location: Some(("f.rs", 1)),
        names: &["a", "b"],
    };

    #[test]
    fn callsite_is_created_once_with_its_metadata() {
        let table = CallsiteTable::new(8, 8);
        let site = table.site_of(KEY).unwrap();
        let again = LineCallsite { target: &String::from("t"), ..KEY };
        assert!(ptr::eq(table.site_of(again).unwrap(), site));
        let metadata = site.metadata();
        let names: Vec<_> = metadata.fields().iter().map(|field| field.name()).collect();
        assert_eq!(names, ["message", "a", "b", "plugin", "generation"]);
        let found = (*metadata.level(), metadata.target(), metadata.file(), metadata.line());
        assert_eq!(found, (Level::INFO, "t", Some("f.rs"), Some(1)));
        assert!(metadata.is_event());
        for other in [
            LineCallsite { level: Level::WARN, ..KEY },
            LineCallsite { target: "u", ..KEY },
            LineCallsite { location: Some(("f.rs", 2)), ..KEY },
            LineCallsite { names: &["a"], ..KEY },
        ] {
            assert!(!ptr::eq(table.site_of(other).unwrap(), site));
        }
    }

    #[test]
    fn full_table_drops_locations_then_new_callsites() {
        let table = CallsiteTable::new(1, 2);
        let placed = table.site_of(KEY).unwrap();
        let elsewhere = table.site_of(LineCallsite { location: Some(("f.rs", 2)), ..KEY }).unwrap();
        assert_eq!(elsewhere.metadata().line(), None);
        assert!(table.site_of(LineCallsite { target: "u", ..KEY }).is_none());
        // Existing callsites stay.
        assert!(ptr::eq(table.site_of(KEY).unwrap(), placed));
        let third = LineCallsite { location: Some(("f.rs", 3)), ..KEY };
        assert!(ptr::eq(table.site_of(third).unwrap(), elsewhere));
    }

    #[test]
    fn lines_without_callsite_share_one_per_level() {
        let site = LineSite::shared(Level::WARN);
        assert!(ptr::eq(LineSite::shared(Level::WARN), site));
        assert!(!ptr::eq(LineSite::shared(Level::INFO), site));
        assert_eq!(site.metadata().target(), HOST_TARGET);
    }
}
