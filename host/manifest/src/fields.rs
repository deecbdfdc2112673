//! The table of a manifest's fields: the only place with their names, shapes and descriptions. The
//! parser, suggestions and the JSON Schema use it; it parses nothing itself.

use super::entries::Entries;
use super::words::{Handover, Isolation, Kind, Preset, SocketType, Unload};

/// One field of an object in the manifest.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) presence: Presence,
    /// Completes the sentence "expected …".
    pub(crate) expected: &'static str,
    /// The description in the JSON Schema, which editors show.
    pub(crate) doc: &'static str,
}

/// The shape of a value in the JSON Schema.
#[derive(Debug)]
pub(crate) enum Shape {
    Text,
    Pattern(&'static str),
    Words(&'static [&'static str]),
    Number {
        min: u64,
        max: u64,
    },
    Texts,
    Patterns(&'static str),
    FreeObject,
    FreeObjectOrText,
    Requirements,
    Object(&'static [Field]),
    Objects(&'static [Field]),
    /// A list in `sandbox`.
    Entries(Entries),
    /// A number of processors or seconds, which may have a fraction.
    Decimal,
    /// `true` or `false`.
    Flag,
    ObjectsByName(&'static [Field]),
    #[cfg(feature = "host-file")]
    Host(HostShape),
}

/// The shapes of values in `hotbay.toml` only.
#[cfg(feature = "host-file")]
#[derive(Debug)]
pub(crate) enum HostShape {
    /// A path, relative to the folder of the file.
    Path,
    Paths,
    Duration,
    DurationOrNone,
    NumberOrNone {
        min: u64,
        max: u64,
    },
    /// Lists of plugins by the name of a contract.
    Providers,
    ObjectsByPlugin(&'static [Field]),
    /// Objects by names of the same form.
    Keys(&'static [Field]),
    /// Names of plugins, or beginnings of names and `*`.
    NamePatterns(&'static str),
    /// A date such as `2027-01-31`.
    Date,
}

/// Whether a field is required, and its default.
#[derive(Debug)]
pub(crate) enum Presence {
    Required,
    Optional,
    /// The default as JSON text.
    Default(&'static str),
    OnlyFor(Kind),
    RequiredFor(Kind),
}

/// The pattern of a plugin's name; the rule itself is `PluginName`'s.
pub(crate) const NAME_PATTERN: &str = "^[a-z][a-z0-9-]{0,63}$";

const VERSION_PATTERN: &str =
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$";
const VERSION: &str = "MAJOR.MINOR.PATCH, for example `1.0.0`";
const REQUIREMENT: &str = "a semver requirement, for example `^1.0`";

/// The fields of plugin.json.
pub(crate) const MANIFEST: &[Field] = &[
    field(
        "name",
        Shape::Pattern(NAME_PATTERN),
        Presence::Required,
        "a lower-case letter, then at most 63 of `a-z`, `0-9`, `-`",
        "Name of the plugin, unique in a host; two plugins may share one library.",
    ),
    field(
        "package",
        Shape::Pattern("^[A-Za-z0-9_-]{1,64}$"),
        Presence::Optional,
        "the package's name: 1 to 64 of `A-Z`, `a-z`, `0-9`, `_`, `-`",
        "Package name in the library's stamp; by default the plugin's name.",
    ),
    field(
        "version",
        Shape::Pattern(VERSION_PATTERN),
        Presence::Required,
        VERSION,
        "Version of the plugin; must equal the version in the library's stamp.",
    ),
    field(
        "api",
        Shape::Text,
        Presence::Required,
        REQUIREMENT,
        "Versions of hotbay-plugin that the plugin works with; must accept the host's.",
    ),
    field(
        "kind",
        Shape::Words(Kind::WORDS),
        Presence::Default("\"library\""),
        "`library` or `process`",
        "Whether the plugin is a library or a program.",
    ),
    field(
        "library",
        Shape::Pattern(r"^[^/\\:]+$"),
        Presence::OnlyFor(Kind::Library),
        "the bare stem of a file in the plugin's folder, for example `transform`",
        "Stem of the library's file: `transform` means libtransform.so, libtransform.dylib or \
        transform.dll. By default the package's name with `-` replaced by `_`.",
    ),
    field(
        "isolation",
        Shape::Words(Isolation::WORDS),
        Presence::OnlyFor(Kind::Library),
        "`none` or `process`",
        "Where a library runs: in the host's process (none, the default), or in a child process \
        (process), so that a crash does not end the host. Needs the program `hotbay-runner`.",
    ),
    field(
        "command",
        Shape::Texts,
        Presence::RequiredFor(Kind::Process),
        "a list of strings: a program inside the plugin's folder, then its arguments",
        "Program of a process plugin, relative to the plugin's folder, and its arguments.",
    ),
    field(
        "type",
        Shape::Words(SocketType::WORDS),
        Presence::OnlyFor(Kind::Process),
        "`unix` or `tcp`",
        "Type of the socket on which a process plugin should listen: a Unix socket (unix, the \
        default), or a port on 127.0.0.1 (tcp), which every user of the machine can reach.",
    ),
    field("description", Shape::Text, Presence::Optional, "a string", "Description of the plugin."),
    field(
        "authors",
        Shape::Texts,
        Presence::Default("[]"),
        "a list of strings",
        "Authors of the plugin.",
    ),
    field(
        "license",
        Shape::Text,
        Presence::Optional,
        "a string",
        "License of the plugin as an SPDX expression.",
    ),
    field("homepage", Shape::Text, Presence::Optional, "a string", "URL of the plugin's website."),
    field(
        "config",
        Shape::FreeObject,
        Presence::Default("{}"),
        "an object",
        "Config of the plugin; validated against config_schema, then passed to the plugin.",
    ),
    field(
        "config_schema",
        Shape::FreeObjectOrText,
        Presence::Optional,
        "a JSON Schema object, or the path of a schema file in the plugin's folder",
        "JSON Schema of config: the schema itself, or a file in the plugin's folder.",
    ),
    field(
        "input_schema",
        Shape::FreeObjectOrText,
        Presence::Optional,
        "a JSON Schema object, or the path of a schema file in the plugin's folder",
        "JSON Schema of each call's input, which must then be JSON: the schema itself, or a file \
        in the plugin's folder. Calls that do not match it never reach the plugin.",
    ),
    field(
        "provides",
        Shape::Objects(PROVIDED),
        Presence::Default("[]"),
        "a list of objects",
        "Contracts that the plugin provides, by which callers can find it.",
    ),
    field(
        "requires",
        Shape::Requirements,
        Presence::Default("{}"),
        "an object of plugin names and semver requirements",
        "Plugins that must run before this one, with the accepted versions.",
    ),
    field(
        "limits",
        Shape::Object(LIMITS),
        Presence::Default("{}"),
        "an object",
        "Limits of the plugin, bounded by those of the host.",
    ),
    field(
        "handover",
        Shape::Words(Handover::WORDS),
        Presence::Default("\"overlap\""),
        "`overlap`, `pause` or `stop-first`",
        "How a reload moves state: the old build keeps serving (overlap), calls wait (pause), or \
        the old build is stopped first (stop-first).",
    ),
    field(
        "unload",
        Shape::Words(Unload::WORDS),
        Presence::Default("\"auto\""),
        "`auto` or `keep`",
        "Whether an unloaded library is closed once it is unused (auto) or stays mapped (keep).",
    ),
    field(
        "permissions",
        Shape::Patterns("^(call:[a-z][a-z0-9-]{0,63}|(?!call(:|$))[a-z][a-z0-9:._-]*)$"),
        Presence::Default("[]"),
        "`log`, `metrics`, `call:NAME`, `read`, `write`, `exec`, or a permission that the \
        application defines",
        "Requested permissions: services of the host (`log`, `metrics`, `call:NAME`, and \
        `contract:NAME` for calls of a typed contract of the host or of another plugin), and \
        operations of requests (`read`, `write`, `exec`, and those that the application defines). \
        The application may withhold any of them.",
    ),
    field(
        "sandbox",
        Shape::Object(SANDBOX),
        Presence::Optional,
        "an object",
        "What the plugin's process may do. With this section, everything that it does not list is \
        denied, as far as the machine can enforce it. A library cannot be confined in the host's own \
        process.",
    ),
    field(
        "sha256",
        Shape::Pattern("^[0-9A-Fa-f]{64}$"),
        Presence::Optional,
        "64 hexadecimal digits",
        "SHA-256 of the library or program; written by `hotbay seal`.",
    ),
    field(
        "length",
        number(0, u64::MAX),
        Presence::Optional,
        "a whole number of bytes",
        "Length of the library or program in bytes; written by `hotbay seal`.",
    ),
];

/// The fields of an entry of `provides`.
pub(crate) const PROVIDED: &[Field] = &[
    field(
        "contract",
        Shape::Pattern("."),
        Presence::Required,
        "the contract's name",
        "Name of the contract.",
    ),
    field(
        "version",
        Shape::Pattern(VERSION_PATTERN),
        Presence::Required,
        VERSION,
        "Version of the contract.",
    ),
    field(
        "methods",
        Shape::ObjectsByName(MAPPED),
        Presence::OnlyFor(Kind::Process),
        "an object of methods and their endpoints",
        "Endpoints that serve the contract's methods, by method, for a program that does not \
         describe the contract in its capabilities. No endpoint serves a stream. Section 8 of \
         PROTOCOL.md has an example.",
    ),
];

const ENDPOINT_PATTERN: &str = r"^[A-Za-z0-9._~:@%+-]+(/[A-Za-z0-9._~:@%+-]+)*$";

/// The fields of an entry of `methods`.
pub(crate) const MAPPED: &[Field] = &[
    field(
        "endpoint",
        Shape::Pattern(ENDPOINT_PATTERN),
        Presence::Required,
        "the path of an endpoint without `/` at either end, such as `process`",
        "Endpoint that serves the method: a request has its arguments, and the response its result, \
         as JSON.",
    ),
    field(
        "body",
        Shape::Pattern("."),
        Presence::Optional,
        "the name of an argument",
        "Name of the only argument, which is the whole body of a request. Without it, the body is \
         an object with all arguments.",
    ),
];

/// The fields of `limits`.
pub(crate) const LIMITS: &[Field] = &[
    field(
        "deadline_ms",
        number(1, u64::MAX),
        Presence::Optional,
        "a whole number of milliseconds",
        "Maximum time of a pooled call, in milliseconds.",
    ),
    field(
        "workers",
        number(1, u32::MAX as u64),
        Presence::Optional,
        "a whole number of threads",
        "Number of threads that run the plugin's calls.",
    ),
    field(
        "queue",
        number(1, u32::MAX as u64),
        Presence::Optional,
        "a whole number of calls",
        "Maximum number of calls that wait for a worker.",
    ),
    field(
        "in_flight",
        number(1, u32::MAX as u64),
        Presence::Optional,
        "a whole number of calls",
        "Maximum number of calls that run at the same time.",
    ),
    field(
        "memory_bytes",
        number(1, u64::MAX),
        Presence::Optional,
        "a whole number of bytes",
        "Maximum memory of the plugin, in bytes.",
    ),
    field(
        "call_memory_bytes",
        number(1, u64::MAX),
        Presence::Optional,
        "a whole number of bytes",
        "Maximum memory that one call of a library holds at once on its thread, in bytes. Not \
         checked if the library runs in its own process: use `sandbox.limits.memory_bytes` there.",
    ),
    field(
        "input_bytes",
        number(1, u64::MAX),
        Presence::Optional,
        "a whole number of bytes",
        "Maximum size of an input, in bytes.",
    ),
    field(
        "output_bytes",
        number(1, u64::MAX),
        Presence::Optional,
        "a whole number of bytes",
        "Maximum size of an output, in bytes.",
    ),
    field(
        "stack_bytes",
        number(1, u64::MAX),
        Presence::Optional,
        "a whole number of bytes",
        "Stack size of each of the plugin's workers, in bytes.",
    ),
    field(
        "open_streams",
        number(1, u32::MAX as u64),
        Presence::Optional,
        "a whole number of streams",
        "Maximum number of streams of the plugin that are open at the same time.",
    ),
];

/// What a flag is expected to be.
pub(crate) const FLAG: &str = "`true` or `false`";

const LIST_OF_PATHS: &str = "a list of paths";

/// The fields of `sandbox`.
pub(crate) const SANDBOX: &[Field] =
    &[PRESET, READ, WRITE, RUN, NET_FIELD, ENV, NAMESPACES, LIMITS_FIELD, REQUIRE];

pub(crate) const PRESET: Field = field(
    "preset",
    Shape::Words(Preset::WORDS),
    Presence::Optional,
    "`native`, `python` or `node`",
    "Adds what such a program needs to start: its libraries and interpreter, a folder for temporary \
     files, and a few files of the system. By default `native`.",
);
pub(crate) const READ: Field = list(
    "read",
    Entries::Paths,
    LIST_OF_PATHS,
    "Files and folders that can be read. `{plugin}` is the plugin's folder, which is always \
     readable; `{state}` a private folder of the plugin that survives restarts; `{tmp}` a private \
     folder of the process.",
);
pub(crate) const WRITE: Field = list(
    "write",
    Entries::Paths,
    LIST_OF_PATHS,
    "Files and folders that can be read and changed. The folder `{state}` is created if it is listed \
     here, and its path is in the variable `HOTBAY_STATE_DIR`.",
);
pub(crate) const RUN: Field = list(
    "run",
    Entries::Programs,
    "a list of paths, or of names of programs",
    "Programs that can be executed: paths, or names that are searched in `PATH`.",
);
pub(crate) const NET_FIELD: Field = field(
    "net",
    Shape::Object(NET),
    Presence::Optional,
    "an object",
    "Ports that the program can use. Unix sockets do not belong to it.",
);
pub(crate) const ENV: Field = list(
    "env",
    Entries::Variables,
    "a list of names",
    "Variables of the host's environment that the program gets, besides `PATH` and those of the \
     locale: usual ones such as `HOME` and `TZ`, and those in `environment` of hotbay.toml. If the \
     host sets bounds for `env`, those in the bounds.",
);
pub(crate) const NAMESPACES: Field = field(
    "namespaces",
    Shape::Flag,
    Presence::Optional,
    FLAG,
    "Whether the program runs in new Linux namespaces: one without a network if it lists no ports, \
     and one in which it has no privileges, even if the host runs as root. By default no, unless \
     the host or `require` says so.",
);
pub(crate) const LIMITS_FIELD: Field = field(
    "limits",
    Shape::Object(SANDBOX_LIMITS),
    Presence::Optional,
    "an object",
    "Limits of its processes.",
);
pub(crate) const REQUIRE: Field = list(
    "require",
    Entries::Rules,
    "a list of rules, such as `read` or `net`",
    "Rules without which the program must not run: `read`, `write`, `run`, `net`, `ipc`, `syscalls`, \
     `namespaces`, and limits. If the machine cannot enforce one of them, or only partially, or a \
     limit is not set, the load fails. Others are enforced as far as the machine can.",
);

/// The fields of `sandbox.net`.
pub(crate) const NET: &[Field] = &[
    list(
        "connect",
        Entries::Ports,
        "a list of ports",
        "Ports that can be connected to: 443, \"127.0.0.1:5432\" or \"udp:53\". The kernel checks \
         the port and not the address. Most kernels do not restrict UDP ports.",
    ),
    list(
        "listen",
        Entries::Ports,
        "a list of ports",
        "TCP ports that can be listened on. A program with the socket type `tcp` can always listen \
         on a free port.",
    ),
];

/// The fields of `sandbox.limits`.
pub(crate) const SANDBOX_LIMITS: &[Field] = &[
    limit(
        "memory_bytes",
        "a whole number of bytes",
        "Maximum memory, in bytes: of the heap and the private writable mappings of each process, to \
         which the stacks of threads belong as a whole, and of the memory that all processes use \
         together.",
    ),
    limit(
        "processes",
        "a whole number of processes",
        "Maximum number of processes. With 1, it cannot start any.",
    ),
    field(
        "cpu",
        Shape::Decimal,
        Presence::Optional,
        "a number of processors, at least 0.001",
        "Maximum share of processor time: 0.5 is half of one processor.",
    ),
    limit(
        "cpu_seconds",
        "a whole number of seconds",
        "Maximum processor time of each process, in seconds.",
    ),
    field(
        "call_cpu_seconds",
        Shape::Decimal,
        Presence::Optional,
        "a number of seconds, from 0.001 to 4096",
        "Maximum processor time of one call, in seconds. A call that uses more is ended with its \
         process. Checked each 100 ms; calls that run at once share the time of all processes evenly.",
    ),
    limit("open_files", "a whole number of files", "Maximum number of open files of each process."),
    limit(
        "file_bytes",
        "a whole number of bytes",
        "Maximum size of a file that it writes, in bytes.",
    ),
];

const fn list(
    name: &'static str,
    entries: Entries,
    expected: &'static str,
    doc: &'static str,
) -> Field {
    field(name, Shape::Entries(entries), Presence::Optional, expected, doc)
}

const fn limit(name: &'static str, expected: &'static str, doc: &'static str) -> Field {
    field(name, number(1, u64::MAX), Presence::Optional, expected, doc)
}

/// Returns the field `name` of `table`.
pub(crate) fn find(table: &'static [Field], name: &str) -> Option<&'static Field> {
    table.iter().find(|field| field.name == name)
}

/// Returns whether `key` is for other tools: `$schema`, or anything that starts with `x-`.
pub(crate) fn is_ignored(key: &str) -> bool {
    key == "$schema" || key.starts_with("x-")
}

pub(crate) const fn field(
    name: &'static str,
    shape: Shape,
    presence: Presence,
    expected: &'static str,
    doc: &'static str,
) -> Field {
    Field { name, shape, presence, expected, doc }
}

pub(crate) const fn number(min: u64, max: u64) -> Shape {
    Shape::Number { min, max }
}
