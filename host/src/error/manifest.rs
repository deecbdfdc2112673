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

    /// Returns advice on how to fix the mistakes.
    pub fn hint(&self) -> Option<String> {
        let mistakes = std::iter::once(&*self.first).chain(&self.others).take(OTHERS_SHOWN_MAX);
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
            Self::TooLong { bytes, bytes_max } => {
                write!(f, "is {bytes} bytes long; expected at most {bytes_max}")
            }
            Self::TooDeep { depth_max } => {
                write!(f, "nests deeper than {depth_max} levels")
            }
            Self::Value { found, wanted, .. } => write!(f, "is {found}; expected {wanted}"),
            Self::Missing { wanted } => write!(f, "is missing; expected {wanted}"),
            Self::Unknown { nearest: Some(_), .. } => f.write_str("is not a known field"),
            Self::Unknown { nearest: None, known } => {
                write!(f, "is not a known field; expected one of `{}`", known.join("`, `"))
            }
            Self::Duplicate { first_line, second_line } => {
                write!(f, "is set twice, on lines {first_line} and {second_line}")
            }
            Self::OnlyFor { kind, other } => {
                write!(f, "is only for plugins of kind `{kind}`, and this one is a `{other}`")
            }
            Self::RequiresItself => f.write_str("is the plugin itself"),
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

impl ApiMismatch {
    /// Returns the hint of the error.
    pub(crate) fn hint(&self) -> Option<String> {
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
            Self::HostNotAccepted { wanted, host } => {
                write!(f, "plugin.json requires plugin API `{wanted}`; this host has {host}")
            }
            Self::OtherMajor { built, host } | Self::NewerMinor { built, host } => {
                write!(f, "the library was built with plugin API {built}; this host has {host}")
            }
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

impl StampMismatch {
    /// Returns the hint of the error.
    pub(crate) fn hint(&self) -> Option<String> {
        Some("install library and manifest of the same build".to_owned())
    }
}

impl fmt::Display for StampMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the library does not match its manifest: ")?;
        if let Some((found, wanted)) = &self.package {
            write!(f, "its package is `{found}`, plugin.json states `{wanted}`")?;
        }
        if self.package.is_some() && self.version.is_some() {
            f.write_str("; ")?;
        }
        if let Some((found, wanted)) = &self.version {
            write!(f, "its version is {found}, plugin.json states {wanted}")?;
        }
        Ok(())
    }
}

impl Error for StampMismatch {}

/// Why a plugin cannot be started together with the other plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unstartable {
    /// No plugin has the required name.
    Missing { required: PluginName, wanted: VersionReq },
    /// The required plugin has a version that is not accepted.
    Version { required: PluginName, wanted: VersionReq, found: Version },
    /// The plugin requires itself through others; the cycle starts at the first name.
    Circle { names: Arc<[PluginName]> },
    /// The required plugin cannot be started either.
    Refused { required: PluginName },
}

impl Unstartable {
    /// Returns the hint of the error.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing { required, .. } => format!("add the plugin `{required}`"),
            Self::Version { .. } => {
                "install a version that is accepted, or change `requires`".to_owned()
            }
            Self::Circle { .. } => "remove one of the requirements".to_owned(),
            Self::Refused { required } => format!("fix the plugin `{required}` first"),
        })
    }
}

impl fmt::Display for Unstartable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { required, wanted } => {
                write!(f, "requires plugin `{required}` {wanted}, which was not found")
            }
            Self::Version { required, wanted, found } => {
                write!(f, "requires plugin `{required}` {wanted}, found {found}")
            }
            Self::Circle { names } => {
                f.write_str("is part of a dependency cycle: ")?;
                for name in names.iter().take(CIRCLE_NAMES_MAX) {
                    write!(f, "{name} -> ")?;
                }
                let left_out = names.len().saturating_sub(CIRCLE_NAMES_MAX);
                if left_out > 0 {
                    write!(f, "({left_out} more) -> ")?;
                }
                f.write_str(names.first().map_or("", PluginName::as_str))
            }
            Self::Refused { required } => {
                write!(f, "requires plugin `{required}`, which cannot be started")
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

impl Exceeded {
    fn hint(self) -> &'static str {
        match self {
            Self::Expansions(_) => "refer to each subschema once",
            Self::Subschemas(_) => "use fewer resources (`$id`)",
            Self::Steps(_) | Self::Time(_) | Self::Deadline => {
                "use a smaller value, or a schema with fewer alternatives"
            }
        }
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "the check exceeded its budget of {steps} steps"),
            Self::Expansions(evaluations) => write!(
                f,
                "the check would exceed its budget of {evaluations} evaluations of subschemas at \
                 one place of the value: the references of the schema multiply"
            ),
            Self::Subschemas(subschemas) => write!(
                f,
                "the check would exceed its budget of {subschemas} subschemas: the resources \
                 (`$id`) of the schema refer to each other in too many ways"
            ),
            Self::Time(time) => write!(f, "the check exceeded its budget of {time:?}"),
            Self::Deadline => f.write_str("the check did not finish before its deadline"),
        }
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

impl SchemaError {
    /// Returns the hint of the error.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Schema(_) => Some("fix the schema".to_owned()),
            Self::Exceeded(exceeded) => Some(exceeded.hint().to_owned()),
            Self::Value(_) | Self::NoThread(_) => None,
        }
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schema(violation) if violation.pointer.is_empty() => {
                write!(f, "the schema {}", violation.message)
            }
            Self::Schema(violation) => write!(f, "the schema at {violation}"),
            Self::Value(violations) if violations.is_empty() => {
                f.write_str("it does not match, and is too long to find the place")
            }
            Self::Value(violations) => {
                for (index, violation) in violations.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "; " })?;
                    violation.fmt(f)?;
                }
                Ok(())
            }
            Self::Exceeded(exceeded) => exceeded.fmt(f),
            Self::NoThread(error) => write!(f, "cannot start a thread for the check: {error}"),
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
