//! What can be wrong with a manifest, its requirements and its config, told in one line each.
//! Decides nothing: `crate::manifest` finds the mistakes, this file words them.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use semver::{Version, VersionReq};

use crate::id::PluginName;

/// Most names of a circle that its message tells.
const CIRCLE_NAMES_MAX: usize = 12;

/// The mistakes in a manifest, each with its place in the file; at least one.
///
/// `Display` names the file, line and column, the field, what was found and what was wanted:
/// ``plugins/echo/plugin.json:4:15: `limits.deadline_ms` is "5s"; wanted a whole number of
/// milliseconds``. Further mistakes follow, each behind `; also LINE:COLUMN:`. A manifest that was
/// not read from text has neither file nor line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    first: Box<Mistake>,
    others: Vec<Mistake>,
}

/// How many further mistakes a message repeats.
const OTHERS_SHOWN_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mistake {
    file: String,
    position: Option<(usize, usize)>,
    path: String,
    problem: Problem,
}

/// Which rule was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    NotJson { reason: String },
    TooLong { bytes: usize, bytes_max: usize },
    TooDeep { depth_max: usize },
    Value { found: String, wanted: String, nearest: Option<&'static str> },
    Missing { wanted: String },
    Unknown { nearest: Option<&'static str>, known: Vec<&'static str> },
    Duplicate { first_line: usize, second_line: usize },
    OnlyFor { kind: &'static str, other: &'static str },
    RequiresItself,
}

impl ManifestError {
    /// A mistake at `position`, which is line and column, in `file`.
    pub(crate) fn new(
        file: &str,
        position: Option<(usize, usize)>,
        path: &str,
        problem: Problem,
    ) -> Self {
        let mistake = Mistake { file: file.to_owned(), position, path: path.to_owned(), problem };
        Self { first: Box::new(mistake), others: Vec::new() }
    }

    /// Joins the mistakes of one manifest, in the order of their places; `None` without any.
    pub(crate) fn join(errors: Vec<Self>) -> Option<Self> {
        let mistakes =
            errors.into_iter().flat_map(|error| std::iter::once(*error.first).chain(error.others));
        let mut mistakes: Vec<_> = mistakes.collect();
        // A misspelt field is an unknown one; that the right one is missing says nothing new.
        let meant: Vec<_> = mistakes.iter().filter_map(Mistake::meant_path).collect();
        mistakes.retain(|mistake| !(mistake.is_missing() && meant.contains(&mistake.path)));
        mistakes.sort_by_key(|mistake| (mistake.is_missing(), mistake.position));
        let mut mistakes = mistakes.into_iter();
        let first = Box::new(mistakes.next()?);
        Some(Self { first, others: mistakes.collect() })
    }

    /// The line of the first mistake, counted from 1; `None` when it has no place in a text.
    pub fn line(&self) -> Option<usize> {
        self.first.position.map(|(line, _)| line)
    }

    /// The column of the first mistake in characters, counted from 1; `None` when there is no
    /// line.
    pub fn column(&self) -> Option<usize> {
        self.first.position.map(|(_, column)| column)
    }

    /// The path of the first mistake's field, such as `limits.deadline_ms`; empty for the
    /// manifest as a whole.
    pub fn path(&self) -> &str {
        &self.first.path
    }

    /// The paths of all fields that are wrong, in the order of their places in the text.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.first).chain(&self.others).map(|mistake| mistake.path.as_str())
    }
}

impl Mistake {
    fn is_missing(&self) -> bool {
        matches!(self.problem, Problem::Missing { .. })
    }

    /// The path of the known field that was probably meant by an unknown one.
    fn meant_path(&self) -> Option<String> {
        let Problem::Unknown { nearest: Some(nearest), .. } = self.problem else { return None };
        let parent = self.path.rfind(['.', '[']).map_or("", |at| &self.path[..at]);
        let dot = if parent.is_empty() { "" } else { "." };
        Some(format!("{parent}{dot}{nearest}"))
    }

    /// The field and what is wrong with it, without its place.
    fn fmt_problem(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str("the manifest ")?;
        } else {
            write!(f, "`{}` ", self.path)?;
        }
        write!(f, "{}", self.problem)
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistake { file, position, .. } = &*self.first;
        if !file.is_empty() {
            write!(f, "{file}:")?;
            if let Some((line, column)) = position {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        self.first.fmt_problem(f)?;
        for other in self.others.iter().take(OTHERS_SHOWN_MAX) {
            f.write_str("; also ")?;
            if let Some((line, column)) = other.position {
                write!(f, "{line}:{column}: ")?;
            }
            other.fmt_problem(f)?;
        }
        match self.others.len().saturating_sub(OTHERS_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more mistakes"),
        }
    }
}

impl Error for ManifestError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson { reason } => write!(f, "is not JSON: {reason}"),
            Self::TooLong { bytes, bytes_max } => {
                write!(f, "is {bytes} bytes long; wanted at most {bytes_max}")
            }
            Self::TooDeep { depth_max } => {
                write!(f, "nests deeper here than {depth_max} levels; make it flatter")
            }
            Self::Value { found, wanted, nearest } => {
                write!(f, "is {found}; wanted {wanted}")?;
                nearest.map_or(Ok(()), |name| write!(f, "; did you mean `{name}`?"))
            }
            Self::Missing { wanted } => write!(f, "is missing; wanted {wanted}"),
            Self::Unknown { nearest: Some(name), .. } => {
                write!(f, "is no known field; did you mean `{name}`?")
            }
            Self::Unknown { nearest: None, known } => {
                write!(f, "is no known field; wanted one of `{}`", known.join("`, `"))
            }
            Self::Duplicate { first_line, second_line } => {
                write!(f, "is given twice, on lines {first_line} and {second_line}; keep one")
            }
            Self::OnlyFor { kind, other } => {
                write!(f, "is only for kind `{kind}`, and this is a `{other}`; remove it")
            }
            Self::RequiresItself => f.write_str("is the plugin itself; remove it"),
        }
    }
}

/// Why a plugin and this host do not speak the same plugin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApiMismatch {
    /// The manifest's `api` does not accept the host's version.
    HostNotAccepted { wanted: VersionReq, host: Version },
    /// The library was built with another major version.
    OtherMajor { built: Version, host: Version },
    /// The library was built with a minor version that the host does not have yet.
    NewerMinor { built: Version, host: Version },
}

impl fmt::Display for ApiMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNotAccepted { wanted, host } => write!(
                f,
                "plugin.json wants plugin API `{wanted}`, this host has {host}; use a host that \
                 `api` accepts, or let `api` accept {host} if the plugin works with it"
            ),
            Self::OtherMajor { built, host } => write!(
                f,
                "the library was built with plugin API {built}, this host has {host}; rebuild it \
                 with `hotbay-plugin` {}.{} or an earlier {0}.x",
                host.major, host.minor
            ),
            Self::NewerMinor { built, host } => write!(
                f,
                "the library was built with plugin API {built}, this host has only {host}; use a \
                 host with {}.{} or later, or rebuild it with `hotbay-plugin` {}.{}",
                built.major, built.minor, host.major, host.minor
            ),
        }
    }
}

impl Error for ApiMismatch {}

/// What differs between a manifest and the stamp of its library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StampMismatch {
    /// The stamp's package and the manifest's, when they differ.
    pub(crate) package: Option<(String, String)>,
    /// The stamp's version and the manifest's, when they differ.
    pub(crate) version: Option<(Version, Version)>,
}

impl fmt::Display for StampMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the library's stamp says ")?;
        if let Some((found, wanted)) = &self.package {
            write!(f, "package `{found}`, plugin.json says `{wanted}`; ")?;
        }
        if let Some((found, wanted)) = &self.version {
            write!(f, "version {found}, plugin.json says {wanted}; ")?;
        }
        f.write_str("install the library and the manifest of the same build")
    }
}

impl Error for StampMismatch {}

/// Why a plugin cannot be started among the others that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unstartable {
    /// No plugin has the required name.
    Missing { required: PluginName, wanted: VersionReq },
    /// The required plugin is there in a version that is not accepted.
    Version { required: PluginName, wanted: VersionReq, found: Version },
    /// The plugin requires itself by way of others; the circle starts at its first name.
    Circle { names: Arc<[PluginName]> },
    /// The required plugin cannot be started either.
    Refused { required: PluginName },
}

impl fmt::Display for Unstartable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { required, wanted } => {
                write!(f, "requires plugin `{required}` {wanted}, which is not there; add it")
            }
            Self::Version { required, wanted, found } => write!(
                f,
                "requires plugin `{required}` {wanted}, found {found}; install a version that is \
                 accepted, or change `requires`"
            ),
            Self::Circle { names } => {
                f.write_str("is part of a circle of requirements: ")?;
                for name in names.iter().take(CIRCLE_NAMES_MAX) {
                    write!(f, "{name} -> ")?;
                }
                let left_out = names.len().saturating_sub(CIRCLE_NAMES_MAX);
                if left_out > 0 {
                    write!(f, "({left_out} more) -> ")?;
                }
                let first = names.first().map_or("", PluginName::as_str);
                write!(f, "{first}; remove one of them")
            }
            Self::Refused { required } => {
                write!(f, "requires plugin `{required}`, which is refused itself")
            }
        }
    }
}

impl Error for Unstartable {}

/// Why a value was not accepted by a JSON Schema of its plugin's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SchemaError {
    /// The schema itself is wrong, names another document, or leads too far for this value.
    Schema(Violation),
    /// The first violations, in the order of the schema; none where they are not looked for.
    Value(Vec<Violation>),
    /// The check took more than it may.
    Exceeded(Exceeded),
    /// The system gave no thread to check it on.
    NoThread(String),
}

/// Which part of its budget a check exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// So many steps.
    Steps(u64),
    /// So many evaluations of subschemas at one place of a value.
    Expansions(usize),
    /// So many subschemas, each counted as often as references lead to it.
    Subschemas(usize),
    /// So much time.
    Time(Duration),
    /// The moment by which the result was needed.
    Deadline,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "the check exceeded its budget of {steps} steps")?,
            Self::Expansions(evaluations) => {
                return write!(
                    f,
                    "the check would exceed its budget of {evaluations} evaluations of subschemas \
                     at one place of the value, since the references of the schema multiply; \
                     refer to each subschema once"
                );
            }
            Self::Subschemas(subschemas) => {
                return write!(
                    f,
                    "the check would exceed its budget of {subschemas} subschemas, since the \
                     resources (`$id`) of the schema refer to one another in too many ways; use \
                     fewer of them"
                );
            }
            Self::Time(time) => write!(f, "the check exceeded its budget of {time:?}")?,
            Self::Deadline => f.write_str("the check did not end before its deadline")?,
        }
        f.write_str("; use a smaller value, or a schema with fewer alternatives")
    }
}

/// One place of a value, or of a schema, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// JSON pointer, such as `/mode`; empty for the whole.
    pub(crate) pointer: String,
    /// What was found and what was wanted.
    pub(crate) message: String,
}

impl Violation {
    /// One of the whole.
    pub(crate) fn of_all(message: String) -> Self {
        Self { pointer: String::new(), message }
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schema(violation) if violation.pointer.is_empty() => {
                write!(f, "the schema {}; correct the schema", violation.message)
            }
            Self::Schema(violation) => write!(f, "the schema at {violation}; correct the schema"),
            Self::Value(violations) if violations.is_empty() => {
                f.write_str("it is too long for the place to be looked for")
            }
            Self::Value(violations) => {
                for (index, violation) in violations.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "; " })?;
                    violation.fmt(f)?;
                }
                Ok(())
            }
            Self::Exceeded(exceeded) => exceeded.fmt(f),
            Self::NoThread(error) => write!(f, "the system gave no thread to check it: {error}"),
        }
    }
}

impl Error for SchemaError {}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "`{}`: {}", self.pointer, self.message)
    }
}
