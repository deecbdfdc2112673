//! The kinds of lines that plugins log, as `tracing` wants to know them: static, and told before
//! the first of the kind. Knows no plugins.
//!
//! `tracing` keeps them for ever, once for the process; so they are made once, counted, and kept
//! in one table for all hosts. The table is nobody's state: what is in it changes only how often
//! a kind is made.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{LazyLock, OnceLock, PoisonError, RwLock};

use tracing::Level;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing_core::callsite::{self, Callsite};
use tracing_core::field::FieldSet;
use tracing_core::subscriber::Interest;
use tracing_core::{Kind, Metadata, dispatcher, identify_callsite};

/// Kinds that are made; lines of others share one for each level.
const KINDS_MAX: usize = 4096;
/// Kinds that are told apart by their place in the source too, as they move with each build.
const PLACED_KINDS_MAX: usize = KINDS_MAX / 2;

/// The target of what has no kind of its own, and of what the host says about plugins' lines.
pub(super) const HOST_TARGET: &str = "hotbay::plugin";
/// The fields of what has no kind of its own.
pub(super) const SHARED_NAMES: &[&str] = &["target", "fields"];
/// The fields that each line has: before those of its kind, and after them.
pub(super) const FIRST_NAMES: [&str; 1] = ["message"];
pub(super) const LAST_NAMES: [&str; 2] = ["plugin", "generation"];

/// What tells a kind from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LineCallsite<'a> {
    pub(super) level: Level,
    pub(super) target: &'a str,
    /// The file and the line that speak.
    pub(super) place: Option<(&'a str, u32)>,
    /// The names of the fields, in order, each once.
    pub(super) names: &'a [&'a str],
}

/// The kind to log a line with; none where the line has to make do with [`LineSite::shared`].
pub(super) fn site_of(kind: LineCallsite<'_>) -> Option<&'static LineSite> {
    static TABLE: LazyLock<CallsiteTable> =
        LazyLock::new(|| CallsiteTable::new(PLACED_KINDS_MAX, KINDS_MAX));
    TABLE.site_of(kind)
}

struct CallsiteTable {
    sites: RwLock<HashMap<LineCallsite<'static>, &'static LineSite>>,
    placed_kinds_max: usize,
    kinds_max: usize,
}

impl CallsiteTable {
    fn new(placed_kinds_max: usize, kinds_max: usize) -> Self {
        Self { sites: RwLock::default(), placed_kinds_max, kinds_max }
    }

    fn site_of(&self, kind: LineCallsite<'_>) -> Option<&'static LineSite> {
        let unplaced = LineCallsite { place: None, ..kind };
        self.find_or_insert(kind, self.placed_kinds_max)
            .or_else(|| self.find_or_insert(unplaced, self.kinds_max))
    }

    fn find_or_insert(
        &self,
        kind: LineCallsite<'_>,
        kinds_max: usize,
    ) -> Option<&'static LineSite> {
        let sites = self.sites.read().unwrap_or_else(PoisonError::into_inner);
        let found = find(&sites, kind);
        if found.is_some() || sites.len() >= kinds_max {
            return found;
        }
        drop(sites);
        let mut sites = self.sites.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster.
        let found = find(&sites, kind);
        if found.is_some() || sites.len() >= kinds_max {
            return found;
        }
        let (kind, site) = LineSite::leak(kind);
        sites.insert(kind, site);
        drop(sites);
        // Subscribers are asked about it, so no lock is held.
        callsite::register(site);
        Some(site)
    }
}

fn find<'a>(
    // Shorter lives than it has, so that it can be asked for what does not live for ever.
    sites: &HashMap<LineCallsite<'a>, &'static LineSite>,
    kind: LineCallsite<'a>,
) -> Option<&'static LineSite> {
    sites.get(&kind).copied()
}

/// Where lines of a kind come from, as `tracing` sees it.
pub(super) struct LineSite {
    metadata: OnceLock<Metadata<'static>>,
    interest: AtomicU8,
}

const NEVER: u8 = 0;
const SOMETIMES: u8 = 1;
const ALWAYS: u8 = 2;

impl LineSite {
    /// Makes a site that is never freed.
    fn leak(kind: LineCallsite<'_>) -> (LineCallsite<'static>, &'static Self) {
        let leak = |text: &str| -> &'static str { text.to_owned().leak() };
        let mut all = FIRST_NAMES.to_vec();
        all.extend(kind.names.iter().map(|name| leak(name)));
        all.extend(LAST_NAMES);
        let all: &'static [&'static str] = all.leak();
        let kind = LineCallsite {
            level: kind.level,
            target: leak(kind.target),
            place: kind.place.map(|(file, line)| (leak(file), line)),
            names: &all[FIRST_NAMES.len()..all.len() - LAST_NAMES.len()],
        };
        let empty = Self { metadata: OnceLock::new(), interest: AtomicU8::new(SOMETIMES) };
        let site: &'static Self = Box::leak(Box::new(empty));
        site.metadata.get_or_init(|| {
            Metadata::new(
                "line of a plugin",
                kind.target,
                kind.level,
                kind.place.map(|(file, _)| file),
                kind.place.map(|(_, line)| line),
                None,
                FieldSet::new(all, identify_callsite!(site)),
                Kind::EVENT,
            )
        });
        (kind, site)
    }

    /// The site of lines that have none of their own, with the fields [`SHARED_NAMES`].
    pub(super) fn shared(level: Level) -> &'static Self {
        static SHARED: LazyLock<CallsiteTable> =
            LazyLock::new(|| CallsiteTable::new(0, usize::MAX));
        let kind = LineCallsite { level, target: HOST_TARGET, place: None, names: SHARED_NAMES };
        SHARED.site_of(kind).expect("a table without a limit has room for five")
    }

    pub(super) fn metadata(&self) -> &Metadata<'static> {
        self.metadata.get().expect("set before anybody else sees the site")
    }

    /// Whether somebody wants a line of this kind now.
    pub(super) fn is_wanted(&self) -> bool {
        match self.interest.load(Ordering::Relaxed) {
            _ if !level_is_wanted(*self.metadata().level()) => false,
            NEVER => false,
            ALWAYS => true,
            _ => dispatcher::get_default(|dispatch| dispatch.enabled(self.metadata())),
        }
    }
}

/// Whether somebody may want a line of this level now.
pub(super) fn level_is_wanted(level: Level) -> bool {
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

    const KIND: LineCallsite<'_> = LineCallsite {
        level: Level::INFO,
        target: "t",
        place: Some(("f.rs", 1)),
        names: &["a", "b"],
    };

    #[test]
    fn a_kind_is_made_once_and_tells_what_it_is() {
        let table = CallsiteTable::new(8, 8);
        let site = table.site_of(KIND).unwrap();
        let again = LineCallsite { target: &String::from("t"), ..KIND };
        assert!(ptr::eq(table.site_of(again).unwrap(), site));
        let metadata = site.metadata();
        let names: Vec<_> = metadata.fields().iter().map(|field| field.name()).collect();
        assert_eq!(names, ["message", "a", "b", "plugin", "generation"]);
        let told = (*metadata.level(), metadata.target(), metadata.file(), metadata.line());
        assert_eq!(told, (Level::INFO, "t", Some("f.rs"), Some(1)));
        assert!(metadata.is_event());
        for other in [
            LineCallsite { level: Level::WARN, ..KIND },
            LineCallsite { target: "u", ..KIND },
            LineCallsite { place: Some(("f.rs", 2)), ..KIND },
            LineCallsite { names: &["a"], ..KIND },
        ] {
            assert!(!ptr::eq(table.site_of(other).unwrap(), site));
        }
    }

    #[test]
    fn a_fuller_table_forgets_places_and_a_full_one_makes_nothing() {
        let table = CallsiteTable::new(1, 2);
        let placed = table.site_of(KIND).unwrap();
        let elsewhere = table.site_of(LineCallsite { place: Some(("f.rs", 2)), ..KIND }).unwrap();
        assert_eq!(elsewhere.metadata().line(), None);
        assert!(table.site_of(LineCallsite { target: "u", ..KIND }).is_none());
        // What is there stays.
        assert!(ptr::eq(table.site_of(KIND).unwrap(), placed));
        let third = LineCallsite { place: Some(("f.rs", 3)), ..KIND };
        assert!(ptr::eq(table.site_of(third).unwrap(), elsewhere));
    }

    #[test]
    fn lines_without_a_kind_of_their_own_share_one_a_level() {
        let site = LineSite::shared(Level::WARN);
        assert!(ptr::eq(LineSite::shared(Level::WARN), site));
        assert!(!ptr::eq(LineSite::shared(Level::INFO), site));
        assert_eq!(site.metadata().target(), HOST_TARGET);
    }
}
