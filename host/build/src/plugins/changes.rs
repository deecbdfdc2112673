//! Maps changed files to the plugins that they belong to. Pure: paths in, names out.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::install::is_temporary;
use super::script;

/// The locations of a plugin's sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) plugin: String,
    /// The folder with its `plugin.json`.
    pub(super) folder: PathBuf,
    pub(super) made_of: MadeOf,
}

/// The sources that a library or program is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MadeOf {
    /// A crate in the plugin's folder.
    Crate {
        /// The folders of the crates that it links by path.
        crates: BTreeSet<PathBuf>,
        /// The `Cargo.toml` that it may inherit from.
        root: PathBuf,
    },
    /// The files of the plugin's folder: a script, or a module of Go.
    Files {
        /// The folder that plugins are installed in; may be inside the plugin's folder.
        installed: PathBuf,
    },
}

/// Returns the plugins that have to be rebuilt because `path` changed.
pub(super) fn affected<'a>(path: &Path, plugins: &'a [Watched]) -> BTreeSet<&'a str> {
    if path.file_name().is_some_and(is_temporary) {
        return BTreeSet::new();
    }
    let is_affected = |plugin: &&Watched| {
        let within = path.strip_prefix(&plugin.folder).ok();
        match &plugin.made_of {
            MadeOf::Files { installed } => {
                let is_other = path.starts_with(installed) || installed.starts_with(path);
                !is_other && within.is_some_and(script::is_installed)
            }
            MadeOf::Crate { crates, root } => {
                path == root
                    || within.is_some_and(is_of_plugin)
                    || crates.iter().any(|one| path.strip_prefix(one).is_ok_and(is_of_crate))
            }
        }
    };
    plugins.iter().filter(is_affected).map(|plugin| plugin.plugin.as_str()).collect()
}

/// Returns whether the file at `path` in a plugin's folder is compiled, or installed with the
/// library.
fn is_of_plugin(path: &Path) -> bool {
    let is_here = path.components().count() == 1;
    let is_manifest_or_schema = path.extension().is_some_and(|extension| extension == "json");
    is_of_crate(path) || is_here && (is_manifest_or_schema || path == Path::new("README.md"))
}

/// Returns whether the file at `path` in a crate's folder is compiled.
fn is_of_crate(path: &Path) -> bool {
    let first = path.components().next();
    first == Some(Component::Normal(OsStr::new("src")))
        || [Path::new("Cargo.toml"), Path::new("build.rs")].contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &[&str]) {
        let watched = |plugin: &str, crates: &[&str]| Watched {
            plugin: plugin.to_owned(),
            folder: Path::new("/w/plugins").join(plugin),
            made_of: MadeOf::Crate {
                crates: crates.iter().map(PathBuf::from).collect(),
                root: "/w/Cargo.toml".into(),
            },
        };
        let script = Watched {
            plugin: "s".to_owned(),
            folder: "/w/plugins/s".into(),
            made_of: MadeOf::Files { installed: "/w/plugins/s/target/plugins".into() },
        };
        let plugins = [watched("a", &["/w/api", "/w/own"]), watched("ab", &["/w/api"]), script];
        let found: Vec<_> = affected(Path::new(path), &plugins).into_iter().collect();
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn file_of_one_plugin_affects_it_alone() {
        check("/w/plugins/a/src/lib.rs", &["a"]);
        check("/w/plugins/a/src/deep/er/rules.txt", &["a"]);
        check("/w/plugins/a/src", &["a"]);
        check("/w/plugins/ab/plugin.json", &["ab"]);
        check("/w/plugins/ab/schema.json", &["ab"]);
        check("/w/plugins/ab/README.md", &["ab"]);
        check("/w/plugins/ab/Cargo.toml", &["ab"]);
        check("/w/plugins/ab/build.rs", &["ab"]);
    }

    #[test]
    fn shared_dependency_affects_all_dependents() {
        check("/w/api/src/lib.rs", &["a", "ab"]);
        check("/w/api/Cargo.toml", &["a", "ab"]);
        check("/w/own/src/lib.rs", &["a"]);
        check("/w/Cargo.toml", &["a", "ab"]);
    }

    #[test]
    fn unused_file_affects_nothing() {
        check("/w/plugins/a", &[]);
        check("/w/plugins/a/tests/it.rs", &[]);
        check("/w/plugins/a/target/debug/build.rs", &[]);
        check("/w/plugins/a/Cargo.lock", &[]);
        check("/w/api/README.md", &[]);
        check("/w/api/plugin.json", &[]);
        check("/w/host/src/lib.rs", &[]);
        check("/elsewhere/src/lib.rs", &[]);
    }

    #[test]
    fn installed_file_of_script_affects_it() {
        check("/w/plugins/s/s.py", &["s"]);
        check("/w/plugins/s/words/en.txt", &["s"]);
        check("/w/plugins/s/plugin.json", &["s"]);
        check("/w/plugins/s/test_s.py", &[]);
        check("/w/plugins/s/target/plugins/s/s.py", &[]);
        check("/w/plugins/s/target", &[]);
        check("/w/plugins/s/__pycache__/s.pyc", &[]);
        check("/w/plugins/s/s.py.swp", &[]);
    }

    #[test]
    fn editor_temporary_files_affect_nothing() {
        for name in [
            ".lib.rs.swp",
            "lib.rs~",
            "4913",
            "#lib.rs#",
            ".#lib.rs",
            "lib.rs___jb_tmp___",
            "a.tmp",
        ] {
            check(&format!("/w/plugins/a/src/{name}"), &[]);
        }
    }
}
