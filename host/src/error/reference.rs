//! Generates `docs/src/errors.md`, the reference of what can go wrong: each kind of error with its
//! cause and its cure. Only its test uses it. A kind that is missing here does not compile.

use std::fmt::Write as _;

use hotbay_plugin::contract::{CallError, CallErrorKind};
use hotbay_plugin::{PluginError, ServiceError};

use super::{Error, ErrorKind, LoadStep};
use crate::pool::SubmitErrorKind;

/// Defines a list of variants, each with texts, and a `match` that fails to compile if one is missing.
macro_rules! table {
    ($name:ident: $type:ty; $($variant:ident: $first:literal, $second:literal;)*) => {
        const $name: &[($type, &str, &str)] = &[$((<$type>::$variant, $first, $second)),*];
        const _: fn($type) = |variant| match variant {
            $(<$type>::$variant => {})*
        };
    };
}

table! { KINDS: ErrorKind;
    NotFound:
        "No plugin, or no provider of a contract, has this name.",
        "Check the name: the hint has the nearest one. Load the plugin first; `hotbay list` shows why it was refused.";
    Duplicate:
        "A plugin of this name is already loaded, or two folders have plugins of this name.",
        "Unload the first one, or rename one of them in its `plugin.json`.";
    Manifest:
        "`plugin.json` is missing, is not valid JSON, or has an invalid field.",
        "Fix the field at the line and column in the message.";
    Incompatible:
        "Plugin and host were built for different versions of the API, of a contract, or for different systems.",
        "Rebuild the plugin with the `hotbay-plugin` that the message names, or update the host.";
    Integrity:
        "A file is not the one that the manifest describes, is damaged, or others may write to it.",
        "Install the plugin again with `hotbay build`, or write the digest with `hotbay seal`. Correct the owner and mode of the path in the message.";
    StartFailed:
        "`init` or `health` failed, panicked or took longer than `start_timeout`, or the program exited during its start.",
        "Read the cause, which is the plugin's own error or its last output. `Error::step` names the step.";
    Config:
        "The `config` of a plugin, or `hotbay.toml`, is invalid.",
        "Fix the field that the message names. `hotbay config check` checks `hotbay.toml`.";
    Requires:
        "A required plugin is missing, failed, or has another version; plugins require each other in a circle; or a plugin that others require would be unloaded.",
        "Install the plugin that the message names, or unload the dependents first.";
    InvalidInput:
        "The input is too large, is not a valid request, or does not match the plugin's `input_schema` or a validator of the application.",
        "Correct the input. The plugin was not called.";
    InvalidOutput:
        "The output is larger than `max_output_bytes`, or does not have the requested form.",
        "Fix the plugin, or raise the limit.";
    NotProvided:
        "The plugin does not serve the contract, or was built against an older version without this method.",
        "Rebuild the plugin against the current contract, or give the method a default body. The plugin was not called.";
    Plugin:
        "The plugin returned an error.",
        "Handle it by its code: `Error::plugin_error`. It states whether a retry may succeed.";
    Panicked:
        "The plugin panicked. The host caught the panic and keeps running.",
        "Fix the plugin at the location that `Error::fault` has. Repeated panics quarantine it.";
    Disconnected:
        "The plugin's process exited or closed the connection before the response arrived.",
        "The host restarts the process. Repeat the call if it may run twice.";
    Protocol:
        "The plugin's process sent something that violates the protocol.",
        "Fix the program: `hotbay check` names the violated rule.";
    DeadlineExceeded:
        "The deadline of the call passed. Code in the process of the host may still run; its output is discarded.",
        "Set a longer deadline, or make the plugin check `CallContext::is_cancelled` in long loops.";
    Cancelled:
        "The caller dropped the future or cancelled the token.",
        "Nothing to fix.";
    Overloaded:
        "A limit is reached, such as that of the plugin's queue, calls in flight or streams.",
        "Retry after `Error::retry_after`, send less, or raise the limit that the message names.";
    Circular:
        "The plugin called is one of those that wait for this call, or too many calls wait for each other.",
        "Break the circle: the message shows the chain of plugins.";
    Quarantined:
        "The plugin failed too often, used more memory than its limit, or too many of its calls did not return.",
        "Wait: the host sends a probe call after `Error::retry_after`. Or install a fixed build, which ends the quarantine.";
    Retired:
        "The plugin was unloaded, or the call took longer than `drain_timeout` while its build was unloaded.",
        "Call again, with a handle from `Host::plugin` if the plugin was loaded again.";
    PermissionDenied:
        "The plugin does not have the permission that the call needs, or a layer of the application rejected the call.",
        "Request it in the manifest's `permissions` and grant it in the policy: `hotbay inspect` shows both.";
    LayerPanicked:
        "A layer, a validator or another callback of the application panicked.",
        "Fix the application. The plugin was not at fault, and is not quarantined.";
    Superseded:
        "A later reload of the same plugin replaced this one before it began.",
        "Use the result of the later one.";
    Shutdown:
        "The host is shutting down and accepts no new calls.",
        "Stop calling, or shut the host down later.";
    Forked:
        "This process was forked after the host was built. The threads of the host exist only in the parent.",
        "Build another host in the child.";
    Unsupported:
        "This system, this kind of plugin or a disabled feature does not allow the operation.",
        "Read the message: it names the feature or the kind that does.";
    Internal:
        "A bug in the host.",
        "Report it, with the message and the log.";
}

table! { STEPS: LoadStep;
    Manifest: "`plugin.json` and its folder", "Its JSON, its fields, owner and mode.";
    Signature: "the signature of the folder", "`hotbay inspect`: who signed it, and which file differs. [Security model](security.md#signatures) has the rules.";
    Requires: "the required plugins", "`requires`, and whether those plugins are loaded.";
    Stage: "the library or program, and its copy", "The file that the manifest names, its owner and mode, space in the folder for temporary files.";
    Digest: "length and SHA-256", "Whether the file changed after `hotbay build` or `hotbay seal`.";
    Probe: "format, segments and stamp of the library", "Whether it is a library for this system that exports a plugin: feature `export`, `export_plugin!`.";
    Version: "the versions in the stamp", "`version`, `package` and `api` in the manifest against the crate.";
    Open: "mapping the library", "Libraries that it links, and its initializers.";
    Layout: "the layout of the ABI", "The version of `hotbay-plugin`; rebuild the plugin.";
    Confine: "what the sandbox permits, and whether this machine can enforce it", "`sandbox` in `plugin.json` and `hotbay.toml`, and `hotbay doctor`.";
    Capabilities: "what the program states about itself", "`PROGRAM capabilities`, run by hand in its folder.";
    Config: "the config", "`config` against `config_schema`, and `validate_config`.";
    Launch: "the start of the program", "Its mode, its interpreter, its last output.";
    Location: "the address that the program printed", "Its first line on stdout.";
    Ready: "whether the program accepts calls", "What it does between its address and its first response.";
    Init: "`init`", "The plugin's own error or panic.";
    Drain: "calls of the old build", "Calls that do not return: `handover`, `drain_timeout`, `pause_timeout`.";
    Snapshot: "the state of the old build", "`snapshot` of the old build, `max_snapshot_bytes`.";
    Restore: "the state in the new build", "`restore` of the new build, which must read the versions of the old one.";
    Health: "`health`", "The plugin's own error.";
}

table! { SUBMITS: SubmitErrorKind;
    Closed: "The pool was stopped or cancelled.", "Submit earlier, or create another pool.";
    Forked: "The process was forked after the pool was created.", "Create a pool in the child.";
    NoWorkers: "The pool has no workers.", "Create it with at least one.";
    QueueFull: "The queue is full.", "Wait for outcomes, then submit again: the error returns the task.";
    StoreFull: "The store of results is full.", "Take outcomes out of it.";
}

/// The errors of `HostServices`, by which a plugin uses the host. Their type belongs to another crate
/// and may grow, so the compiler does not find a variant that is missing.
const SERVICES: &[(ServiceError, &str, &str)] = &[
    (
        ServiceError::Closed,
        "The plugin was stopped.",
        "Stop the threads of the plugin in `shutdown`.",
    ),
    (
        ServiceError::Denied,
        "The permission is missing.",
        "Request it in `permissions`, and grant it in the policy.",
    ),
    (
        ServiceError::Unavailable,
        "The host does not offer the service, or is overloaded.",
        "Continue without it, or retry later.",
    ),
];

/// Returns the page as Markdown.
fn page() -> String {
    let mut text = String::from(
        "# What can go wrong\n\n\
         Each error has a kind, a message, and often a hint. `Error::kind` classifies it, \
         `Error::full_message` has the whole cause chain, and `Error::hint` the advice. This page is \
         generated from the code.\n\n\
         ```rust\n\
         use hotbay::{ErrorKind, Host};\n\n\
         let host = Host::builder().register_fn(\"echo\", |_, input| Ok(hotbay::Output::copy_of(input.as_bytes()))).build()?;\n\
         let error = host.plugin(\"ecko\").unwrap_err();\n\
         assert_eq!(error.kind(), ErrorKind::NotFound);\n\
         assert_eq!(error.full_message(), \"plugin `ecko` not found\");\n\
         assert_eq!(error.hint(), Some(\"did you mean `echo`?\"));\n\
         # Ok::<(), hotbay::Error>(())\n\
         ```\n\n\
         ## Kinds of errors\n\n\
         The command prints the first name with `--json`. The second is the kind of the `CallError` \
         that a call of a [contract](contracts.md) returns. A *retry* of the same call may succeed later.\n",
    );
    for (kind, cause, cure) in KINDS {
        let error = Error::new(*kind, "");
        let error = match kind {
            ErrorKind::Plugin => error.caused_by(PluginError::new(1, "").retryable()),
            _ => error,
        };
        let retry = match (kind, error.is_retryable()) {
            (ErrorKind::Plugin, true) => ", retry if the plugin says so",
            (_, true) => ", retry",
            (_, false) => "",
        };
        let call = CallError::from(error).kind();
        let _ = write!(
            text,
            "\n### `{kind}`\n\n`ErrorKind::{kind:?}`, `CallErrorKind::{call:?}`{retry}\n\n\
             - **Cause:** {cause}\n- **Cure:** {cure}\n"
        );
    }
    text.push_str(
        "\n## Steps of a load\n\n\
         A load or reload that fails names its step (`Error::step`). After a failed reload, the old \
         build keeps serving.\n\n| step | what it is about | what to check |\n|---|---|---|\n",
    );
    for (step, about, check) in STEPS {
        let _ = writeln!(text, "| `{step}` | {about} | {check} |");
    }
    text.push_str(
        "\n## Services of the host\n\n\
         `ServiceError`, which a plugin gets from `HostServices`:\n\n\
         | kind | cause | cure |\n|---|---|---|\n",
    );
    for (error, cause, cure) in SERVICES {
        let _ = writeln!(text, "| `{error:?}` | {cause} | {cure} |");
    }
    text.push_str(
        "\n## Worker pools\n\n\
         `SubmitErrorKind`, for a task that `hotbay::pool::WorkerPool` did not accept:\n\n\
         | kind | cause | cure |\n|---|---|---|\n",
    );
    for (kind, cause, cure) in SUBMITS {
        let _ = writeln!(text, "| `{kind:?}` | {cause} | {cure} |");
    }
    text.push_str(
        "\n## Exit codes\n\n\
         `hotbay` exits with 0 after success, 1 after a failure, and 2 if it was called with invalid \
         arguments. With `--json`, other errors are documents on stdout.\n",
    );
    text
}

#[test]
fn shipped_page_has_each_kind_with_cause_and_cure() {
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/errors.md");
    let texts = KINDS.iter().map(|(_, cause, cure)| (cause, cure));
    for (cause, cure) in texts.chain(SERVICES.iter().map(|(_, cause, cure)| (cause, cure))) {
        assert!(cause.ends_with('.') && cure.ends_with('.'), "{cause} {cure}");
    }
    // Each kind of a typed call is that of a kind of this crate.
    for code in 1.. {
        let call = CallErrorKind::of_code(code);
        if code > 1 && call == CallErrorKind::Other {
            break;
        }
        let is_shown =
            |(kind, ..): &(ErrorKind, _, _)| CallError::from(Error::new(*kind, "")).kind() == call;
        assert!(KINDS.iter().any(is_shown), "{call:?}");
    }
    let generated = page();
    if std::env::var_os("UPDATE_GUIDE").is_some() {
        std::fs::write(FILE, &generated).unwrap();
    }
    let shipped = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(shipped == generated, "run this test with UPDATE_GUIDE=1, then check {FILE}");
}
