//! `hotbay sign`: keys, signatures that hosts accept, and what removes them.

use std::fs;
use std::path::Path;

use hotbay_tests::{Plugins, SIGNATURE, SIGNED_FILES};
use minisign::{PublicKeyBox, SecretKeyBox, SignatureBox};
use serde_json::json;
use snapbox::str;

use crate::command::{command, hotbay, run, unverified};

/// Creates a key without a password and a `hotbay.toml` that trusts it.
fn new_key(dir: &Path, more: &str) -> String {
    let made = hotbay(dir, &["sign", "--new-key", "acme.key", "--no-password", "--json"]);
    let key = made.exits(0).json()["public_key"].as_str().unwrap().to_owned();
    let text = format!("signatures = \"required\"\n[keys.acme]\npublic_key = \"{key}\"\n{more}");
    fs::write(dir.join("hotbay.toml"), text).unwrap();
    key
}

const SIGN: [&str; 4] = ["sign", "plugins/one", "--key", "acme.key"];

#[test]
fn signed_plugin_is_called_and_inspected() {
    let plugins = Plugins::new();
    plugins.add_in("plugins/one", "one", "faulty").write();
    new_key(plugins.dir(), "");
    let call = ["call", "one", "--text", "x"];
    hotbay(plugins.dir(), &call).exits(1).shows(str![[r#"
$ hotbay call one --text x
--- stderr
error: plugin `one` failed to load at step `signature`
  because: `[ROOT]/plugins/one` has no signature, but this host requires one
  hint: sign it with `hotbay sign DIR --key FILE`, or accept plugins without one with `signatures = "if-present"`
--- exit code 1
"#]]);
    hotbay(plugins.dir(), &SIGN).exits(0).shows(str![[r#"
$ hotbay sign plugins/one --key acme.key
signed one [VER]  2 files  plugins/one/plugin.files.json
"#]]);
    assert_eq!(hotbay(plugins.dir(), &call).exits(0).stdout, b"x");
    let inspected = hotbay(plugins.dir(), &["inspect", "one"]).exits(0).text();
    for expected in ["signed by      acme (key ", "signature      all 2 files", "plugin:one"] {
        assert!(inspected.contains(expected), "{inspected}");
    }
    let json = hotbay(plugins.dir(), &["inspect", "one", "--json"]).exits(0).json();
    let signature = &json["signature"];
    assert_eq!((&signature["state"], &signature["key"]), (&json!("valid"), &json!("acme")));
    assert!(signature["signed_at"].as_str().unwrap().starts_with("20"), "{signature}");
    let list = hotbay(plugins.dir(), &["list", "--json"]).exits(0).json();
    assert_eq!(list["plugins"][0]["signature"]["state"], "valid", "{list}");
    hotbay(plugins.dir(), &["check"]).exits(0);

    fs::write(plugins.dir().join("plugins/one/more.py"), "import os").unwrap();
    for verb in [&call[..], &["inspect", "one"], &["list"], &["check"]] {
        let refused = hotbay(plugins.dir(), verb).exits(1);
        let text = refused.text() + &refused.stderr;
        assert!(text.contains("`more.py` is not one of the signed files"), "{text}");
    }
}

#[test]
fn unsealed_and_invalid_folders_are_not_signed() {
    let plugins = Plugins::new();
    unverified(&plugins, "one", json!({}));
    let changed = plugins.add_in("plugins/changed", "changed", "faulty").stale_digest();
    changed.bytes(|bytes| bytes.push(0)).write();
    new_key(plugins.dir(), "");
    let args = ["sign", "plugins/one", "plugins/changed", "gone", "--key", "acme.key"];
    let refused = hotbay(plugins.dir(), &args).exits(1).stderr;
    for expected in [
        "error: `plugins/one` was not signed",
        "contains no `sha256`",
        "hint: run `hotbay build` or `hotbay seal DIR`",
        "error: `plugins/changed` was not signed",
        "but its manifest expects",
        "error: `gone` was not signed",
    ] {
        assert!(refused.contains(expected), "`{expected}` in {refused}");
    }
    assert!(!plugins.dir().join("plugins/one").join(SIGNED_FILES).exists());
    hotbay(plugins.dir(), &["seal", "plugins/one"]).exits(0);
    hotbay(plugins.dir(), &SIGN).exits(0);
}

#[test]
fn seal_removes_a_stale_signature() {
    let plugins = Plugins::new();
    let folder = plugins.add_in("plugins/one", "one", "faulty").write();
    new_key(plugins.dir(), "");
    hotbay(plugins.dir(), &SIGN).exits(0);
    let sealed = hotbay(plugins.dir(), &["seal", "plugins/one"]).exits(0);
    assert!(sealed.stderr.is_empty() && folder.join(SIGNATURE).exists(), "nothing changed");
    plugins.add_in("plugins/one", "one", "faulty").unverified().write();
    let sealed = hotbay(plugins.dir(), &["seal", "plugins/one"]).exits(0);
    assert!(sealed.stderr.contains("note: the signature of `plugins/one` was removed"));
    assert!(!folder.join(SIGNATURE).exists() && !folder.join(SIGNED_FILES).exists());
    hotbay(plugins.dir(), &SIGN).exits(0);
    hotbay(plugins.dir(), &["call", "one", "--text", "x"]).exits(0);
}

#[test]
fn key_pair_has_the_format_of_minisign() {
    let plugins = Plugins::new();
    let dir = plugins.dir();
    let folder = plugins.add_in("plugins/one", "one", "faulty").write();
    fs::write(dir.join("password"), "hunter2\n").unwrap();
    let made = hotbay(dir, &["sign", "--new-key", "acme.key", "--password-file", "password"]);
    let made = made.exits(0).text();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |name| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("acme.key"), mode("acme.pub")), (0o600, 0o644));
    }
    // The library of minisign reads all files, so the program does too.
    let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let public = PublicKeyBox::from_string(&text("acme.pub")).unwrap().into_public_key().unwrap();
    assert!(made.contains(&format!("public_key = \"{}\"", public.to_base64())), "{made}");
    let secret = SecretKeyBox::from_string(&text("acme.key")).unwrap();
    let secret = secret.into_secret_key(Some("hunter2".to_owned())).unwrap();
    assert_eq!(secret.keynum(), public.keynum());

    let no_password = hotbay(dir, &SIGN).exits(1);
    no_password.shows(str![[r#"
$ hotbay sign plugins/one --key acme.key
--- stderr
error: the key needs a password
  hint: pass `--password-file FILE`, or set `HOTBAY_KEY_PASSWORD`
--- exit code 1
"#]]);
    let with_variable = |password: &str| {
        let output = command(dir, &SIGN).env("HOTBAY_KEY_PASSWORD", password).output();
        run(dir, &SIGN, output)
    };
    with_variable("wrong").exits(1).shows(str![[r#"
$ hotbay sign plugins/one --key acme.key
--- stderr
error: cannot use the key `acme.key`
  because: wrong password
  hint: check the password, the file of `--password-file`, or `HOTBAY_KEY_PASSWORD`
--- exit code 1
"#]]);
    with_variable("hunter2").exits(0);
    let signature = SignatureBox::from_file(folder.join(SIGNATURE)).unwrap();
    assert!(signature.is_prehashed());
    let list = fs::File::open(folder.join(SIGNED_FILES)).unwrap();
    minisign::verify(&public, &signature, list, true, false, false).unwrap();
    let comment = signature.trusted_comment().unwrap();
    assert!(comment.ends_with("plugin:one\tversion:0.1.0"), "{comment}");
}

#[test]
fn key_is_never_replaced_and_needs_a_choice_about_its_password() {
    let plugins = Plugins::new();
    let dir = plugins.dir();
    new_key(dir, "");
    let before = fs::read(dir.join("acme.key")).unwrap();
    let again = ["sign", "--new-key", "acme.key", "--no-password"];
    let refused = hotbay(dir, &again).exits(1).stderr;
    assert!(refused.contains("`acme.key` exists; a key is never replaced"), "{refused}");
    assert_eq!(fs::read(dir.join("acme.key")).unwrap(), before);
    fs::rename(dir.join("acme.key"), dir.join("other")).unwrap();
    let refused = hotbay(dir, &again).exits(1).stderr;
    assert!(refused.contains("`acme.pub` exists"), "{refused}");
    assert!(!dir.join("acme.key").exists());
    let refused = hotbay(dir, &["sign", "--new-key", "second.key"]).exits(1).stderr;
    assert!(refused.contains("needs a password"), "{refused}");
    fs::write(dir.join("empty"), "\n").unwrap();
    let empty = ["sign", "--new-key", "second.key", "--password-file", "empty"];
    assert!(hotbay(dir, &empty).exits(1).stderr.contains("pass `--no-password`"));
    assert!(!dir.join("second.key").exists());
}

#[test]
fn file_that_is_no_secret_key_is_refused() {
    let plugins = Plugins::new();
    let dir = plugins.dir();
    plugins.add_in("plugins/one", "one", "faulty").write();
    new_key(dir, "");
    let key = fs::read_to_string(dir.join("acme.key")).unwrap();
    let public = fs::read_to_string(dir.join("acme.pub")).unwrap();
    for text in ["", "a\nb\n", &public, &key[..key.len() / 2], &key.replace("RWQAA", "RWQBA")] {
        fs::write(dir.join("broken.key"), text).unwrap();
        let args = ["sign", "plugins/one", "--key", "broken.key"];
        let refused = hotbay(dir, &args).exits(1).stderr;
        assert!(refused.contains("cannot use the key `broken.key`"), "{text}: {refused}");
    }
    for usage in [
        &["sign", "plugins/one"][..],
        &["sign", "--key", "acme.key"],
        &["sign"],
        &["sign", "plugins/one", "--key", "acme.key", "--no-password"],
        &["sign", "plugins/one", "--new-key", "x"],
    ] {
        hotbay(dir, usage).exits(2);
    }
}
