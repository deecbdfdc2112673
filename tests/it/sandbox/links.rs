//! Links do not widen what a sandbox grants, and a program cannot change what it is granted.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use hotbay::confinement::ConfinementPolicy;
use hotbay::manifest::Sandbox;
use hotbay::{ConfigFile, Error, ErrorKind, Host, HostBuilder, HostEvent, LoadStep, inspect};
use hotbay_tests::{Plugins, event, processes_of, refused, runner};
use serde_json::{Value, json};

use super::{assert_denied, assert_permitted, attempt, can_confine, program, start_with};
use crate::process::fixture::{ProcessFixture, Running, kill};

/// Returns bounds that grant no paths.
fn no_paths() -> Sandbox {
    let none = || Some(Vec::new());
    Sandbox::default().with_read(none()).with_write(none()).with_run(none())
}

fn policy(bounds: Sandbox, state_dir: &Path) -> ConfinementPolicy {
    let policy = ConfinementPolicy::default().with_state_dir(Some(state_dir.to_owned()));
    policy.with_bounds(Some(bounds))
}

/// Creates a folder and those above it, such that only this user can access them.
fn create_private(folder: &Path) {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).expect("a folder");
}

/// Creates a folder with a file that nothing grants.
fn secret(plugins: &Plugins) -> PathBuf {
    let folder = plugins.dir().join("secret");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("file"), "secret").expect("a file");
    folder
}

#[track_caller]
fn load_error(sandbox: Value, policy: ConfinementPolicy, fixture: &ProcessFixture) -> Error {
    let folder = program(fixture, sandbox).install();
    refused_everywhere(Host::builder().confinement(policy), &folder, &fixture.name)
}

/// Returns the error of a load, which an inspection also reports.
#[track_caller]
fn refused_everywhere(builder: HostBuilder, folder: &Path, name: &str) -> Error {
    let inspected = inspect::plugin(&builder, folder).surveyed.problem.expect("a problem");
    let error = refused(&builder.build().expect("a host"), folder);
    assert_eq!(inspected.full_message(), error.full_message());
    assert_eq!(error.step(), Some(LoadStep::Confine), "{}", error.full_message());
    assert!(processes_of(name).is_empty());
    error
}

#[track_caller]
fn check_leads_out(error: &Error, text: &str, target: &Path) {
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let message = error.full_message();
    let expected = format!("lists `{text}`, which leads to `{}`", target.display());
    assert!(message.contains(&expected), "{message}");
}

#[test]
fn links_in_the_state_folder_are_refused() {
    let plugins = Plugins::new();
    let secret = secret(&plugins).canonicalize().expect("it exists");
    for (field, target) in [("read", "/"), ("write", secret.to_str().expect("text"))] {
        let fixture = ProcessFixture::new();
        let state = fixture.file("state");
        create_private(&state.join(&fixture.name));
        symlink(target, state.join(&fixture.name).join("link")).expect("a link");
        let error =
            load_error(json!({ field: ["{state}/link"] }), policy(no_paths(), &state), &fixture);
        check_leads_out(&error, "{state}/link", Path::new(target));
    }
}

#[test]
fn links_below_a_bound_are_refused() {
    let plugins = Plugins::new();
    let secret = secret(&plugins).canonicalize().expect("it exists");
    let shared = plugins.dir().join("shared");
    fs::create_dir(&shared).expect("a folder");
    symlink(&secret, shared.join("link")).expect("a link");
    let bound = Some(vec![shared.display().to_string()]);
    let bounds = Sandbox::default().with_write(bound.clone());
    let fixture = ProcessFixture::new();
    let listed = shared.join("link").display().to_string();
    let policy = |bounds| policy(bounds, &fixture.file("state"));
    let error = load_error(json!({ "write": [listed] }), policy(bounds), &fixture);
    check_leads_out(&error, &listed, &secret);
    // A link that the host lists itself is followed.
    if !can_confine(1) {
        return;
    }
    let bounds = Sandbox::default().with_read(Some(vec![listed.clone()]));
    let confinement = policy(bounds);
    let sandbox = json!({ "read": [listed] });
    let running = start_with(sandbox, |it| it, |host| host.confinement(confinement));
    assert_permitted(&running, json!({ "do": "read", "path": secret.join("file") }));
    running.end();
}

#[test]
fn links_in_the_folder_of_an_isolated_library_are_refused() {
    let plugins = Plugins::new();
    let plugin = plugins.add("confined", "confined").set("isolation", "process");
    let folder = plugin.set("sandbox", json!({ "read": ["{plugin}/link"] })).write();
    symlink("/", folder.join("link")).expect("a link");
    let confinement = policy(no_paths(), &plugins.dir().join("state"));
    let builder = Host::builder().runner(runner()).confinement(confinement);
    let error = refused_everywhere(builder, &folder, "confined");
    check_leads_out(&error, "{plugin}/link", Path::new("/"));
}

#[test]
fn link_that_is_made_while_the_program_runs_grants_nothing() {
    if !can_confine(1) {
        return;
    }
    let plugins = Plugins::new();
    let secret = secret(&plugins);
    let state_dir = plugins.dir().join("state");
    let sandbox = json!({ "read": ["{state}"], "write": ["{state}/sub"] });
    let fixture = ProcessFixture::new();
    create_private(&state_dir.join(&fixture.name).join("sub"));
    let confinement = policy(no_paths(), &state_dir);
    let running = fixture.run_with(
        json!({}),
        |program| {
            let program = program.built("confined", "confined").set("package", "confined");
            program.set("sandbox", sandbox)
        },
        |host| host.quarantine(None).confinement(confinement),
    );
    let sub = state_dir.join(&running.fixture.name).join("sub");
    assert_permitted(&running, json!({ "do": "write", "path": sub.join("file") }));
    restart_after(&running, || {
        fs::remove_dir_all(&sub).expect("it is ours");
        symlink(&secret, &sub).expect("a link");
    });
    for path in [sub.join("file"), secret.join("file")] {
        assert_denied(&running, json!({ "do": "write", "path": path }));
        assert_denied(&running, json!({ "do": "read", "path": path }));
    }
    running.end();
}

#[test]
fn program_cannot_be_granted_its_own_manifest() {
    let fixture = ProcessFixture::new();
    let state = fixture.file("state");
    for listed in ["{plugin}", "{plugin}/", "/", "{plugin}/plugin.json", "{plugin}/.//plugin.json"]
    {
        let fixture = ProcessFixture::new();
        let confinement = policy(Sandbox::default(), &state);
        let error = load_error(json!({ "write": [listed] }), confinement, &fixture);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let message = error.full_message();
        let relation = if listed.ends_with("json") { "is" } else { "contains" };
        let manifest = fixture.file(&fixture.name).join("plugin.json");
        let expected = format!("which {relation} `{}` (its manifest)", manifest.display());
        assert!(message.contains(&expected), "{message}");
    }
}

/// Lets `change` replace something, and ends the process, so that the program is started again.
#[track_caller]
pub(super) fn restart_after(running: &Running, change: impl FnOnce()) {
    change();
    let mut events = running.host.events();
    let [process] = processes_of(&running.fixture.name)[..] else { panic!("it runs once") };
    kill(process);
    event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
}

#[test]
fn link_through_a_writable_folder_grants_nothing() {
    if !can_confine(1) {
        return;
    }
    let plugins = Plugins::new();
    let secret = secret(&plugins);
    let releases = plugins.dir().join("releases");
    fs::create_dir_all(releases.join("5")).expect("a folder");
    fs::write(releases.join("5/file"), "text").expect("a file");
    let current = plugins.dir().join("current");
    symlink("releases/5", &current).expect("a link");
    let both = [&current, &releases].map(|path| path.display().to_string());
    let bounds = no_paths().with_read(Some(both.to_vec())).with_write(Some(both.to_vec()));
    let confinement = policy(bounds, &plugins.dir().join("state"));
    let sandbox = json!({ "read": [current], "write": [releases] });
    let running = start_with(sandbox, |it| it, |host| host.confinement(confinement));
    assert_permitted(&running, json!({ "do": "write", "path": current.join("file") }));
    restart_after(&running, || {
        fs::rename(releases.join("5"), releases.join("4")).expect("it is ours");
        symlink(&secret, releases.join("5")).expect("a link");
    });
    for action in ["read", "write"] {
        assert_denied(&running, json!({ "do": action, "path": current.join("file") }));
        assert_denied(&running, json!({ "do": action, "path": secret.join("file") }));
    }
    running.end();
}

#[test]
fn bound_that_another_program_can_replace_is_limited() {
    let plugins = Plugins::new();
    let secret = secret(&plugins).canonicalize().expect("it exists");
    let shared = plugins.dir().join("shared");
    fs::create_dir(&shared).expect("a folder");
    let [direct, current] = [shared.join("link"), plugins.dir().join("current")];
    symlink(&secret, &direct).expect("a link");
    symlink(&direct, &current).expect("a link");
    let texts = [&direct, &current, &shared].map(|path| path.display().to_string());
    let [direct, current, shared] = texts;
    let bounds = Sandbox::default()
        .with_read(Some(vec![direct.clone(), current.clone()]))
        .with_write(Some(vec![shared]));
    for listed in [direct, current.clone(), format!("{current}/file")] {
        let fixture = ProcessFixture::new();
        let confinement = policy(bounds.clone(), &fixture.file("state"));
        let error = load_error(json!({ "read": [listed] }), confinement, &fixture);
        let target = if listed.ends_with("file") { secret.join("file") } else { secret.clone() };
        check_leads_out(&error, &listed, &target);
    }
}

#[test]
fn link_in_place_of_the_state_folder_grants_nothing() {
    if !can_confine(1) {
        return;
    }
    let plugins = Plugins::new();
    let secret = secret(&plugins);
    let state = plugins.dir().join("state");
    let confinement = policy(no_paths(), &state);
    let sandbox = json!({ "write": ["{state}"], "read": ["{state}/below"] });
    let running = start_with(sandbox, |it| it, |host| host.confinement(confinement));
    let own = state.join(&running.fixture.name);
    assert_permitted(&running, json!({ "do": "write", "path": own.join("file") }));
    restart_after(&running, || {
        fs::rename(&own, state.join("moved")).expect("it is ours");
        symlink(&secret, &own).expect("a link");
        fs::create_dir(secret.join("below")).expect("a folder");
        fs::write(secret.join("below/file"), "secret").expect("a file");
    });
    assert_denied(&running, json!({ "do": "read", "path": secret.join("file") }));
    assert_denied(&running, json!({ "do": "read", "path": secret.join("below/file") }));
    running.end();
}

#[test]
fn links_that_stay_below_a_bound_are_followed() {
    if !can_confine(1) {
        return;
    }
    let plugins = Plugins::new();
    let bound = plugins.dir().join("bound");
    fs::create_dir_all(bound.join("real")).expect("folders");
    fs::write(bound.join("real/file"), "text").expect("a file");
    symlink(bound.join("real"), bound.join("absolute")).expect("a link");
    symlink("real", bound.join("relative")).expect("a link");
    // Another spelling of the same folder.
    let bounds = no_paths().with_read(Some(vec![format!("{}/./", bound.display())]));
    let confinement = policy(bounds, &plugins.dir().join("state"));
    let sandbox = json!({ "read": [bound.join("absolute"), bound.join("relative")] });
    let running = start_with(sandbox, |it| it, |host| host.confinement(confinement));
    assert_permitted(&running, json!({ "do": "read", "path": bound.join("absolute/file") }));
    running.end();
}

#[test]
fn folder_of_the_plugin_is_writable_only_if_the_host_lists_it() {
    if !can_confine(1) {
        return;
    }
    for is_listed in [false, true] {
        let plugins = Plugins::new();
        let bounds = match is_listed {
            true => no_paths().with_write(Some(vec!["{plugin}".to_owned()])),
            false => no_paths(),
        };
        let confinement = policy(bounds, &plugins.dir().join("state"));
        let running = start_with(
            json!({ "write": ["{plugin}/data"] }),
            |program| program.beside("data", "text"),
            |host| host.confinement(confinement),
        );
        let folder = running.host.list().remove(0).folder.expect("it has one");
        let action = json!({ "do": "write", "path": folder.join("data") });
        match is_listed {
            true => assert_permitted(&running, action),
            false => assert_denied(&running, action),
        }
        let own = folder.join("plugin.json");
        assert!(attempt(&running, json!({ "do": "write", "path": own })).starts_with("denied"));
        running.end();
    }
}

#[test]
fn state_folder_that_others_can_replace_is_refused() {
    let plugins = Plugins::new();
    let secret = secret(&plugins);
    let sandbox = || json!({ "write": ["{state}"] });
    let fixture = ProcessFixture::new();
    let state = fixture.file("state");
    create_private(&state);
    symlink(&secret, state.join(&fixture.name)).expect("a link");
    let error = load_error(sandbox(), policy(no_paths(), &state), &fixture);
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.full_message().contains("is not a folder"), "{}", error.full_message());
    let fixture = ProcessFixture::new();
    let state = fixture.file("state");
    let own = state.join(&fixture.name);
    create_private(&own);
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let error = load_error(sandbox(), policy(no_paths(), &state), &fixture);
    assert_eq!(error.kind(), ErrorKind::Integrity);
    // Folders that do not exist yet: below one that others can change, and below a file.
    let fixture = ProcessFixture::new();
    let open = fixture.file("open");
    create_private(&open);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let error = load_error(sandbox(), policy(no_paths(), &open.join("state")), &fixture);
    assert_eq!(error.kind(), ErrorKind::Integrity);
    let fixture = ProcessFixture::new();
    let file = fixture.file("file");
    fs::write(&file, "").expect("a file");
    let error = load_error(sandbox(), policy(no_paths(), &file), &fixture);
    assert!(error.full_message().contains("Not a directory"), "{}", error.full_message());
}

#[test]
fn state_folder_in_a_folder_that_programs_can_change_is_refused() {
    let fixture = ProcessFixture::new();
    let state = fixture.file("state");
    create_private(&state);
    let bounds = no_paths().with_write(Some(vec![state.display().to_string()]));
    let confinement = policy(bounds, &state.join("below"));
    let error = load_error(json!({ "read": ["{state}"] }), confinement, &fixture);
    assert_eq!(error.kind(), ErrorKind::Integrity);
    let message = error.full_message();
    assert!(message.contains("in a folder that the host lets programs change"), "{message}");
}

#[test]
fn links_that_another_plugin_can_make_lead_to_nothing() {
    let plugins = Plugins::new();
    let secret = secret(&plugins).canonicalize().expect("it exists");
    let shared = plugins.dir().join("shared");
    fs::create_dir(&shared).expect("a folder");
    let link = shared.join("link").display().to_string();
    symlink(&secret, &link).expect("a link");
    let fixture = ProcessFixture::new();
    let folder = program(&fixture, json!({ "read": [link] })).install();
    let file = plugins.dir().join("hotbay.toml");
    // The other plugin does not have to be loaded.
    let text = format!(
        "[plugins.other.sandbox]\nwrite = ['{}']\n[plugins.'{}'.sandbox]\nread = ['{link}']\n",
        shared.display(),
        fixture.name
    );
    fs::write(&file, text).expect("a file");
    let error = refused_everywhere(Host::builder().config_file(&file), &folder, &fixture.name);
    check_leads_out(&error, &link, &secret);
}

#[test]
fn files_that_configure_plugins_cannot_be_granted() {
    let plugins = Plugins::new();
    let file = plugins.dir().join("config/hotbay.toml");
    fs::create_dir(file.parent().expect("a folder")).expect("a new folder");
    let instance = plugins.dir().join("instance");
    fs::write(&file, format!("[plugins.second]\nfolder = '{}'\n", instance.display()))
        .expect("a file");
    for (folder, relation, expected) in [
        ("staging", "contains", "private folders of the host"),
        ("state", "contains", "states of plugins"),
        ("state/of/hotbay/other", "is in", "states of plugins"),
        ("config", "contains", "configuration"),
        ("own", "contains", "protected by the host"),
        ("plugins", "is", "a plugin directory"),
        ("plugins/other", "is in", "a plugin directory"),
        ("instance/data", "is in", "the folder of a plugin"),
        ("cgroup/other", "is in", "control groups"),
        ("dangling", "contains", "protected by the host"),
    ] {
        let fixture = ProcessFixture::new();
        let listed = plugins.dir().join(folder);
        let folder = program(&fixture, json!({ "write": [listed] })).install();
        // What does not exist yet is protected, too.
        let policy = ConfinementPolicy::default()
            .with_state_dir(Some(plugins.dir().join("state/of/hotbay")))
            .with_cgroup(Some(plugins.dir().join("cgroup")))
            .with_protected(
                ["own/file", "link/file"].map(|name| plugins.dir().join(name)).to_vec(),
            );
        let existing = ["state", "own", "staging/copies", "plugins/other", "instance/data"];
        for name in existing.into_iter().chain(["cgroup/other"]) {
            fs::create_dir_all(plugins.dir().join(name)).expect("a folder");
        }
        if listed.starts_with(plugins.dir().join("state/of")) {
            create_private(&listed);
        }
        fs::create_dir_all(plugins.dir().join("dangling")).expect("a folder");
        let _ = symlink("dangling/missing", plugins.dir().join("link"));
        let builder = Host::builder().confinement(policy).config_file(&file);
        let builder = builder.staging_dir(plugins.dir().join("staging/copies"));
        let builder = builder.plugin_dir(plugins.dir().join("plugins"));
        let error = refused_everywhere(builder, &folder, &fixture.name);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let message = error.full_message();
        assert!(message.contains(&format!("which {relation} `")), "{message}");
        assert!(message.contains(&format!("({expected}), which it must")), "{message}");
    }
}

#[test]
fn programs_of_the_host_and_files_of_the_kernel_cannot_be_written() {
    let own = std::env::current_exe().expect("known");
    for listed in [own.as_path(), own.parent().expect("a folder"), Path::new("/proc/sys/kernel")] {
        let fixture = ProcessFixture::new();
        let confinement = policy(Sandbox::default(), &fixture.file("state"));
        let error = load_error(json!({ "write": [listed] }), confinement, &fixture);
        let message = error.full_message();
        assert!(message.contains("which it must not change"), "{message}");
    }
}

#[test]
fn plugin_that_a_changed_configuration_does_not_permit_is_unloaded() {
    if !can_confine(1) {
        return;
    }
    let plugins = Plugins::new();
    let out = plugins.dir().join("out");
    fs::create_dir(&out).expect("a folder");
    let fixture = ProcessFixture::new();
    program(&fixture, json!({ "write": [out] })).install();
    let file = plugins.dir().join("hotbay.toml");
    fs::write(&file, "").expect("a file");
    let host = Host::builder().plugin_dir(fixture.file("")).config_file(&file).build();
    let host = host.expect("a host");
    let is_loaded = || host.list().iter().any(|plugin| plugin.name.as_str() == fixture.name);
    assert_eq!(hotbay_tests::block_on(host.load_all()).refused.len(), 0);
    assert!(is_loaded());
    let apply = |text: &str| {
        fs::write(&file, text).expect("a file");
        let config = ConfigFile::read(&file).expect("valid");
        hotbay_tests::block_on(host.apply_config(config)).expect("it serves")
    };
    fs::write(out.join("more.toml"), "").expect("a file");
    let changes = apply("include = ['out/more.toml']\n");
    let [error] = &changes.failed[..] else { panic!("{changes:?}") };
    assert!(error.full_message().contains("(configuration)"), "{}", error.full_message());
    assert!(!is_loaded() && processes_of(&fixture.name).is_empty());
    let changes = apply("");
    assert!(changes.failed.is_empty() && is_loaded(), "{changes:?}");
    drop(host);
}

#[test]
fn state_folder_in_a_plugin_directory_is_refused() {
    let plugins = Plugins::new();
    let dir = plugins.dir().join("plugins");
    create_private(&dir);
    let fixture = ProcessFixture::new();
    let folder = program(&fixture, json!({ "write": ["{state}"] })).install();
    let policy = policy(Sandbox::default(), &dir.join("state"));
    let builder = Host::builder().plugin_dir(&dir).confinement(policy);
    let error = refused_everywhere(builder, &folder, &fixture.name);
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.full_message().contains("is in a plugin directory"), "{}", error.full_message());
}

#[test]
fn path_that_leads_to_the_own_manifest_later_grants_nothing() {
    if !can_confine(1) {
        return;
    }
    for has_bounds in [false, true] {
        let plugins = Plugins::new();
        let out = plugins.dir().join("shared/out");
        fs::create_dir_all(&out).expect("a folder");
        let listed = Some(vec![out.display().to_string()]);
        let bounds = if has_bounds { no_paths().with_write(listed) } else { Sandbox::default() };
        let confinement = policy(bounds, &plugins.dir().join("state"));
        let sandbox = json!({ "write": [out] });
        let running = start_with(sandbox, |it| it, |host| host.confinement(confinement));
        assert_permitted(&running, json!({ "do": "write", "path": out.join("file") }));
        let folder = running.host.list().remove(0).folder.expect("it has one");
        restart_after(&running, || {
            fs::rename(&out, plugins.dir().join("moved")).expect("it is ours");
            symlink(&folder, &out).expect("a link");
        });
        assert_denied(&running, json!({ "do": "write", "path": folder.join("plugin.json") }));
        running.end();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn files_of_processes_cannot_be_granted() {
    for (field, path) in [("read", "/proc/self"), ("write", "/dev/stdout"), ("read", "/proc/1")] {
        let fixture = ProcessFixture::new();
        let confinement = policy(Sandbox::default(), &fixture.file("state"));
        let error = load_error(json!({ field: [path] }), confinement, &fixture);
        let message = error.full_message();
        assert!(message.contains("files of a process"), "{message}");
    }
}

#[test]
fn state_folders_beside_plugins_are_refused() {
    let fixture = ProcessFixture::new();
    let folder = fixture.file("");
    let error = load_error(json!({ "read": ["{state}"] }), policy(no_paths(), &folder), &fixture);
    assert!(error.full_message().contains("contains its folder"), "{}", error.full_message());
}
