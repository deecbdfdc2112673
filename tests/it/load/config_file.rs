//! The configuration of a host in a `hotbay.toml`: what the builder takes from it, and changes while
//! the host runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hotbay::hotbay_plugin::{Config, HostServices};
use hotbay::{
    CallContext, ConfigFile, ErrorKind, Host, HostBuilder, HostEvent, LoadOptions, Manifest,
    Output, Payload, Plugin, PluginError, Request,
};
use hotbay_tests::{Plugins, block_on, event, until};
use serde_json::json;

/// A folder with plugins that answer with a text of their config, and a `hotbay.toml`.
struct Configured {
    plugins: Plugins,
    file: PathBuf,
}

impl Configured {
    fn new(text: &str) -> Self {
        let plugins = Plugins::new();
        let file = plugins.dir().join("hotbay.toml");
        let this = Self { plugins, file };
        this.write(text);
        this
    }

    fn write(&self, text: &str) {
        // Replaced at once, as editors do.
        let next = self.file.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, &self.file).unwrap();
    }

    fn add(&self, name: &str) -> PathBuf {
        let config = json!({ "answers": "manifest" });
        self.plugins.add(name, "faulty").config(config).set("permissions", ["log", "read"]).write()
    }

    fn builder(&self) -> HostBuilder {
        Host::builder().config_file(&self.file)
    }
}

fn answer(host: &Host, name: &str) -> Option<String> {
    let reply = host.plugin(name).ok()?.call(Request::text("x")).ok()?;
    Some(reply.as_text().unwrap().to_owned())
}

fn operation(host: &Host, operation: &'static str) -> Option<ErrorKind> {
    let request = Request::text("x").with_operation(operation);
    host.plugin("echo").unwrap().call(request).err().map(|error| error.kind())
}

#[test]
fn plugins_get_the_settings_of_the_file() {
    let configured = Configured::new(
        "plugin_dirs = ['.']\n\
         default_deadline = '1m'\n\
         [limits]\nmax_input_bytes = 100\n\
         [permissions]\ndefault = ['log', 'write']\n\
         [plugins.echo.config]\nanswers = 'file'\n\
         [plugins.second]\nfolder = 'echo'\nconfig.answers = 'second'\n\
         permissions = ['rea*']\nlimits.input_bytes = 4\n\
         [plugins.third]\nenabled = false\n",
    );
    configured.add("echo");
    configured.add("third");
    configured.add("fourth");
    let host = configured.builder().build().unwrap();
    let report = block_on(host.load_all());
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(answer(&host, "echo").as_deref(), Some("file"));
    assert_eq!(answer(&host, "second").as_deref(), Some("second"));
    assert_eq!(answer(&host, "fourth").as_deref(), Some("manifest"));
    assert!(host.plugin("third").unwrap_err().is_not_found());
    assert_eq!(operation(&host, "read"), Some(ErrorKind::PermissionDenied));
    let second = host.plugin("second").unwrap();
    second.call(Request::text("x").with_operation("read")).unwrap();
    let too_large = |name: &str, bytes: usize| {
        let call = host.plugin(name).unwrap().call(Request::bytes(&vec![0; bytes]));
        call.err().map(|error| error.kind())
    };
    assert_eq!(too_large("echo", 101), Some(ErrorKind::InvalidInput));
    assert_eq!(too_large("echo", 100), None);
    assert_eq!(too_large("second", 5), Some(ErrorKind::InvalidInput));
    // An explicit load is the application's decision, and so are its options.
    let third = configured.plugins.dir().join("third");
    let options = LoadOptions::new().with_name("echo-2").with_config(json!({ "answers": "set" }));
    block_on(host.load_with(&third, options)).unwrap();
    assert_eq!(answer(&host, "echo-2").as_deref(), Some("set"));
    block_on(host.load(third)).unwrap();
    assert_eq!(answer(&host, "third").as_deref(), Some("manifest"));
    // A reload keeps the settings.
    let folder = configured.add("echo");
    let other = json!({ "answers": "other", "more": 1 });
    configured.plugins.add("echo", "faulty").config(other).write();
    block_on(host.reload("echo")).unwrap();
    assert_eq!(answer(&host, "echo").as_deref(), Some("file"), "{}", folder.display());
}

struct Answer(String);

impl Plugin for Answer {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self(config.get("answers").and_then(|it| it.as_str()).unwrap_or("none").to_owned()))
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Ok(Output::text(self.0.clone()))
    }
}

#[test]
fn compiled_in_plugins_get_the_settings_too() {
    let configured = Configured::new(
        "[plugins.own]\nconfig.answers = 'file'\npermissions = []\n[limits]\nmax_workers = 1\n",
    );
    let manifest = Manifest::new("own", "1.0.0").unwrap().with_permission("read").unwrap();
    let host = configured.builder().register::<Answer>(manifest).build().unwrap();
    assert_eq!(answer(&host, "own").as_deref(), Some("file"));
    assert_eq!(host.list()[0].notes.len(), 1, "{:?}", host.list()[0].notes);
    configured.write("[plugins.own]\nconfig.answers = 'other'\n[limits]\nmax_workers = 2\n");
    let changes = block_on(host.apply_config(ConfigFile::read(&configured.file).unwrap())).unwrap();
    let expected = ["limits.max_workers", "plugins.own.config.answers", "plugins.own.permissions"];
    assert_eq!(changes.needs_restart, expected);
    assert!(changes.applied.is_empty() && changes.failed.is_empty(), "{changes:?}");
}

#[test]
fn later_calls_of_the_builder_replace_values_of_the_file() {
    let configured = Configured::new(
        "plugin_dirs = ['missing']\n[trust]\nallow_unverified = true\n[quarantine]\nmax_faults = 1\n",
    );
    let folder = configured.plugins.add("echo", "faulty").unverified().write();
    let host = configured.builder().build().unwrap();
    block_on(host.load(&folder)).unwrap();
    let report = block_on(host.load_all());
    assert_eq!(report.refused.len(), 1);
    let host = configured.builder().allow_unverified(false).build().unwrap();
    let error = block_on(host.load(&folder)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    let file = ConfigFile::read(&configured.file)
        .unwrap()
        .with_plugin_dirs([configured.plugins.dir().into()]);
    let host = Host::builder().config(file).build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    assert_eq!(answer(&host, "echo").as_deref(), Some("x"));
}

#[test]
fn invalid_file_fails_the_build() {
    let configured = Configured::new("[limits]\nmax_worker = 1\n");
    let error = configured.builder().build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let message = error.full_message();
    assert!(message.contains("hotbay.toml:2:1: `limits.max_worker` is not a known"), "{message}");
    assert_eq!(error.hint(), Some("did you mean `max_workers`?"));
    configured.write("[plugins.echo]\nconfig.answers = 7\n");
    let schema = json!({ "properties": { "answers": { "type": "string" } } });
    let folder = configured.plugins.add("echo", "faulty").set("config_schema", schema).write();
    let host = configured.builder().build().unwrap();
    let error = block_on(host.load(folder)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    // Not at a place of the manifest, which does not have it.
    assert!(error.full_message().ends_with(": `config.answers`: 7 is not of type \"string\""));
}

#[cfg(unix)]
#[test]
fn file_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let configured = Configured::new("");
    fs::set_permissions(&configured.file, fs::Permissions::from_mode(0o666)).unwrap();
    let error = configured.builder().build().unwrap_err();
    assert!(error.full_message().contains("writable"), "{}", error.full_message());
    let builder = Host::builder().allow_writable_by_others(true).config_file(&configured.file);
    builder.build().unwrap();
    ConfigFile::read_writable_by_others(&configured.file).unwrap();
}

fn text(answers: &str, more: &str) -> String {
    format!("plugin_dirs = ['.']\n[plugins.echo.config]\nanswers = '{answers}'\n{more}")
}

fn changed(host_event: &HostEvent) -> bool {
    matches!(host_event, HostEvent::ConfigChanged { .. })
}

#[test]
fn changes_are_applied_while_the_host_runs() {
    let configured = Configured::new(&text("one", ""));
    configured.add("echo");
    configured.add("other");
    let builder = configured.builder().hot_reload(true);
    let host = builder.watch_poll_interval(Duration::from_millis(20)).build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    let mut events = host.events();
    let mut expect = |text: &str, applied: &[&str], needs_restart: &[&str]| {
        configured.write(text);
        let HostEvent::ConfigChanged { applied: found, needs_restart: later, failed } =
            event(&mut events, changed)
        else {
            unreachable!("it is that event");
        };
        assert_eq!((found, later), (owned(applied), owned(needs_restart)));
        assert!(failed.is_empty(), "{failed:?}");
    };
    expect(&text("two", ""), &["plugins.echo.config.answers"], &[]);
    assert_eq!(answer(&host, "echo").as_deref(), Some("two"));
    assert_eq!(operation(&host, "read"), None);
    expect(
        &text("two", "[permissions]\ndefault = ['log']\n[limits]\nmax_workers = 1\n"),
        &["permissions.default"],
        &["limits.max_workers"],
    );
    assert_eq!(operation(&host, "read"), Some(ErrorKind::PermissionDenied));
    // An instance is added, changed, and removed; a plugin is disabled and enabled.
    let instance =
        |answers: &str| format!("[plugins.copy]\nfolder = 'echo'\nconfig.answers = '{answers}'\n");
    expect(
        &text("two", &(instance("three") + "[plugins.other]\nenabled = false\n")),
        // The host was built without the limit, so that needs no restart.
        &[
            "limits.max_workers",
            "permissions.default",
            "plugins.copy.config.answers",
            "plugins.copy.folder",
            "plugins.other.enabled",
        ],
        &[],
    );
    assert_eq!(answer(&host, "copy").as_deref(), Some("three"));
    assert_eq!(answer(&host, "other"), None);
    expect(
        &text("two", &instance("four")),
        &["plugins.copy.config.answers", "plugins.other.enabled"],
        &[],
    );
    assert_eq!(answer(&host, "copy").as_deref(), Some("four"));
    assert_eq!(answer(&host, "other").as_deref(), Some("manifest"));
    expect(&text("two", ""), &["plugins.copy.config.answers", "plugins.copy.folder"], &[]);
    assert_eq!(answer(&host, "copy"), None);
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[test]
fn mistake_while_the_host_runs_changes_nothing() {
    let configured = Configured::new(&text("one", ""));
    configured.add("echo");
    let builder = configured.builder().hot_reload(true);
    let host = builder.watch_poll_interval(Duration::from_millis(20)).build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    let mut events = host.events();
    configured.write(&text("two", "[limits]\nmax_worker = 1\n"));
    let rejected = |event: &HostEvent| matches!(event, HostEvent::ConfigRejected { .. });
    let found = event(&mut events, rejected);
    assert!(found.to_string().contains("`limits.max_worker` is not a known field"), "{found}");
    fs::remove_file(&configured.file).unwrap();
    assert!(event(&mut events, rejected).to_string().contains("hotbay.toml"));
    assert_eq!(answer(&host, "echo").as_deref(), Some("one"));
    // A plugin that refuses its new config keeps the one it has.
    configured.write(&text("three", "error_in = 'init'\n"));
    let rolled_back = event(&mut events, |event| {
        matches!(event, HostEvent::RolledBack { .. } | HostEvent::Promoted { .. })
    });
    assert!(matches!(rolled_back, HostEvent::RolledBack { .. }), "{rolled_back}");
    assert_eq!(answer(&host, "echo").as_deref(), Some("one"));
    configured.write(&text("four", ""));
    until("it follows", || (answer(&host, "echo").as_deref() == Some("four")).then_some(()));
    let threads = || hotbay_tests::threads("hotbay-config").len();
    block_on(host.shutdown(Duration::from_secs(10)));
    until("the watch has ended", || {
        Path::new("/proc").exists().then(threads).is_none_or(|n| n == 0).then_some(())
    });
}

fn apply(host: &Host, configured: &Configured, text: &str) -> hotbay::ConfigChanges {
    configured.write(text);
    block_on(host.apply_config(ConfigFile::read(&configured.file).unwrap())).unwrap()
}

#[test]
fn secrets_are_in_no_message() {
    let configured = Configured::new(
        "plugin_dirs = ['.']\n[plugins.echo.config]\nanswers = '${HOTBAY_NONE:-hunter2}'\n",
    );
    let schema = json!({ "properties": { "answers": { "type": "integer" } } });
    let folder = configured.plugins.add("echo", "faulty").set("config_schema", schema).write();
    let file = ConfigFile::read(&configured.file).unwrap();
    let host = Host::builder().config(file.clone()).build().unwrap();
    let error = block_on(host.load(folder)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.full_message().contains("may be a secret"), "{}", error.full_message());
    for shown in [error.full_message(), format!("{error:?}"), format!("{file:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn plugin_that_fails_to_follow_is_not_reported_as_applied() {
    let configured = Configured::new(&text("one", ""));
    configured.add("echo");
    let host = configured.builder().build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    let changes = apply(&host, &configured, &text("two", "error_in = 'init'\n"));
    assert!(changes.applied.is_empty(), "{changes:?}");
    assert_eq!(changes.failed.len(), 1);
    assert_eq!(answer(&host, "echo").as_deref(), Some("one"));
    // A reload by hand has the new settings, too.
    configured.plugins.add("echo", "faulty").set("permissions", ["read"]).write();
    let changes = apply(&host, &configured, "[permissions]\ndefault = ['read']\n");
    assert!(changes.failed.is_empty(), "{changes:?}");
    assert_eq!(operation(&host, "read"), None);
    let folder = json!({ "folder": "nowhere" });
    let changes =
        apply(&host, &configured, &format!("[plugins.echo]\nfolder = {}", folder["folder"]));
    assert_eq!(changes.failed.len(), 1, "{changes:?}");
    assert!(host.plugin("echo").is_ok(), "a folder that cannot be read replaces nothing");
    block_on(host.shutdown(Duration::from_secs(10)));
    let file = ConfigFile::read(&configured.file).unwrap();
    let error = block_on(host.apply_config(file)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown);
}

#[test]
fn plugins_and_their_dependents_are_disabled_and_others_left_alone() {
    let configured = Configured::new("plugin_dirs = ['.']\n");
    configured.add("alpha");
    configured.add("other");
    configured.plugins.add("zeta", "faulty").set("requires", json!({ "alpha": "*" })).write();
    let host = configured.builder().build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    block_on(host.unload("other")).unwrap();
    let disabled = "plugin_dirs = ['.']\n[plugins]\nalpha.enabled = false\nzeta.enabled = false\n";
    let changes = apply(&host, &configured, disabled);
    assert!(changes.failed.is_empty(), "{changes:?}");
    assert!(host.list().is_empty(), "{:?}", host.list());
    let changes = apply(&host, &configured, "plugin_dirs = ['.']\n");
    assert_eq!(changes.applied, ["plugins.alpha.enabled", "plugins.zeta.enabled"]);
    let names: Vec<_> = host.list().iter().map(|plugin| plugin.name.to_string()).collect();
    assert_eq!(names, ["alpha", "zeta"], "what the application unloaded is not loaded");
}

#[test]
fn config_can_be_replaced_as_a_whole() {
    let configured = Configured::new("[plugins.echo]\nreplace_config = true\n");
    let folder = configured.add("echo");
    let host = configured.builder().build().unwrap();
    block_on(host.load(folder)).unwrap();
    assert_eq!(answer(&host, "echo").as_deref(), Some("x"), "without the manifest's `answers`");
}

/// The folder is outside the plugin directories; it is changed, removed and put back.
#[test]
fn instances_follow_their_folder() {
    let instances = |names: &[&str]| {
        let all = names.iter().map(|name| format!("[plugins.{name}]\nfolder = 'echo'\n"));
        format!("plugin_dirs = ['inside']\n{}", all.collect::<String>())
    };
    let configured = Configured::new(&instances(&["one", "two"]));
    fs::create_dir(configured.plugins.dir().join("inside")).unwrap();
    let folder = configured.add("echo");
    let builder = configured.builder().hot_reload(true).unload_removed(true);
    let host = builder.watch_poll_interval(Duration::from_millis(20)).build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    let all_answer = |names: &[&str], expected: Option<&str>| {
        until("all follow", || {
            names.iter().all(|name| answer(&host, name).as_deref() == expected).then_some(())
        });
        assert_eq!(host.list().len(), if expected.is_some() { names.len() } else { 0 });
    };
    let set = |answers: &str| {
        configured.plugins.add("echo", "faulty").config(json!({ "answers": answers })).write();
    };
    all_answer(&["one", "two"], Some("manifest"));
    set("changed");
    all_answer(&["one", "two"], Some("changed"));
    configured.write(&instances(&["one", "two", "three"]));
    all_answer(&["one", "two", "three"], Some("changed"));
    set("again");
    all_answer(&["one", "two", "three"], Some("again"));
    let away = folder.with_file_name("away");
    fs::rename(&folder, &away).unwrap();
    all_answer(&["one", "two", "three"], None);
    fs::rename(&away, &folder).unwrap();
    all_answer(&["one", "two", "three"], Some("again"));
    // Only the first one is left, and still watched.
    configured.write(&instances(&["one"]));
    until("the others are unloaded", || (host.list().len() == 1).then_some(()));
    set("last");
    all_answer(&["one"], Some("last"));
}

/// Its folder is one that no search of the directories enters; the plugin itself is disabled.
#[test]
fn instances_are_watched_where_no_plugin_is_searched() {
    let text = "plugin_dirs = ['.']\n[plugins.echo]\nenabled = false\n[plugins.inner]\n\
                folder = 'target/inner'\n[plugins.copy]\nfolder = 'echo'\n";
    let configured = Configured::new(text);
    let add = |place: &str, name: &str, answers: &str| {
        let plugin = configured.plugins.add_in(place, name, "faulty");
        plugin.config(json!({ "answers": answers })).write()
    };
    add("target/inner", "inner-base", "one");
    let folder = add("echo", "echo", "one");
    let host = configured.builder().hot_reload(true).build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    let answers = |name: &str, expected: Option<&str>| {
        until("it follows", || (answer(&host, name).as_deref() == expected).then_some(()));
    };
    answers("inner", Some("one"));
    add("target/inner", "inner-base", "two");
    answers("inner", Some("two"));
    let away = configured.plugins.dir().join("target/away");
    fs::rename(&folder, &away).unwrap();
    answers("copy", None);
    fs::rename(&away, &folder).unwrap();
    answers("copy", Some("one"));
    assert_eq!(host.list().len(), 2, "the others are not loaded");
}

#[test]
fn removed_instance_ends_no_other_watch() {
    let dirs = "plugin_dirs = ['inside']\n";
    let configured = Configured::new(&format!("{dirs}[plugins.outer]\nfolder = '.'\n"));
    configured.plugins.add_in(".", "outer-base", "faulty").write();
    let add = |answers: &str| {
        let plugin = configured.plugins.add_in("inside/echo", "echo", "faulty");
        plugin.config(json!({ "answers": answers })).write();
    };
    add("one");
    let host = configured.builder().hot_reload(true).build().unwrap();
    assert!(block_on(host.load_all()).is_clean());
    assert_eq!(host.list().len(), 2);
    configured.write(dirs);
    until("the instance is unloaded", || (host.list().len() == 1).then_some(()));
    for answers in ["two", "three"] {
        add(answers);
        until("it follows", || (answer(&host, "echo").as_deref() == Some(answers)).then_some(()));
    }
}
