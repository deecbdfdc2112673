//! In which order plugins start, so that each comes after those it requires.
//! Starts none; without recursion, in time that grows with plugins and requirements alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use semver::{Version, VersionReq};

use crate::error::manifest::Unstartable;
use crate::id::PluginName;

/// A plugin that wants to start, or that already runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applicant<'m> {
    pub(crate) name: &'m PluginName,
    pub(crate) version: &'m Version,
    pub(crate) requires: &'m BTreeMap<PluginName, VersionReq>,
}

/// Who starts when, as indices into the applicants; each of them stands here exactly once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartOrder {
    /// Each level requires only plugins of the levels before it; sorted by name.
    pub(crate) levels: Vec<Vec<usize>>,
    /// Those that cannot start; sorted by name.
    pub(crate) refused: Vec<(usize, Unstartable)>,
}

/// Orders `applicants`, whose names differ from one another.
pub(crate) fn start_order(applicants: &[Applicant<'_>]) -> StartOrder {
    let graph = Graph::new(applicants);
    let mut verdicts: Vec<Option<Unstartable>> =
        applicants.iter().map(|applicant| graph.own_fault(applicant)).collect();

    let mut levels = graph.levels(&verdicts);
    let mut startable = vec![false; applicants.len()];
    levels.iter().flatten().for_each(|&index| startable[index] = true);
    graph.blame(&startable, &mut verdicts);

    levels.iter_mut().for_each(|level| graph.sort_by_name(level, |index| *index));
    let mut refused: Vec<_> = (0..).zip(verdicts).filter_map(|(i, why)| Some((i, why?))).collect();
    graph.sort_by_name(&mut refused, |(index, _)| *index);
    StartOrder { levels, refused }
}

struct Graph<'a, 'm> {
    applicants: &'a [Applicant<'m>],
    index_of: HashMap<&'m str, usize>,
    /// Whom each applicant requires, by name in order; who is not there is left out.
    requires: Vec<Vec<usize>>,
}

impl<'a, 'm> Graph<'a, 'm> {
    fn new(applicants: &'a [Applicant<'m>]) -> Self {
        let named = applicants.iter().map(|applicant| applicant.name.as_str()).zip(0..);
        let index_of: HashMap<_, usize> = named.collect();
        let known = |name: &PluginName| index_of.get(name.as_str()).copied();
        let required =
            |applicant: &Applicant<'_>| applicant.requires.keys().filter_map(known).collect();
        let requires = applicants.iter().map(required).collect();
        Self { applicants, index_of, requires }
    }

    fn sort_by_name<T>(&self, items: &mut [T], index: impl Fn(&T) -> usize) {
        items.sort_by(|a, b| self.applicants[index(a)].name.cmp(self.applicants[index(b)].name));
    }

    /// The first requirement that is missing, or there in a version that is not accepted.
    fn own_fault(&self, applicant: &Applicant<'_>) -> Option<Unstartable> {
        applicant.requires.iter().find_map(|(required, wanted)| {
            let (required, wanted) = (required.clone(), wanted.clone());
            let Some(&index) = self.index_of.get(required.as_str()) else {
                return Some(Unstartable::Missing { required, wanted });
            };
            let found = self.applicants[index].version;
            (!wanted.matches(found)).then(|| Unstartable::Version {
                required,
                wanted,
                found: found.clone(),
            })
        })
    }

    /// Peels off, level by level, those whose requirements are all in the levels before.
    fn levels(&self, verdicts: &[Option<Unstartable>]) -> Vec<Vec<usize>> {
        let mut dependents = vec![Vec::new(); self.applicants.len()];
        for (index, requires) in self.requires.iter().enumerate() {
            requires.iter().for_each(|&required| dependents[required].push(index));
        }
        let mut waiting_for: Vec<usize> = self.requires.iter().map(Vec::len).collect();
        let ready = |index: &usize| waiting_for[*index] == 0 && verdicts[*index].is_none();
        let mut level: Vec<usize> = (0..self.applicants.len()).filter(ready).collect();
        let mut levels = Vec::new();
        while !level.is_empty() {
            let mut next = Vec::new();
            for &dependent in level.iter().flat_map(|&index| &dependents[index]) {
                waiting_for[dependent] -= 1;
                if waiting_for[dependent] == 0 && verdicts[dependent].is_none() {
                    next.push(dependent);
                }
            }
            levels.push(std::mem::replace(&mut level, next));
        }
        levels
    }

    /// Gives everyone who cannot start, and has no fault of its own, a verdict.
    ///
    /// Each of them requires another that cannot start. Following the first of these, by name,
    /// ends at a fault, or comes round: that is a circle.
    fn blame(&self, startable: &[bool], verdicts: &mut [Option<Unstartable>]) {
        let mut by_name: Vec<usize> = (0..self.applicants.len()).collect();
        self.sort_by_name(&mut by_name, |index| *index);
        let first_refused =
            |index: usize| self.requires[index].iter().copied().find(|&other| !startable[other]);
        let mut walk_of: Vec<Option<usize>> = vec![None; self.applicants.len()];
        for start in by_name {
            let mut walked = Vec::new();
            let mut here = start;
            while !startable[here] && verdicts[here].is_none() && walk_of[here].is_none() {
                walk_of[here] = Some(start);
                walked.push(here);
                let Some(next) = first_refused(here) else {
                    break;
                };
                here = next;
            }
            if verdicts[here].is_none() && walk_of[here] == Some(start) {
                let from = walked.iter().position(|&index| index == here).unwrap_or(walked.len());
                let circle = walked.split_off(from);
                let names = self.names_from_the_smallest(&circle);
                for index in circle {
                    verdicts[index] = Some(Unstartable::Circle { names: Arc::clone(&names) });
                }
            }
            for index in walked {
                let required =
                    first_refused(index).map(|other| self.applicants[other].name.clone());
                verdicts[index] = required.map(|required| Unstartable::Refused { required });
            }
        }
    }

    fn names_from_the_smallest(&self, circle: &[usize]) -> Arc<[PluginName]> {
        let mut names: Vec<_> =
            circle.iter().map(|&index| self.applicants[index].name.clone()).collect();
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

    /// `a 1.0.0: b ^1, c *` is plugin `a` that requires `b` and `c`.
    fn plugin(line: &str) -> Owned {
        let (head, requires) = line.split_once(':').unwrap();
        let (name, version) = head.split_once(' ').unwrap();
        let requires = requires.split(',').map(str::trim).filter(|text| !text.is_empty());
        let requires = requires
            .map(|text| text.split_once(' ').unwrap())
            .map(|(name, wanted)| (PluginName::new(name).unwrap(), wanted.parse().unwrap()));
        (PluginName::new(name).unwrap(), version.parse().unwrap(), requires.collect())
    }

    fn order(plugins: &[Owned]) -> (Vec<String>, Vec<String>) {
        let applicants: Vec<_> = plugins
            .iter()
            .map(|(name, version, requires)| Applicant { name, version, requires })
            .collect();
        let order = start_order(&applicants);
        let placed = order.levels.iter().map(Vec::len).sum::<usize>() + order.refused.len();
        assert_eq!(placed, plugins.len());
        let names = |level: &Vec<usize>| {
            level.iter().map(|&index| plugins[index].0.as_str()).collect::<Vec<_>>().join(" ")
        };
        let levels = order.levels.iter().map(names).collect();
        let told = |(index, why): &(usize, _)| format!("{}: {why}", plugins[*index].0);
        (levels, order.refused.iter().map(told).collect())
    }

    fn check(lines: &[&str], levels: &[&str], refused: &[&str]) {
        let plugins: Vec<_> = lines.iter().map(|line| plugin(line)).collect();
        let expect: (Vec<_>, Vec<_>) = (
            levels.iter().map(|text| (*text).to_owned()).collect(),
            refused.iter().map(|text| (*text).to_owned()).collect(),
        );
        assert_eq!(order(&plugins), expect);
        let backwards: Vec<_> = plugins.into_iter().rev().collect();
        assert_eq!(order(&backwards), expect);
    }

    #[test]
    fn each_plugin_starts_after_those_it_requires() {
        check(&[], &[], &[]);
        check(
            &["web 1.0.0: store ^1, log *", "store 1.2.0: log ^2", "log 2.0.0:", "clock 1.0.0:"],
            &["clock log", "store", "web"],
            &[],
        );
    }

    #[test]
    fn who_requires_what_is_not_there_is_refused_and_those_behind_it_too() {
        check(
            &[
                "a 1.0.0: b ^1",
                "b 1.0.0: gone ^3",
                "c 1.0.0: d ^2",
                "d 1.0.0:",
                "e 1.0.0: a *, c *",
            ],
            &["d"],
            &[
                "a: requires plugin `b`, which cannot be started",
                "b: requires plugin `gone` ^3, which was not found",
                "c: requires plugin `d` ^2, found 1.0.0",
                "e: requires plugin `a`, which cannot be started",
            ],
        );
    }

    #[test]
    fn a_circle_is_told_with_its_path_and_does_not_stop_the_others() {
        let circle = "is part of a dependency cycle: b -> d -> c -> b";
        check(
            &["a 1.0.0: b *", "b 1.0.0: d *", "c 1.0.0: b *", "d 1.0.0: c *, e *", "e 1.0.0:"],
            &["e"],
            &[
                "a: requires plugin `b`, which cannot be started",
                &format!("b: {circle}"),
                &format!("c: {circle}"),
                &format!("d: {circle}"),
            ],
        );
        check(&["a 1.0.0: a *"], &[], &["a: is part of a dependency cycle: a -> a"]);
    }

    #[test]
    fn ten_thousand_plugins_in_a_row_or_a_circle_are_ordered() {
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

        let (levels, refused) = order(&row("gone *"));
        assert_eq!((levels.len(), refused.len()), (0, 10_000));
        assert_eq!(refused[0], "p0000: requires plugin `p0001`, which cannot be started");
    }
}
