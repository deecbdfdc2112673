//! The table of the fields of `hotbay.toml`, like that of `plugin.json`: names, shapes and
//! descriptions.

use super::keys::{KEYS, SIGNATURES};
use crate::fields::{self, FLAG, Field, HostShape, LIMITS, Presence, SANDBOX, Shape, field};
use crate::words::Isolation;

const DURATION: &str = "a duration such as `50ms`, `1.5s` or `2m`";
const OPTIONAL_DURATION: &str = "a duration such as `50ms`, `1.5s` or `2m`, or `none`";
const COUNT: &str = "a whole number";
const BYTES: &str = "a whole number of bytes";

const ANY: Shape = Shape::Number { min: 0, max: u64::MAX };
const ONE: Shape = Shape::Number { min: 1, max: u32::MAX as u64 };
const MANY: Shape = Shape::Number { min: 0, max: u32::MAX as u64 };

/// The fields of the file.
pub(crate) const HOST_FILE: &[Field] = &[
    optional(
        "include",
        Shape::Host(HostShape::Paths),
        "a list of paths",
        "Other files of this format, which are read first: a value in this file replaces theirs, and \
         a later file those of an earlier one. Relative to the folder of this file.",
    ),
    optional(
        "plugin_dirs",
        Shape::Host(HostShape::Paths),
        "a list of paths",
        "Folders below which plugins are searched, relative to the folder of this file.",
    ),
    optional(
        "staging_dir",
        Shape::Host(HostShape::Path),
        "a path",
        "Folder for private copies of libraries, which must allow files to be executed; relative to \
         the folder of this file. By default the system's folder for temporary files.",
    ),
    optional(
        "runner",
        Shape::Host(HostShape::Path),
        "a path",
        "The program `hotbay-runner`, which runs isolated libraries; relative to the folder of this \
         file. By default it is searched beside the host's program, and then in `PATH`.",
    ),
    optional(
        "default_deadline",
        Shape::Host(HostShape::Duration),
        DURATION,
        "Time limit of pooled calls without a deadline, for plugins whose manifests state none.",
    ),
    optional(
        "environment",
        Shape::Texts,
        "a list of names",
        "Variables of the host's environment that processes get besides the usual ones.",
    ),
    optional("trust", Shape::Object(TRUST), "a table", "Which plugins are accepted."),
    SIGNATURES,
    KEYS,
    optional("reload", Shape::Object(RELOAD), "a table", "How changes on disk are followed."),
    optional(
        "limits",
        Shape::Object(HOST_LIMITS),
        "a table",
        "Limits of each plugin, which are also the defaults for its manifest.",
    ),
    optional(
        "quarantine",
        Shape::Object(QUARANTINE),
        "a table",
        "When a plugin with repeated faults is quarantined, and for how long.",
    ),
    optional(
        "permissions",
        Shape::Object(PERMISSIONS),
        "a table",
        "Which of the permissions that manifests request are granted.",
    ),
    optional(
        "sandbox",
        Shape::Object(HOST_SANDBOX),
        "a table",
        "Bounds of what the sandboxes of manifests permit, and what is required of all of them.",
    ),
    optional(
        "providers",
        Shape::Host(HostShape::Providers),
        "a table of contracts and lists of plugins",
        "Plugins that are tried first for a contract, in this order.",
    ),
    optional(
        "plugins",
        Shape::Host(HostShape::ObjectsByPlugin(PLUGIN)),
        "a table of plugins",
        "Settings of single plugins, by name.",
    ),
];

/// The fields of `trust`.
pub(crate) const TRUST: &[Field] = &[
    optional(
        "allow_unverified",
        Shape::Flag,
        FLAG,
        "Accepts libraries and programs whose manifests state no digest. A damaged library can end the process.",
    ),
    optional(
        "allow_writable_by_others",
        Shape::Flag,
        FLAG,
        "Accepts folders and files that other users own or may write to.",
    ),
];

/// The fields of `reload`.
pub(crate) const RELOAD: &[Field] = &[
    optional(
        "watch",
        Shape::Flag,
        FLAG,
        "Loads, reloads and unloads plugins as their folders change, and applies changes of this \
         file.",
    ),
    optional(
        "poll_interval",
        Shape::Host(HostShape::Duration),
        DURATION,
        "Polls for changes in this interval, for file systems that report none.",
    ),
    optional(
        "unload_removed",
        Shape::Flag,
        FLAG,
        "Whether a plugin is unloaded when its folder is gone.",
    ),
];

/// The fields of `quarantine`.
pub(crate) const QUARANTINE: &[Field] = &[
    optional("enabled", Shape::Flag, FLAG, "Whether plugins with repeated faults are quarantined."),
    optional(
        "max_faults",
        ONE,
        "a whole number of faults",
        "Number of faults within `window` that quarantine a plugin.",
    ),
    optional(
        "window",
        Shape::Host(HostShape::Duration),
        DURATION,
        "Window in which faults are counted.",
    ),
    optional(
        "initial_backoff",
        Shape::Host(HostShape::Duration),
        DURATION,
        "Duration of the first quarantine.",
    ),
    optional(
        "max_backoff",
        Shape::Host(HostShape::Duration),
        DURATION,
        "Maximum duration of a quarantine.",
    ),
];

const PERMISSION: &str = "a list of permissions such as `log` or `contract:key-value`, one that ends in `*` \
                          for all that begin so, or `*` for all";

/// A permission, or the beginning of one and `*`.
const PERMISSION_PATTERN: &str = r"^(\*|[a-z][a-z0-9:._-]*\*?)$";

/// The fields of `permissions`.
pub(crate) const PERMISSIONS: &[Field] = &[optional(
    "default",
    Shape::Patterns(PERMISSION_PATTERN),
    PERMISSION,
    "Permissions that are granted to each plugin that requests them, unless its entry in `plugins` \
     has `permissions`. Without this list, all are granted.",
)];

/// The fields of an entry of `plugins`.
pub(crate) const PLUGIN: &[Field] = &[
    optional(
        "enabled",
        Shape::Flag,
        FLAG,
        "Whether the plugin is loaded when all plugins are, and when its folder changes.",
    ),
    optional(
        "folder",
        Shape::Host(HostShape::Path),
        "a path",
        "Loads the plugin in this folder under the name of this entry, in addition to those that are \
         found. So one folder can have several instances. Relative to the folder of this file. The \
         folder is watched with the plugin directories.",
    ),
    optional(
        "isolation",
        Shape::Words(Isolation::WORDS),
        "`none` or `process`",
        "Where the plugin's library runs, instead of what its manifest or `isolate_libraries` says: in \
         the host's process, or in its own. Programs ignore it.",
    ),
    optional(
        "permissions",
        Shape::Patterns(PERMISSION_PATTERN),
        PERMISSION,
        "Permissions that are granted to the plugin if its manifest requests them, instead of the \
         default ones.",
    ),
    optional(
        "config",
        Shape::FreeObject,
        "a table",
        "Config, whose values replace those of the manifest, field by field. In its texts, `${NAME}` \
         is replaced by a variable of the environment, and `${file:PATH}` by the text of a file; \
         the host never shows such values, which are always texts. `$${` means `${`. The same works in paths, \
         which are shown.",
    ),
    optional(
        "replace_config",
        Shape::Flag,
        FLAG,
        "Whether `config` replaces that of the manifest as a whole, not field by field.",
    ),
    optional(
        "limits",
        Shape::Object(LIMITS),
        "a table",
        "Limits, which replace those of the manifest, bounded by those of the host.",
    ),
    optional(
        "sandbox",
        Shape::Object(SANDBOX),
        "a table",
        "Bounds of what the sandbox of the manifest permits, instead of the default ones. A plugin \
         without a sandbox in its manifest is confined by this one.",
    ),
];

/// The fields of `sandbox`.
pub(crate) const HOST_SANDBOX: &[Field] = &[
    optional(
        "required",
        Shape::Flag,
        FLAG,
        "Whether each program must be confined, and none of its rules may be unavailable on this \
         machine. By default, a warning names what the machine does not enforce.",
    ),
    optional(
        "isolate_libraries",
        Shape::Flag,
        FLAG,
        "Whether each library runs in its own process, whatever its manifest says. `isolation` in an \
         entry of `plugins` makes an exception. With `required`, each of them needs a sandbox.",
    ),
    optional(
        "state_dir",
        Shape::Host(HostShape::Path),
        "a path",
        "Folder for the folders `{state}` of plugins. By default `hotbay` in `$XDG_STATE_HOME`, or in \
         `~/.local/state`.",
    ),
    optional(
        "cgroup",
        Shape::Host(HostShape::Path),
        "a path",
        "A folder of control groups (version 2) that is delegated to the host, such as \
         `/sys/fs/cgroup/hotbay`. With it, limits of memory, processes and processor time apply to \
         all processes of a program together.",
    ),
    optional(
        "namespaces",
        Shape::Flag,
        FLAG,
        "Whether every program with a sandbox runs in new Linux namespaces, as far as this machine \
         permits it. By default only those whose sandboxes say so.",
    ),
    fields::READ,
    fields::WRITE,
    fields::RUN,
    fields::NET_FIELD,
    fields::ENV,
    fields::LIMITS_FIELD,
    fields::REQUIRE,
];

/// The fields of `limits`: those of `HostLimits`.
pub(crate) const HOST_LIMITS: &[Field] = &[
    optional("max_workers", ONE, COUNT, "Worker threads of one plugin."),
    optional("max_queued_calls", ONE, COUNT, "Queued calls of one plugin."),
    optional(
        "max_queue_waiters",
        MANY,
        COUNT,
        "Pooled calls of one plugin that may wait for space in its queue.",
    ),
    optional(
        "queue_timeout",
        Shape::Host(HostShape::DurationOrNone),
        OPTIONAL_DURATION,
        "Maximum time that a pooled call waits in the queue before it is rejected.",
    ),
    optional(
        "max_in_flight",
        Shape::Host(HostShape::NumberOrNone { min: 1, max: u32::MAX as u64 }),
        "a whole number, or `none`",
        "Concurrent calls of one plugin, however they are made.",
    ),
    optional("max_open_streams", ONE, COUNT, "Open streams of one build of a plugin."),
    optional(
        "max_stream_threads",
        ONE,
        COUNT,
        "Threads of one build of a plugin that make items of its streams at the same time.",
    ),
    optional(
        "max_abandoned_calls",
        MANY,
        COUNT,
        "Workers of one plugin that are replaced because their calls did not return.",
    ),
    optional(
        "max_memory_bytes",
        Shape::Host(HostShape::NumberOrNone { min: 1, max: u64::MAX }),
        "a whole number of bytes, or `none`",
        "Bytes that one plugin may have allocated before it is quarantined, if it counts them.",
    ),
    optional(
        "max_call_memory_bytes",
        Shape::Host(HostShape::NumberOrNone { min: 1, max: u64::MAX }),
        "a whole number of bytes, or `none`",
        "Bytes that one call of a library may hold at once on its thread, if it counts them.",
    ),
    optional("max_log_lines_per_second", MANY, COUNT, "Lines that one plugin may log in a second."),
    optional("max_input_bytes", ANY, BYTES, "Bytes of one input."),
    optional("max_output_bytes", ANY, BYTES, "Bytes of one output."),
    optional("max_stack_bytes", ANY, BYTES, "Stack size of each thread of a plugin."),
    optional(
        "max_library_bytes",
        ANY,
        BYTES,
        "Bytes of a library, and of all files of a signed plugin.",
    ),
    optional(
        "max_retained_libraries",
        MANY,
        COUNT,
        "Libraries of unloaded builds that may stay mapped.",
    ),
    optional(
        "max_snapshot_bytes",
        ANY,
        BYTES,
        "Bytes of the state that a plugin hands over to its next build.",
    ),
    optional("max_process_calls", ONE, COUNT, "Concurrent pooled calls of one process."),
    optional(
        "process_idle_timeout",
        Shape::Host(HostShape::DurationOrNone),
        OPTIONAL_DURATION,
        "Time that a process may be idle before it exits.",
    ),
    optional(
        "process_health_timeout",
        Shape::Host(HostShape::DurationOrNone),
        OPTIONAL_DURATION,
        "Time for which a process may leave everything unanswered after a missed deadline.",
    ),
    optional(
        "max_process_descriptors",
        Shape::Host(HostShape::NumberOrNone { min: 1, max: u64::MAX }),
        "a whole number, or `none`",
        "Descriptors that a process may have open.",
    ),
    optional(
        "max_process_cpu_time",
        Shape::Host(HostShape::DurationOrNone),
        OPTIONAL_DURATION,
        "Processor time after which a process is restarted.",
    ),
    optional(
        "start_timeout",
        Shape::Host(HostShape::Duration),
        DURATION,
        "Time limit of each of the steps of a start.",
    ),
    optional(
        "drain_timeout",
        Shape::Host(HostShape::Duration),
        DURATION,
        "Maximum time that an unload waits for running calls.",
    ),
    optional(
        "pause_timeout",
        Shape::Host(HostShape::Duration),
        DURATION,
        "Maximum time that a call waits while its plugin is paused for a reload.",
    ),
    optional(
        "stop_timeout",
        Shape::Host(HostShape::Duration),
        DURATION,
        "Time limit of a plugin's shutdown; a process is killed after it.",
    ),
];

const fn optional(
    name: &'static str,
    shape: Shape,
    expected: &'static str,
    doc: &'static str,
) -> Field {
    field(name, shape, Presence::Optional, expected, doc)
}
