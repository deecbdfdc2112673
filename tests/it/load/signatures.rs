//! Signatures of plugin folders: what is accepted, each reason of a refusal, reloads, and the files that
//! a signed program gets.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hotbay::{
    Error, ErrorKind, Host, HostBuilder, HostEvent, LoadOptions, LoadStep, Manifest, Output,
    PluginHandle, Reloaded, Request, SignaturePolicy, SignatureStatus, TrustedKey, inspect,
};
#[cfg(target_os = "linux")]
use hotbay_tests::ProgramFolder;
use hotbay_tests::{
    Plugins, SIGNATURE, SIGNED_FILES, SigningKey, block_on, event, library_file_name, loaded,
    refused, reloaded, rolled_back,
};
use serde_json::json;

/// A signed plugin, its key, and a host that trusts the key and requires signatures.
struct Signed {
    plugins: Plugins,
    key: SigningKey,
    folder: PathBuf,
}

impl Signed {
    fn new() -> Self {
        let (plugins, key) = (Plugins::new(), SigningKey::new());
        let folder = plugins.add("acme-echo", "faulty").write();
        fs::write(folder.join("words.txt"), "one two").unwrap();
        key.sign(&folder);
        Self { plugins, key, folder }
    }

    fn host(&self) -> Host {
        required(self.key.trusted("acme")).build().unwrap()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.folder.join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.join(name)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap()
    }

    /// Checks that the plugin is refused because of its signature.
    #[track_caller]
    fn refused(&self, expected: &str, hint: &str) {
        check(&refused(&self.host(), &self.folder), expected, hint);
        let builder = required(self.key.trusted("acme"));
        let inspected = inspect::plugin(&builder, &self.folder).surveyed;
        check(&inspected.problem.expect("a problem"), expected, hint);
        assert_eq!(inspected.signature, SignatureStatus::NotChecked);
    }
}

fn required(key: TrustedKey) -> HostBuilder {
    Host::builder().trusted_key(key).signatures(SignaturePolicy::Required)
}

#[track_caller]
fn check(error: &Error, expected: &str, hint: &str) {
    let message = error.full_message();
    assert!(message.contains(expected), "{message}");
    assert!(error.hint().is_some_and(|it| it.contains(hint)), "{message}: {:?}", error.hint());
    assert_eq!(error.kind(), ErrorKind::Integrity, "{message}");
    assert_eq!(error.step(), Some(LoadStep::Signature), "{message}");
}

fn reply(plugin: &PluginHandle, input: &str) -> String {
    plugin.call(Request::text(input)).unwrap().as_text().unwrap().to_owned()
}

fn status(host: &Host, plugin: &str) -> SignatureStatus {
    host.list().into_iter().find(|info| info.name.as_str() == plugin).unwrap().signature
}

#[test]
fn signed_plugin_is_loaded_and_shows_its_signer() {
    let signed = Signed::new();
    let host = signed.host();
    let echo = loaded(&host, &signed.folder);
    assert_eq!(reply(&echo, "a"), "a");
    let SignatureStatus::Valid(by) = status(&host, "acme-echo") else { panic!("not signed") };
    assert_eq!((by.key.as_str(), by.files), ("acme", 3));
    assert_eq!(by.key_id, signed.key.trusted("x").key_id());
    assert_eq!(by.trusted_comment, "timestamp:1700000000\tfile:plugin.files.json");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    assert_eq!(by.signed_at, Some(time));
    let inspected = inspect::plugin(&required(signed.key.trusted("acme")), &signed.folder);
    assert!(inspected.surveyed.problem.is_none());
    assert_eq!(inspected.surveyed.signature, SignatureStatus::Valid(by));
    assert_eq!(block_on(host.reload("acme-echo")).unwrap(), Reloaded::Unchanged);
}

#[test]
fn unsigned_plugin_is_accepted_unless_required() {
    let plugins = Plugins::new();
    let folder = plugins.add("one", "faulty").write();
    let key = SigningKey::new();
    let error = refused(&required(key.trusted("acme")).build().unwrap(), &folder);
    check(&error, "has no signature, but this host requires one", "hotbay sign DIR --key FILE");
    let host = Host::builder().trusted_key(key.trusted("acme")).build().unwrap();
    loaded(&host, &folder);
    assert_eq!(status(&host, "one"), SignatureStatus::Unsigned);
    let host = Host::builder().build().unwrap();
    loaded(&host, &folder);
    assert_eq!(status(&host, "one"), SignatureStatus::NotChecked);
    let host = required(key.trusted("acme"));
    let host = host.register_fn("inside", |_, _| Ok(Output::text("a"))).build().unwrap();
    assert_eq!(status(&host, "inside"), SignatureStatus::NotChecked);
}

#[test]
fn policy_off_ignores_signatures() {
    let signed = Signed::new();
    signed.write("added.py", "print()");
    let key = signed.key.trusted("acme");
    let host = Host::builder().trusted_key(key).signatures(SignaturePolicy::Off).build().unwrap();
    loaded(&host, &signed.folder);
    assert_eq!(status(&host, "acme-echo"), SignatureStatus::NotChecked);
}

#[test]
fn invalid_policy_or_keys_do_not_build() {
    let error = Host::builder().signatures(SignaturePolicy::Required).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("no key is trusted"), "{error}");
    let key = || SigningKey::new().trusted("acme");
    let error = Host::builder().trusted_key(key()).trusted_key(key()).build().unwrap_err();
    assert!(error.to_string().contains("two keys have the name `acme`"), "{error}");
}

#[test]
fn changed_missing_and_added_files_are_refused() {
    let signed = Signed::new();
    let manifest = signed.read("plugin.json");
    signed.write("words.txt", "one_two");
    signed.refused("`words.txt` is not the file that was signed", "sign it again");
    signed.write("words.txt", "one two three");
    signed.refused("`words.txt` is not the file that was signed", "sign it again");
    signed.remove("words.txt");
    signed.refused("the signed file `words.txt` was not found", "install the plugin again");
    signed.write("words.txt", "one two");
    fs::create_dir(signed.folder.join("lib")).unwrap();
    signed.write("lib/sitecustomize.py", "import os");
    signed.refused("`lib/sitecustomize.py` is not one of the signed files", "remove it");
    signed.remove("lib/sitecustomize.py");
    signed.write("plugin.json", manifest.replace("acme-echo\"", "acme-echo\" "));
    signed.refused("`plugin.json` is not the file that was signed", "sign it again");
    signed.write("plugin.json", &manifest);
    loaded(&signed.host(), &signed.folder);
}

#[test]
fn library_with_other_bytes_is_refused_at_load() {
    let signed = Signed::new();
    let library = library_file_name("faulty");
    let mut bytes = fs::read(signed.folder.join(&library)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    signed.write(&library, &bytes);
    let error = refused(&signed.host(), &signed.folder);
    assert_eq!((error.kind(), error.step()), (ErrorKind::Integrity, Some(LoadStep::Digest)));
    assert!(error.full_message().contains("but the signed one has"), "{}", error.full_message());
    assert!(error.hint().unwrap().contains("sign it again"));
    let inspected = inspect::plugin(&required(signed.key.trusted("acme")), &signed.folder);
    assert_eq!(inspected.surveyed.signature, SignatureStatus::NotChecked);
    let problem = inspected.surveyed.problem.expect("a problem");
    assert_eq!(problem.step(), Some(LoadStep::Signature));
}

#[test]
fn schema_file_is_the_signed_one() {
    let (plugins, key) = (Plugins::new(), SigningKey::new());
    let folder = plugins.add("one", "faulty").set("config_schema", "schema.json").write();
    fs::write(folder.join("schema.json"), r#"{"type":"object"}"#).unwrap();
    key.sign(&folder);
    let host = required(key.trusted("acme")).build().unwrap();
    loaded(&host, &folder);
    fs::write(folder.join("schema.json"), r#"{"type":"string"}"#).unwrap();
    check(&rolled_back(&host, "one"), "`schema.json` is not the file that was signed", "sign it");
}

#[cfg(unix)]
#[test]
fn link_in_signed_folder_is_refused() {
    let signed = Signed::new();
    std::os::unix::fs::symlink("words.txt", signed.folder.join("more.txt")).unwrap();
    signed.refused("more.txt` is a link", "put the file itself in the folder");
    signed.remove("more.txt");
    fs::rename(signed.folder.join(SIGNATURE), signed.plugins.dir().join("other")).unwrap();
    std::os::unix::fs::symlink("../other", signed.folder.join(SIGNATURE)).unwrap();
    signed.refused("minisig` is a link", "put the file itself in the folder");
}

#[test]
fn unknown_or_replaced_key_is_refused_with_known_ones() {
    let signed = Signed::new();
    let id = signed.key.trusted("x").key_id().to_owned();
    let other = SigningKey::new().trusted("acme");
    let known = format!("`acme` ({})", other.key_id());
    let error = refused(&required(other).build().unwrap(), &signed.folder);
    check(&error, &format!("signed with the key {id}, which is not trusted"), "add the public key");
    assert!(error.full_message().contains(&known), "{}", error.full_message());
    let host = Host::builder().signatures(SignaturePolicy::IfPresent).build().unwrap();
    check(&refused(&host, &signed.folder), "no key is trusted", "add the public key");
}

#[test]
fn key_signs_only_plugins_in_its_scope() {
    let signed = Signed::new();
    let host = |patterns: &[&str]| {
        let key = signed.key.trusted("acme").plugins(patterns.iter().copied()).unwrap();
        required(key).build().unwrap()
    };
    loaded(&host(&["storage", "acme-*"]), &signed.folder);
    loaded(&host(&["acme-echo"]), &signed.folder);
    let error = refused(&host(&["storage", "acme"]), &signed.folder);
    let expected = "the key `acme` may not sign `acme-echo`, only `storage`, `acme`";
    check(&error, expected, "add `acme-echo` to `plugins` of the key `acme`");
    check(&refused(&host(&[]), &signed.folder), "may sign no plugin", "add `acme-echo`");
    // The scope is about the plugin that was signed, not about the name of an instance.
    let options = LoadOptions::new().with_name("storage");
    let error =
        block_on(host(&["storage"]).load_with(&signed.folder, options.clone())).unwrap_err();
    check(&error, "may not sign `acme-echo`", "add `acme-echo`");
    block_on(host(&["acme-*"]).load_with(&signed.folder, options)).unwrap();
}

#[test]
fn expired_key_is_refused_with_its_date() {
    let signed = Signed::new();
    let host = |date| required(signed.key.trusted("acme").expires(date).unwrap()).build().unwrap();
    loaded(&host("9999-12-31"), &signed.folder);
    let error = refused(&host("2020-02-29"), &signed.folder);
    check(&error, "it expired after 2020-02-29", "set a later `expires` for `acme`");
}

#[test]
fn signature_of_another_plugin_or_version_is_refused() {
    let signed = Signed::new();
    let list = signed.read(SIGNED_FILES);
    let other = signed.plugins.add("acme-other", "faulty").write();
    for name in [SIGNED_FILES, SIGNATURE] {
        fs::copy(signed.folder.join(name), other.join(name)).unwrap();
    }
    let error = refused(&signed.host(), &other);
    check(
        &error,
        "belongs to the plugin `acme-echo`, but the manifest states `acme-other`",
        "sign",
    );
    signed.key.sign_list(&signed.folder, &list.replace("\"0.1.0\"", "\"0.0.9\""));
    signed.refused("belongs to version 0.0.9, but the manifest states 0.1.0", "sign it again");
}

#[test]
fn broken_signature_is_refused() {
    let signed = Signed::new();
    let (list, signature) = (signed.read(SIGNED_FILES), signed.read(SIGNATURE));
    let lines: Vec<_> = signature.lines().collect();
    let with = |at: usize, line: &str| {
        let mut lines = lines.clone();
        lines[at] = line;
        lines.join("\n")
    };
    for (text, expected) in [
        (String::new(), "expected four lines"),
        (lines[..3].join("\n"), "expected four lines"),
        (format!("{signature}more\n"), "expected four lines"),
        (with(0, "x"), "first line is not an untrusted comment"),
        (with(1, "???"), "second line is not base64"),
        (with(1, &lines[1][..40]), "it is incomplete or damaged"),
        (with(1, &lines[1].replacen("RU", "AA", 1)), "its algorithm is unknown"),
        (with(2, "comment"), "it is incomplete or damaged"),
        (with(3, &lines[3][..20]), "it is incomplete or damaged"),
        (with(2, "trusted comment: forged"), "does not match `plugin.files.json`"),
        (signature.replacen("untrusted", "un\u{e9}", 1), "first line"),
    ] {
        signed.write(SIGNATURE, text);
        signed.refused(expected, "sign it again");
    }
    signed.write(SIGNATURE, [0xff, 0xfe]);
    signed.refused("it is not UTF-8 text", "sign it again");
    // `Ed` instead of `ED`: not prehashed.
    let legacy = lines[1].replacen("RU", "RW", 1);
    signed.write(SIGNATURE, with(1, &legacy));
    signed.refused("is a legacy signature of minisign", "`minisign` 0.10 or later");
    signed.write(SIGNATURE, &signature);
    signed.write(SIGNED_FILES, list.replace("acme-echo", "acme-ech0"));
    signed.refused("the signature of the key `acme` does not match `plugin.files.json`", "sign");
    signed.remove(SIGNED_FILES);
    signed.refused("plugin.files.json` not found: a signature consists of both", "sign it again");
    signed.write(SIGNED_FILES, &list);
    signed.remove(SIGNATURE);
    signed.refused("minisig` not found: a signature consists of both", "sign it again");
    signed.key.sign_list(&signed.folder, "{}");
    signed.refused("invalid list of signed files: missing field `format`", "sign it again");
    signed.write(SIGNATURE, vec![b'x'; 20 << 10]);
    let error = refused(&signed.host(), &signed.folder);
    assert!(error.full_message().contains("has at least 20480 bytes; the limit is 16384"));
}

#[test]
fn signed_files_have_a_limit_in_all() {
    let signed = Signed::new();
    let length = fs::metadata(signed.folder.join(library_file_name("faulty"))).unwrap().len();
    let limits = hotbay_tests::limits(|limits| limits.max_library_bytes = length);
    let builder = required(signed.key.trusted("acme")).limits(limits);
    let error = refused(&builder.build().unwrap(), &signed.folder);
    check(&error, &format!("bytes in all; the limit is {length}"), "raise `max_library_bytes`");
}

#[test]
fn lost_or_wrong_signature_keeps_the_old_build() {
    let signed = Signed::new();
    let key = signed.key.trusted("acme");
    // The policy is `if-present`.
    let host = Host::builder().trusted_key(key).build().unwrap();
    let echo = loaded(&host, &signed.folder);
    let before = host.list()[0].generation;
    let next =
        || signed.plugins.add("acme-echo", "faulty").config(json!({ "answers": "new" })).write();
    next();
    let error = rolled_back(&host, "acme-echo");
    check(&error, "`plugin.json` is not the file that was signed", "sign it again");
    assert!(error.full_message().contains("keeps serving"), "{}", error.full_message());
    signed.remove(SIGNATURE);
    signed.remove(SIGNED_FILES);
    let error = rolled_back(&host, "acme-echo");
    let expected = "has no signature, but the one that serves is signed with the key `acme`";
    check(&error, expected, "unload the plugin before you replace it");
    assert_eq!(host.list()[0].generation, before);
    assert_eq!(reply(&echo, "a"), "a");
    signed.key.sign(&signed.folder);
    reloaded(&host, "acme-echo");
    assert_eq!(reply(&echo, "a"), "new");
}

#[test]
fn new_signature_of_the_same_files_is_a_new_build() {
    let signed = Signed::new();
    let second = SigningKey::new();
    let builder = required(signed.key.trusted("acme")).trusted_key(second.trusted("second"));
    let host = builder.build().unwrap();
    loaded(&host, &signed.folder);
    signed.write("words.txt", "three");
    second.sign(&signed.folder);
    reloaded(&host, "acme-echo");
    let SignatureStatus::Valid(by) = status(&host, "acme-echo") else { panic!("not signed") };
    assert_eq!(by.key, "second");
    assert_eq!(block_on(host.reload("acme-echo")).unwrap(), Reloaded::Unchanged);
}

#[test]
fn watch_loads_a_plugin_once_it_is_signed() {
    let signed = Signed::new();
    signed.write("words.txt", "changed");
    let builder = required(signed.key.trusted("acme")).plugin_dir(signed.plugins.dir());
    let host = builder.hot_reload(true).build().unwrap();
    let mut events = host.events();
    let report = block_on(host.load_all());
    assert_eq!(report.refused.len(), 1);
    signed.key.sign(&signed.folder);
    event(&mut events, |event| matches!(event, HostEvent::Loaded { .. }));
    assert!(matches!(status(&host, "acme-echo"), SignatureStatus::Valid(_)));
}

#[test]
fn file_of_the_host_sets_policy_and_keys() {
    let signed = Signed::new();
    let file = signed.plugins.dir().join("hotbay.toml");
    let key = signed.key.public_key();
    let build = |text: String| {
        fs::write(&file, text).unwrap();
        Host::builder().config_file(&file).build()
    };
    let keys = |more: &str| format!("[keys.acme]\npublic_key = \"{key}\"\n{more}");
    let unsigned = signed.plugins.add("one", "faulty").write();
    let host = build(keys("plugins = ['acme-*']\nexpires = '9999-12-31'")).unwrap();
    loaded(&host, &signed.folder);
    loaded(&host, &unsigned);
    let host = build(format!("signatures = 'required'\n{}", keys(""))).unwrap();
    check(&refused(&host, &unsigned), "has no signature", "if-present");
    let host = build(keys("expires = '2020-01-01'")).unwrap();
    check(&refused(&host, &signed.folder), "expired after 2020-01-01", "set a later");
    let host = build(keys("plugins = ['other']")).unwrap();
    check(&refused(&host, &signed.folder), "only `other`", "add `acme-echo`");
    let error = build("[keys.acme]\nexpires = '2020-01-01'".to_owned()).unwrap_err();
    assert!(error.full_message().contains("`keys.acme` has no `public_key`"), "{error}");
}

#[test]
fn manifest_made_in_code_needs_no_signature() {
    let manifest = Manifest::new("inside", "1.0.0").unwrap();
    assert!(Host::builder().signatures(SignaturePolicy::IfPresent).build().is_ok());
    assert_eq!(hotbay::PluginInfo::new(manifest).signature, SignatureStatus::NotChecked);
}

/// Starts again in each process what its own folder contains.
#[cfg(target_os = "linux")]
const SCRIPT: &str = r#"#!/usr/bin/env python3
import hotbay
import words.one

plugin = hotbay.Plugin("acme-words", "0.1.0")

@plugin.execute
def execute(input, call):
    return words.one.TEXT

plugin.run()
"#;

#[cfg(target_os = "linux")]
#[test]
fn signed_program_runs_copies_of_all_signed_files() {
    if !hotbay_tests::has_interpreter("python3") {
        return;
    }
    let (plugins, key) = (Plugins::new(), SigningKey::new());
    let sdk = include_str!("../../../plugin-api/python/hotbay.py");
    let program = ProgramFolder::new(plugins.dir(), "acme-words").file("main.py").bytes(SCRIPT);
    let folder = program.beside("hotbay.py", sdk).install();
    let module = folder.join("words/one.py");
    fs::create_dir(folder.join("words")).unwrap();
    fs::write(&module, "TEXT = 'signed'").unwrap();
    key.sign(&folder);
    let host = required(key.trusted("acme")).build().unwrap();
    let words = loaded(&host, &folder);
    assert_eq!(reply(&words, ""), "signed");
    // A cache of compiled modules would be an unsigned file.
    assert_eq!(fs::read_dir(folder.join("words")).unwrap().count(), 1);

    fs::write(&module, "TEXT = 'forged'").unwrap();
    let mut events = host.events();
    assert!(hotbay_tests::end_process(host.list()[0].pid.unwrap()));
    event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
    assert_eq!(reply(&words, ""), "signed");
    let error = rolled_back(&host, "acme-words");
    check(&error, "`words/one.py` is not the file that was signed", "sign it again");
    fs::write(&module, "TEXT = 'better'").unwrap();
    key.sign(&folder);
    reloaded(&host, "acme-words");
    assert_eq!(reply(&words, ""), "better");
}
