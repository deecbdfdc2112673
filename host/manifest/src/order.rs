//! Computes the order in which plugins start, so that each comes after those that it requires.
//! Starts none. Without recursion; the time is linear in plugins and requirements.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use semver::{Version, VersionReq};

use crate::Manifest;
use crate::error::Unstartable;
use crate::name::PluginName;

/// A plugin that should start, or that already runs.
#[derive(Clone, Copy, Debug)]
pub struct StartCandidate<'m> {
    /// The plugin's name.
    pub name: &'m PluginName,
    /// The plugin's version.
    pub version: &'m Version,
    /// The plugins that it requires.
    pub requires: &'m BTreeMap<PluginName, VersionReq>,
}

impl<'m> From<&'m Manifest> for StartCandidate<'m> {
    fn from(manifest: &'m Manifest) -> Self {
        Self { name: manifest.name(), version: manifest.version(), requires: manifest.requires() }
    }
}

/// The order as indices of candidates; contains each of them exactly once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartOrder {
    /// Each level requires only plugins of earlier levels; sorted by name.
    pub levels: Vec<Vec<usize>>,
    /// Plugins that cannot start, with the reason; sorted by name.
    pub refused: Vec<(usize, Unstartable)>,
}

/// Orders `candidates`, whose names are unique.
pub fn start_order(candidates: &[StartCandidate<'_>]) -> StartOrder {
    let graph = Graph::new(candidates);
    let mut reasons: Vec<Option<Unstartable>> =
        candidates.iter().map(|candidate| graph.own_reason(candidate)).collect();

    let mut levels = graph.levels(&reasons);
    let mut startable = vec![false; candidates.len()];
    levels.iter().flatten().for_each(|&index| startable[index] = true);
    graph.set_reasons_of_dependents(&startable, &mut reasons);

    levels.iter_mut().for_each(|level| graph.sort_by_name(level, |index| *index));
    let mut refused: Vec<_> = (0..).zip(reasons).filter_map(|(i, why)| Some((i, why?))).collect();
    graph.sort_by_name(&mut refused, |(index, _)| *index);
    StartOrder { levels, refused }
}

struct Graph<'a, 'm> {
    candidates: &'a [StartCandidate<'m>],
    index_of: HashMap<&'m str, usize>,
    /// The candidates that each one requires, by name in order; omits missing ones.
    requires: Vec<Vec<usize>>,
}

impl<'a, 'm> Graph<'a, 'm> {
    fn new(candidates: &'a [StartCandidate<'m>]) -> Self {
        let named = candidates.iter().map(|candidate| candidate.name.as_str()).zip(0..);
        let index_of: HashMap<_, usize> = named.collect();
        let known = |name: &PluginName| index_of.get(name.as_str()).copied();
        let required =
            |candidate: &StartCandidate<'_>| candidate.requires.keys().filter_map(known).collect();
        let requires = candidates.iter().map(required).collect();
        Self { candidates, index_of, requires }
    }

    fn sort_by_name<T>(&self, items: &mut [T], index: impl Fn(&T) -> usize) {
        items.sort_by(|a, b| self.candidates[index(a)].name.cmp(self.candidates[index(b)].name));
    }

    /// Returns the first requirement that is missing or has a version that is not accepted.
    fn own_reason(&self, candidate: &StartCandidate<'_>) -> Option<Unstartable> {
        candidate.requires.iter().find_map(|(required, accepted)| {
            let (required, accepted) = (required.clone(), accepted.clone());
            let Some(&index) = self.index_of.get(required.as_str()) else {
                return Some(Unstartable::Missing { required, accepted });
            };
            let found = self.candidates[index].version;
            (!accepted.matches(found)).then(|| Unstartable::Version {
                required,
                accepted,
                found: found.clone(),
            })
        })
    }

    /// Collects, level by level, the candidates whose requirements are all in earlier levels.
    fn levels(&self, reasons: &[Option<Unstartable>]) -> Vec<Vec<usize>> {
        let mut dependents = vec![Vec::new(); self.candidates.len()];
        for (index, requires) in self.requires.iter().enumerate() {
            requires.iter().for_each(|&required| dependents[required].push(index));
        }
        let mut waiting_for: Vec<usize> = self.requires.iter().map(Vec::len).collect();
        let ready = |index: &usize| waiting_for[*index] == 0 && reasons[*index].is_none();
        let mut level: Vec<usize> = (0..self.candidates.len()).filter(ready).collect();
        let mut levels = Vec::new();
        while !level.is_empty() {
            let mut next = Vec::new();
            for &dependent in level.iter().flat_map(|&index| &dependents[index]) {
                waiting_for[dependent] -= 1;
                if waiting_for[dependent] == 0 && reasons[dependent].is_none() {
                    next.push(dependent);
                }
            }
            levels.push(std::mem::replace(&mut level, next));
        }
        levels
    }

    /// Sets the reason of every candidate that cannot start only because of others.
    ///
    /// Each of them requires another one that cannot start. Following the first of these, by name,
    /// ends at a candidate with its own reason, or in a cycle.
    fn set_reasons_of_dependents(&self, startable: &[bool], reasons: &mut [Option<Unstartable>]) {
        let mut by_name: Vec<usize> = (0..self.candidates.len()).collect();
        self.sort_by_name(&mut by_name, |index| *index);
        let first_refused =
            |index: usize| self.requires[index].iter().copied().find(|&other| !startable[other]);
        let mut visited_from: Vec<Option<usize>> = vec![None; self.candidates.len()];
        for start in by_name {
            let mut path = Vec::new();
            let mut current = start;
            while !startable[current]
                && reasons[current].is_none()
                && visited_from[current].is_none()
            {
                visited_from[current] = Some(start);
                path.push(current);
                let Some(next) = first_refused(current) else {
                    break;
                };
                current = next;
            }
            if reasons[current].is_none() && visited_from[current] == Some(start) {
                let from = path.iter().position(|&index| index == current).unwrap_or(path.len());
                let cycle = path.split_off(from);
                let names = self.names_in_order(&cycle);
                for index in cycle {
                    reasons[index] = Some(Unstartable::Cycle { names: Arc::clone(&names) });
                }
            }
            for index in path {
                let required =
                    first_refused(index).map(|other| self.candidates[other].name.clone());
                reasons[index] = required.map(|required| Unstartable::Refused { required });
            }
        }
    }

    fn names_in_order(&self, cycle: &[usize]) -> Arc<[PluginName]> {
        let mut names: Vec<_> =
            cycle.iter().map(|&index| self.candidates[index].name.clone()).collect();
        let smallest = names.iter().enumerate().min_by_key(|(_, name)| *name);
        let smallest = smallest.map_or(0, |(at, _)| at);
        names.rotate_left(smallest);
        names.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Owned = (PluginName, Version, BTreeMap<PluginName, VersionReq>);

    /// Parses a plugin: `a 1.0.0: b ^1, c *` is `a`, which requires `b` and `c`.
    fn plugin(line: &str) -> Owned {
        let (head, requires) = line.split_once(':').unwrap();
        let (name, version) = head.split_once(' ').unwrap();
        let requires = requires.split(',').map(str::trim).filter(|text| !text.is_empty());
        let requires =
            requires.map(|text| text.split_once(' ').unwrap()).map(|(name, requirement)| {
                (PluginName::new(name).unwrap(), requirement.parse().unwrap())
            });
        (PluginName::new(name).unwrap(), version.parse().unwrap(), requires.collect())
    }

    fn order(plugins: &[Owned]) -> (Vec<String>, Vec<String>) {
        let candidates: Vec<_> = plugins
            .iter()
            .map(|(name, version, requires)| StartCandidate { name, version, requires })
            .collect();
        let order = start_order(&candidates);
        let total = order.levels.iter().map(Vec::len).sum::<usize>() + order.refused.len();
        assert_eq!(total, plugins.len());
        let names = |level: &Vec<usize>| {
            level.iter().map(|&index| plugins[index].0.as_str()).collect::<Vec<_>>().join(" ")
        };
        let levels = order.levels.iter().map(names).collect();
        let describe = |(index, why): &(usize, _)| format!("{}: {why}", plugins[*index].0);
        (levels, order.refused.iter().map(describe).collect())
    }

    fn check(lines: &[&str], levels: &[&str], refused: &[&str]) {
        let plugins: Vec<_> = lines.iter().map(|line| plugin(line)).collect();
        let expect: (Vec<_>, Vec<_>) = (
            levels.iter().map(|text| (*text).to_owned()).collect(),
            refused.iter().map(|text| (*text).to_owned()).collect(),
        );
        assert_eq!(order(&plugins), expect);
        let reversed: Vec<_> = plugins.into_iter().rev().collect();
        assert_eq!(order(&reversed), expect);
    }

    #[test]
    fn plugin_starts_after_its_requirements() {
        check(&[], &[], &[]);
        check(
            &["web 1.0.0: store ^1, log *", "store 1.2.0: log ^2", "log 2.0.0:", "clock 1.0.0:"],
            &["clock log", "store", "web"],
            &[],
        );
    }

    #[test]
    fn missing_requirement_refuses_dependents() {
        check(
            &[
                "a 1.0.0: b ^1",
                "b 1.0.0: missing ^3",
                "c 1.0.0: d ^2",
                "d 1.0.0:",
                "e 1.0.0: a *, c *",
            ],
            &["d"],
            &[
                "a: it requires plugin `b`, which cannot be started",
                "b: it requires plugin `missing` ^3, which was not found",
                "c: it requires plugin `d` ^2; found 1.0.0",
                "e: it requires plugin `a`, which cannot be started",
            ],
        );
    }

    #[test]
    fn cycle_is_reported_with_path_and_others_start() {
        let cycle = "it is part of a dependency cycle: b -> d -> c -> b";
        check(
            &["a 1.0.0: b *", "b 1.0.0: d *", "c 1.0.0: b *", "d 1.0.0: c *, e *", "e 1.0.0:"],
            &["e"],
            &[
                "a: it requires plugin `b`, which cannot be started",
                &format!("b: {cycle}"),
                &format!("c: {cycle}"),
                &format!("d: {cycle}"),
            ],
        );
        check(&["a 1.0.0: a *"], &[], &["a: it is part of a dependency cycle: a -> a"]);
    }

    #[test]
    fn ten_thousand_plugins_in_row_or_cycle_are_ordered() {
        let row = |last: &str| -> Vec<Owned> {
            let requires = |index: usize| match index {
                9_999 => last.to_owned(),
                _ => format!("p{:04} *", index + 1),
            };
            (0..10_000).map(|i| plugin(&format!("p{i:04} 1.0.0: {}", requires(i)))).collect()
        };
        let (levels, refused) = order(&row(""));
        assert_eq!((levels.len(), refused.len()), (10_000, 0));
        assert_eq!(levels[0], "p9999");

        let (levels, refused) = order(&row("p0000 *"));
        assert_eq!((levels.len(), refused.len()), (0, 10_000));
        assert!(refused[0].ends_with("p0011 -> (9988 more) -> p0000"));

        let (levels, refused) = order(&row("missing *"));
        assert_eq!((levels.len(), refused.len()), (0, 10_000));
        assert_eq!(refused[0], "p0000: it requires plugin `p0001`, which cannot be started");
    }
}
