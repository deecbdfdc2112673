//! Errors of a manifest, its requirements and its config. Decides nothing: `crate::manifest` finds
//! the mistakes, this file formats them.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use semver::{Version, VersionReq};

use crate::name::PluginName;

/// Maximum number of names in the message of a dependency cycle.
const MAX_CYCLE_NAMES: usize = 12;

/// The mistakes in a manifest, each with its position in the file; at least one.
///
/// `Display` prints file, line and column, the field, and the found and expected value:
/// ``plugins/echo/plugin.json:4:15: `limits.deadline_ms` is "5s"; expected a whole number of
/// milliseconds``. Several mistakes follow a first line with the file and their number, each on its
/// own indented line. A manifest made in code has neither file nor line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    first: Box<Mistake>,
    others: Vec<Mistake>,
}

/// Maximum number of mistakes that a message lists.
const MAX_LISTED: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mistake {
    file: String,
    position: Option<(usize, usize)>,
    path: String,
    problem: Problem,
}

/// The kind of a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    NotJson {
        reason: String,
    },
    #[cfg_attr(not(feature = "host-file"), allow(dead_code, reason = "only hotbay.toml is TOML"))]
    NotToml {
        reason: String,
    },
    #[cfg_attr(not(feature = "host-file"), allow(dead_code, reason = "only hotbay.toml is read"))]
    Unreadable {
        reason: String,
    },
    TooLong {
        bytes: usize,
        max_bytes: usize,
    },
    TooDeep {
        max_depth: usize,
    },
    Value {
        found: String,
        expected: String,
        nearest: Option<&'static str>,
    },
    Missing {
        expected: String,
    },
    Unknown {
        nearest: Option<&'static str>,
        known: Vec<&'static str>,
    },
    Duplicate {
        first_line: usize,
        second_line: usize,
    },
    OnlyFor {
        kind: &'static str,
        other: &'static str,
    },
    RequiresItself,
}

impl ManifestError {
    /// Returns the error of a mistake at `position`, which is line and column, in `file`.
    pub(crate) fn new(
        file: &str,
        position: Option<(usize, usize)>,
        path: &str,
        problem: Problem,
    ) -> Self {
        let mistake = Mistake { file: file.to_owned(), position, path: path.to_owned(), problem };
        Self { first: Box::new(mistake), others: Vec::new() }
    }

    /// Joins the mistakes of one manifest, in the order of their positions; `None` without any.
    pub(crate) fn join(errors: Vec<Self>) -> Option<Self> {
        let mistakes =
            errors.into_iter().flat_map(|error| std::iter::once(*error.first).chain(error.others));
        let mut mistakes: Vec<_> = mistakes.collect();
        // The unknown field already explains that the field with the correct name is missing.
        let meant: Vec<_> = mistakes.iter().filter_map(Mistake::meant_path).collect();
        mistakes.retain(|mistake| !(mistake.is_missing() && meant.contains(&mistake.path)));
        mistakes.sort_by_key(|mistake| (mistake.is_missing(), mistake.position));
        let mut mistakes = mistakes.into_iter();
        let first = Box::new(mistakes.next()?);
        Some(Self { first, others: mistakes.collect() })
    }

    /// Returns advice on how to fix the mistakes.
    pub fn hint(&self) -> Option<String> {
        let mistakes = std::iter::once(&*self.first).chain(&self.others).take(MAX_LISTED);
        let hints = mistakes.filter_map(|mistake| Some((mistake, mistake.problem.hint()?)));
        match hints.collect::<Vec<_>>().as_slice() {
            [] => None,
            [(_, hint)] => Some(hint.clone()),
            several => {
                let named =
                    |(mistake, hint): &(&Mistake, String)| format!("`{}`: {hint}", mistake.path);
                Some(several.iter().map(named).collect::<Vec<_>>().join("; "))
            }
        }
    }

    /// Returns the line of the first mistake, counted from 1; `None` if it has no position.
    pub fn line(&self) -> Option<usize> {
        self.first.position.map(|(line, _)| line)
    }

    /// Returns the column of the first mistake in characters, counted from 1; `None` without a
    /// line.
    pub fn column(&self) -> Option<usize> {
        self.first.position.map(|(_, column)| column)
    }

    /// Returns the path of the first mistake's field, such as `limits.deadline_ms`; empty for the
    /// whole manifest.
    pub fn path(&self) -> &str {
        &self.first.path
    }

    /// Returns the paths of all invalid fields, in the order of their positions in the text.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.first).chain(&self.others).map(|mistake| mistake.path.as_str())
    }
}

impl Mistake {
    fn is_missing(&self) -> bool {
        matches!(self.problem, Problem::Missing { .. })
    }

    /// Returns the path of the known field that an unknown one probably means.
    fn meant_path(&self) -> Option<String> {
        let Problem::Unknown { nearest: Some(nearest), .. } = self.problem else { return None };
        let parent = self.path.rfind(['.', '[']).map_or("", |at| &self.path[..at]);
        let dot = if parent.is_empty() { "" } else { "." };
        Some(format!("{parent}{dot}{nearest}"))
    }

    /// Returns the position as `LINE:COLUMN:`, or an empty string.
    fn line_and_column(&self) -> String {
        self.position.map_or_else(String::new, |(line, column)| format!("{line}:{column}:"))
    }

    /// Formats the field and the problem, without the position.
    fn fmt_problem(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Problem::NotToml { .. } | Problem::Unreadable { .. } = &self.problem {
            f.write_str("the file ")?;
        } else if self.path.is_empty() {
            f.write_str("the manifest ")?;
        } else {
            write!(f, "`{}` ", self.path)?;
        }
        write!(f, "{}", self.problem)
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.first.file;
        if self.others.is_empty() {
            if !file.is_empty() {
                write!(f, "{file}:{} ", self.first.line_and_column())?;
            }
            return self.first.fmt_problem(f);
        }
        let file = if file.is_empty() { "the manifest" } else { file };
        write!(f, "{file} has {} mistakes:", 1 + self.others.len())?;
        for mistake in std::iter::once(&*self.first).chain(&self.others).take(MAX_LISTED) {
            write!(f, "\n  {} ", mistake.line_and_column())?;
            mistake.fmt_problem(f)?;
        }
        match (1 + self.others.len()).saturating_sub(MAX_LISTED) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl Error for ManifestError {}

impl Problem {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Value { nearest: Some(name), .. } | Self::Unknown { nearest: Some(name), .. } => {
                return Some(format!("did you mean `{name}`?"));
            }
            Self::Duplicate { .. } => "keep one of the two",
            Self::OnlyFor { .. } | Self::RequiresItself => "remove the field",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson { reason } => write!(f, "is not JSON: {reason}"),
            Self::NotToml { reason } => write!(f, "is not TOML: {reason}"),
            Self::Unreadable { reason } => write!(f, "cannot be read: {reason}"),
            Self::TooLong { bytes, max_bytes } => {
                write!(f, "is {bytes} bytes long; expected at most {max_bytes}")
            }
            Self::TooDeep { max_depth } => {
                write!(f, "is nested deeper than {max_depth} levels")
            }
            Self::Value { found, expected, .. } => write!(f, "is {found}; expected {expected}"),
            Self::Missing { expected } => write!(f, "is missing; expected {expected}"),
            Self::Unknown { nearest: Some(_), .. } => f.write_str("is not a known field"),
            Self::Unknown { nearest: None, known } => {
                write!(f, "is not a known field; expected one of `{}`", known.join("`, `"))
            }
            Self::Duplicate { first_line, second_line } => {
                write!(f, "is set twice, on lines {first_line} and {second_line}")
            }
            Self::OnlyFor { kind, other } => {
                write!(
                    f,
                    "is valid only for plugins of kind `{kind}`; this plugin is of kind `{other}`"
                )
            }
            Self::RequiresItself => f.write_str("is the plugin itself"),
        }
    }
}

/// The reason a plugin and this host have incompatible plugin APIs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiMismatch {
    /// The manifest's `api` does not accept the host's version.
    HostNotAccepted {
        /// The versions that the manifest accepts.
        accepted: VersionReq,
        /// The version of this host.
        host: Version,
    },
    /// The library was built with another major version.
    OtherMajor {
        /// The version that the library was built with.
        built: Version,
        /// The version of this host.
        host: Version,
    },
    /// The library was built with a newer minor version than the host's.
    NewerMinor {
        /// The version that the library was built with.
        built: Version,
        /// The version of this host.
        host: Version,
    },
}

impl ApiMismatch {
    /// Returns the hint of the error.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::HostNotAccepted { host, .. } => format!(
                "use a host that `api` accepts, or let `api` accept {host} if the plugin works \
                 with it"
            ),
            Self::OtherMajor { host, .. } => format!(
                "rebuild it with `hotbay-plugin` {}.{} or an earlier {0}.x",
                host.major, host.minor
            ),
            Self::NewerMinor { built, host } => format!(
                "use a host with {}.{} or later, or rebuild it with `hotbay-plugin` {}.{}",
                built.major, built.minor, host.major, host.minor
            ),
        })
    }
}

impl fmt::Display for ApiMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNotAccepted { accepted, host } => {
                write!(f, "plugin.json requires plugin API `{accepted}`; this host has {host}")
            }
            Self::OtherMajor { built, host } | Self::NewerMinor { built, host } => {
                write!(f, "the library was built with plugin API {built}; this host has {host}")
            }
        }
    }
}

impl Error for ApiMismatch {}

/// The differences between a manifest and the stamp of its library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StampMismatch {
    /// The stamp's package and the manifest's, if they differ.
    pub package: Option<(String, String)>,
    /// The stamp's version and the manifest's, if they differ.
    pub version: Option<(Version, Version)>,
}

impl StampMismatch {
    /// Returns the hint of the error.
    pub fn hint(&self) -> Option<String> {
        Some("install library and manifest of the same build".to_owned())
    }
}

impl fmt::Display for StampMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the library does not match its manifest: ")?;
        if let Some((found, stated)) = &self.package {
            write!(f, "its package is `{found}`, but plugin.json states `{stated}`")?;
        }
        if self.package.is_some() && self.version.is_some() {
            f.write_str("; ")?;
        }
        if let Some((found, stated)) = &self.version {
            write!(f, "its version is {found}, but plugin.json states {stated}")?;
        }
        Ok(())
    }
}

impl Error for StampMismatch {}

/// The reason a plugin cannot be started with the other plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unstartable {
    /// No plugin has the required name.
    Missing {
        /// The required plugin.
        required: PluginName,
        /// The accepted versions.
        accepted: VersionReq,
    },
    /// The required plugin has a version that is not accepted.
    Version {
        /// The required plugin.
        required: PluginName,
        /// The accepted versions.
        accepted: VersionReq,
        /// The version of the plugin.
        found: Version,
    },
    /// The plugin requires itself through others; the cycle starts at the first name.
    Cycle {
        /// The plugins of the cycle.
        names: Arc<[PluginName]>,
    },
    /// The required plugin cannot be started either.
    Refused {
        /// The required plugin.
        required: PluginName,
    },
}

impl Unstartable {
    /// Returns the hint of the error.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing { required, .. } => format!("add the plugin `{required}`"),
            Self::Version { .. } => {
                "install a version that is accepted, or change `requires`".to_owned()
            }
            Self::Cycle { .. } => "remove one of the requirements".to_owned(),
            Self::Refused { required } => format!("fix the plugin `{required}` first"),
        })
    }
}

impl fmt::Display for Unstartable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { required, accepted } => {
                write!(f, "it requires plugin `{required}` {accepted}, which was not found")
            }
            Self::Version { required, accepted, found } => {
                write!(f, "it requires plugin `{required}` {accepted}; found {found}")
            }
            Self::Cycle { names } => {
                f.write_str("it is part of a dependency cycle: ")?;
                for name in names.iter().take(MAX_CYCLE_NAMES) {
                    write!(f, "{name} -> ")?;
                }
                let left_out = names.len().saturating_sub(MAX_CYCLE_NAMES);
                if left_out > 0 {
                    write!(f, "({left_out} more) -> ")?;
                }
                f.write_str(names.first().map_or("", PluginName::as_str))
            }
            Self::Refused { required } => {
                write!(f, "it requires plugin `{required}`, which cannot be started")
            }
        }
    }
}

impl Error for Unstartable {}
