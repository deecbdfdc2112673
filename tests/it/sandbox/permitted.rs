//! What a confined program can do, and that programs in other languages start with their presets.

use std::fs;
use std::net::TcpListener;

use hotbay::confinement::ConfinementPolicy;
use hotbay::manifest::Sandbox;
use hotbay::{ErrorKind, Host, Request, inspect};
use hotbay_tests::{Plugins, block_on, has_interpreter};
use serde_json::json;

use super::{assert_denied, assert_permitted, attempt, can_confine, start, start_with};

#[test]
fn granted_files_programs_and_ports_can_be_used() {
    let folder = Plugins::new();
    let file = folder.dir().join("file");
    fs::write(&file, "text").expect("a file");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let running = start(json!({
        "write": [folder.dir()],
        "run": ["env"],
        "net": { "connect": [address.port()], "listen": [0] },
    }));
    assert_permitted(&running, json!({ "do": "read", "path": file }));
    assert_permitted(&running, json!({ "do": "write", "path": file }));
    assert_permitted(&running, json!({ "do": "truncate", "path": file }));
    assert_permitted(&running, json!({ "do": "write", "path": folder.dir().join("new") }));
    assert_permitted(&running, json!({ "do": "remove", "path": folder.dir().join("new") }));
    assert_permitted(&running, json!({ "do": "run", "path": "env" }));
    assert_permitted(&running, json!({ "do": "connect", "address": address.to_string() }));
    assert_permitted(&running, json!({ "do": "listen", "address": "127.0.0.1:0" }));
    assert_permitted(&running, json!({ "do": "thread" }));
    running.end();
}

#[test]
fn state_folder_survives_restarts() {
    let folder = Plugins::new();
    let policy = || {
        let state = Some(folder.dir().join("state"));
        ConfinementPolicy::default().with_state_dir(state)
    };
    let sandbox = json!({ "write": ["{state}"] });
    let running = start_with(sandbox, |program| program, |host| host.confinement(policy()));
    let state = attempt(&running, json!({ "do": "variable", "name": "HOTBAY_STATE_DIR" }));
    assert_eq!(state, folder.dir().join("state").join(&running.fixture.name).display().to_string());
    let file = format!("{state}/kept");
    assert_permitted(&running, json!({ "do": "write", "path": file }));
    block_on(running.host.reload(&running.fixture.name)).expect("it reloads");
    assert_permitted(&running, json!({ "do": "read", "path": file }));
    running.end();
    assert!(fs::exists(&file).expect("readable"));
}

#[test]
fn temporary_files_are_private_to_the_process() {
    let running = start(json!({}));
    let tmp = attempt(&running, json!({ "do": "variable", "name": "TMPDIR" }));
    let file = format!("{tmp}/file");
    assert_permitted(&running, json!({ "do": "write", "path": file }));
    assert!(fs::exists(&file).expect("readable"));
    running.end();
    assert!(!fs::exists(&tmp).expect("readable"));
}

#[test]
fn every_placeholder_can_be_listed_in_every_list() {
    let folder = Plugins::new();
    for field in ["read", "write", "run"] {
        for listed in ["{tmp}", "{tmp}/file", "{state}", "{state}/file", "{plugin}/file"] {
            let policy = ConfinementPolicy::default();
            let policy = policy.with_state_dir(Some(folder.dir().join("state")));
            let sandbox = json!({ field: [listed] });
            let running = start_with(sandbox, |it| it, |host| host.confinement(policy));
            running.end();
        }
    }
}

#[test]
fn host_narrows_what_the_manifest_requests() {
    if !can_confine(1) {
        return;
    }
    let folder = Plugins::new();
    for name in ["a", "b"] {
        fs::create_dir(folder.dir().join(name)).expect("a folder");
        fs::write(folder.dir().join(name).join("file"), "text").expect("a file");
    }
    let bound = folder.dir().join("a").display().to_string();
    let bounds = Sandbox::default().with_read(Some(vec![bound]));
    let policy = ConfinementPolicy::default().with_bounds(Some(bounds));
    let sandbox = json!({ "read": [folder.dir()] });
    let running = start_with(sandbox, |program| program, |host| host.confinement(policy));
    let read = |name: &str| json!({ "do": "read", "path": folder.dir().join(name).join("file") });
    assert_permitted(&running, read("a"));
    assert_denied(&running, read("b"));
    running.end();
}

#[test]
fn variables_that_bounds_list_are_passed() {
    // Set by cargo, and not passed to all programs.
    const NAME: &str = "CARGO_MANIFEST_DIR";
    if std::env::var_os(NAME).is_none() {
        return;
    }
    for is_listed in [false, true] {
        let bounds = is_listed.then(|| Sandbox::default().with_env(Some(vec![NAME.to_owned()])));
        let policy = ConfinementPolicy::default().with_bounds(bounds);
        let sandbox = json!({ "env": [NAME] });
        let running =
            start_with(sandbox, |program| program, |host| host.confinement(policy.clone()));
        let names = attempt(&running, json!({ "do": "environment" }));
        assert_eq!(names.split(' ').any(|name| name == NAME), is_listed, "{names}");
        let folder = running.host.list().remove(0).folder.expect("it has one");
        let inspection = inspect::plugin(&Host::builder().confinement(policy), folder);
        let not_granted = inspection.not_granted.join(" ");
        assert_eq!(not_granted.contains("the host does not pass on"), !is_listed, "{not_granted}");
        running.end();
    }
}

#[test]
fn python_and_node_programs_work_with_their_presets() {
    for (name, preset, file, text) in
        [("python3", "python", "plugin.py", PYTHON), ("node", "node", "plugin.mjs", NODE)]
    {
        if !has_interpreter(name) {
            continue;
        }
        let sdk = match preset {
            "python" => ("hotbay.py", include_str!("../../../plugin-api/python/hotbay.py")),
            _ => ("hotbay.mjs", include_str!("../../../plugin-api/node/hotbay.mjs")),
        };
        for namespaces in [false, true] {
            let sandbox = json!({ "preset": preset, "namespaces": namespaces });
            let program = |program: hotbay_tests::ProgramFolder| {
                program.bytes(text).file(file).beside(sdk.0, sdk.1).set("package", "confined")
            };
            let running = start_with(sandbox, program, |host| host);
            assert_eq!(attempt(&running, json!("/etc/hostname")), "denied");
            let own = running.fixture.file(&running.fixture.name).join("plugin.json");
            assert_eq!(attempt(&running, json!(own)), "permitted");
            running.end();
        }
    }
}

#[test]
fn fault_of_a_denied_call_has_a_hint() {
    if !can_confine(1) || !has_interpreter("python3") {
        return;
    }
    let sdk = include_str!("../../../plugin-api/python/hotbay.py");
    for (path, is_denied) in [("/etc/hostname", true), ("/none/missing", false)] {
        let text = format!(
            "#!/usr/bin/env python3\nimport hotbay\n\
             plugin = hotbay.Plugin('confined', '0.1.0')\n\
             @plugin.execute\ndef execute(input, call):\n    open({path:?}).read()\nplugin.run()\n"
        );
        let program = |program: hotbay_tests::ProgramFolder| {
            let program = program.bytes(text).file("plugin.py").beside("hotbay.py", sdk);
            program.set("package", "confined")
        };
        let sandbox = json!({ "preset": "python", "read": ["/none"] });
        let running = start_with(sandbox, program, |host| host);
        let error = running.handle.call(Request::text("x")).expect_err("it fails");
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let hint = error.hint().unwrap_or_default();
        assert_eq!(hint.starts_with("its sandbox may deny this"), is_denied, "{hint}");
        running.end();
    }
}

const PYTHON: &str = r#"#!/usr/bin/env python3
import json, tempfile
import hotbay

plugin = hotbay.Plugin("confined", "0.1.0")

@plugin.execute
def execute(input, call):
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    try:
        open(json.loads(input)).read(1)
        return "permitted"
    except PermissionError:
        return "denied"

plugin.run()
"#;

const NODE: &str = r#"#!/usr/bin/env node
import fs from "node:fs";
import { Plugin, text } from "./hotbay.mjs";

const plugin = new Plugin("confined", "0.1.0");

plugin.execute((input) => {
    try {
        fs.readFileSync(JSON.parse(text(input)));
        return "permitted";
    } catch (error) {
        if (error.code !== "EACCES") throw error;
        return "denied";
    }
});

plugin.run()
"#;
