//! `hotbay sign`: signs all files of plugin folders in the format of minisign, and creates key pairs.

use std::fs::{self, OpenOptions};
use std::io::{self, Cursor, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hotbay::{SignaturePolicy, TrustedKey, inspect};
use hotbay_manifest::{SIGNATURE, SIGNED_FILES, SignedFiles};
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};
use serde_json::{Value, json};

use crate::Status;
use crate::args::{Options, Sign};
use crate::failure::Failure;
use crate::output::{Out, print_message};
use crate::plugin_dirs::builder;
use crate::seal::{folder_of, write_atomically};

/// The variable with the password of a key, for CI.
const PASSWORD_VARIABLE: &str = "HOTBAY_KEY_PASSWORD";
/// Maximum size of a key's file and of a password's in bytes.
const MAX_KEY_BYTES: u64 = 16 << 10;

pub(crate) fn sign(args: &Sign, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    if let Some(file) = &args.new_key {
        return new_key(file, args, options, out);
    }
    let Some(file) = &args.key else {
        return Err(Failure::Usage("`--key` or `--new-key` is required".to_owned()));
    };
    let secret = read_secret_key(file, args)?;
    let public = PublicKey::from_secret_key(&secret).map_err(|error| {
        Failure::new("key", format!("cannot use the key `{}`", file.display()))
            .because(error.to_string())
    })?;
    let (mut signed, mut failed) = (Vec::new(), Vec::new());
    for path in &args.folders {
        let folder = folder_of(path);
        match sign_folder(folder, &secret, &public, options) {
            Ok(document) if options.json => signed.push(document),
            Ok(document) => {
                let text = |field: &str| document[field].as_str().unwrap_or_default();
                let (name, version) = (text("name"), text("version"));
                let files = &document["files"];
                let list = folder.join(SIGNED_FILES);
                out.line(&format!("signed {name} {version}  {files} files  {}", list.display()))?;
            }
            Err(failure) if options.json => {
                let folder = folder.display().to_string();
                failed.push(json!({ "folder": folder, "error": failure.json() }));
            }
            Err(failure) => {
                failed.push(Value::Null);
                failure.lines().iter().for_each(|line| print_message(line));
            }
        }
    }
    if options.json {
        out.json(&json!({ "signed": signed, "failed": failed }))?;
    }
    Ok(if failed.is_empty() { Status::Success } else { Status::Failed })
}

/// Signs the files of one folder; returns the document that `--json` prints.
fn sign_folder(
    folder: &Path,
    secret: &SecretKey,
    public: &PublicKey,
    options: &Options,
) -> Result<Value, Failure> {
    let title = || format!("`{}` was not signed", folder.display());
    // A signature that exists is replaced, so it is not checked.
    let builder = builder(options, &[]).signatures(SignaturePolicy::Off);
    let inspected = inspect::plugin(&builder, folder).surveyed;
    if inspected.verified != Some(true) {
        return Err(match inspected.problem {
            Some(problem) => Failure::titled(title(), problem),
            None => Failure::new("integrity", title())
                .because("its manifest states no digest")
                .with_hint(format!("run `hotbay seal {}`", folder.display())),
        });
    }
    let list = inspect::files_to_sign(&builder, folder)
        .map_err(|error| Failure::titled(title(), error))?;
    let text = list.render();
    let signature = signature_of(&list, &text, secret, public)
        .map_err(|error| Failure::new("key", title()).because(error.to_string()))?;
    // The signature last: until then, a host sees that it does not match.
    for (name, text) in [(SIGNED_FILES, &text), (SIGNATURE, &signature)] {
        let path = folder.join(name);
        write_atomically(&path, text.as_bytes(), None)
            .map_err(|error| Failure::io(format!("cannot write `{}`", path.display()), &error))?;
    }
    Ok(json!({
        "name": list.name.as_str(),
        "version": list.version.to_string(),
        "folder": folder.display().to_string(),
        "files": list.files.len(),
        "key_id": trusted(public)?.key_id(),
    }))
}

fn signature_of(
    list: &SignedFiles,
    text: &str,
    secret: &SecretKey,
    public: &PublicKey,
) -> Result<String, minisign::PError> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let comment = format!(
        "timestamp:{seconds}\tfile:{SIGNED_FILES}\tplugin:{}\tversion:{}",
        list.name, list.version
    );
    let signed = minisign::sign(
        Some(public),
        secret,
        Cursor::new(text),
        Some(&comment),
        Some("signature of a plugin, by `hotbay sign`"),
    )?;
    Ok(signed.into_string())
}

/// Returns the key as a host reads it, for its id.
fn trusted(public: &PublicKey) -> Result<TrustedKey, Failure> {
    TrustedKey::new("key", &public.to_base64()).map_err(Failure::from)
}

/// Creates a key pair: `file`, and beside it the public key.
fn new_key(file: &Path, args: &Sign, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let public_file = public_file(file);
    for path in [file, &public_file] {
        if path.symlink_metadata().is_ok() {
            let message = format!("`{}` exists; a key is never replaced", path.display());
            return Err(Failure::new("io", message).with_hint("choose another name"));
        }
    }
    let failed = |error: minisign::PError| {
        Failure::new("key", "cannot create a key").because(error.to_string())
    };
    let keys = match args.no_password {
        true => KeyPair::generate_unencrypted_keypair(),
        false => KeyPair::generate_encrypted_keypair(Some(new_password(args)?)),
    };
    let KeyPair { pk, sk } = keys.map_err(failed)?;
    let secret_text = sk.to_box(Some("secret key of plugins, by `hotbay sign`")).map_err(failed)?;
    let public_text = pk.to_box().map_err(failed)?.into_string();
    create(file, secret_text.into_string().as_bytes(), 0o600)?;
    create(&public_file, public_text.as_bytes(), 0o644)?;
    let (key_id, base64) = (trusted(&pk)?.key_id().to_owned(), pk.to_base64());
    if options.json {
        out.json(&json!({
            "secret_key": file.display().to_string(),
            "public_key_file": public_file.display().to_string(),
            "public_key": base64,
            "key_id": key_id,
            "has_password": !args.no_password,
        }))?;
        return Ok(Status::Success);
    }
    out.line(&format!("secret key  {}", file.display()))?;
    out.line(&format!("public key  {}", public_file.display()))?;
    out.line(&format!("key id      {key_id}"))?;
    out.line(&format!("public_key = \"{base64}\""))?;
    Ok(Status::Success)
}

/// Returns the path of the public key of a secret one: `acme.key` has `acme.pub`, as in minisign.
fn public_file(file: &Path) -> PathBuf {
    match file.extension() {
        Some(extension) if extension == "pub" => file.with_extension("pub.pub"),
        _ => file.with_extension("pub"),
    }
}

/// Writes a new file with this mode.
fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let written = options.open(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| Failure::io(format!("cannot write `{}`", path.display()), &error))
}

fn read_secret_key(file: &Path, args: &Sign) -> Result<SecretKey, Failure> {
    let title = || format!("cannot use the key `{}`", file.display());
    let text = read_text(file)?;
    let invalid = |reason: &str| {
        let hint = "pass the secret key of `hotbay sign --new-key` or of `minisign -G`";
        Failure::new("key", title()).because(reason).with_hint(hint)
    };
    // The bytes begin with the algorithms of the signature and of the protection by a password.
    let bytes = text.lines().nth(1).and_then(|line| STANDARD.decode(line).ok());
    let key = SecretKeyBox::from_string(&text);
    let key = match bytes.as_deref() {
        Some([b'E', b'd', 0, 0, ..]) => key.and_then(SecretKeyBox::into_unencrypted_secret_key),
        Some([b'E', b'd', b'S', b'c', ..]) => {
            let password = existing_password(args)?;
            match key.and_then(|key| key.into_secret_key(Some(password))) {
                // The checksum of the decrypted key differs.
                Err(error) if matches!(error.kind(), minisign::ErrorKind::Verify) => {
                    let failure = Failure::new("key", title()).because("wrong password");
                    return Err(failure.with_hint(format!(
                        "check the password, the file of `--password-file`, or \
                         `{PASSWORD_VARIABLE}`"
                    )));
                }
                key => key,
            }
        }
        _ => return Err(invalid("it is not a secret key of minisign")),
    };
    key.map_err(|error| invalid(&error.to_string()))
}

fn read_text(file: &Path) -> Result<String, Failure> {
    let failed =
        |error: io::Error| Failure::io(format!("cannot read `{}`", file.display()), &error);
    let mut text = String::new();
    let mut opened = fs::File::open(file).map_err(failed)?.take(MAX_KEY_BYTES + 1);
    opened.read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_KEY_BYTES {
        let error = io::Error::other(format!("it has more than {MAX_KEY_BYTES} bytes"));
        return Err(failed(error));
    }
    Ok(text)
}

fn existing_password(args: &Sign) -> Result<String, Failure> {
    match stated_password(args)? {
        Some(password) => Ok(password),
        None => prompt("Password of the key: "),
    }
}

fn new_password(args: &Sign) -> Result<String, Failure> {
    let password = match stated_password(args)? {
        Some(password) => password,
        None => {
            let password = prompt("Password of the new key: ")?;
            if password != prompt("The same password again: ")? {
                return Err(Failure::new("key", "the two passwords differ"));
            }
            password
        }
    };
    match password.is_empty() {
        true => Err(Failure::new("key", "the password is empty")
            .with_hint("pass `--no-password` if the key is to have none")),
        false => Ok(password),
    }
}

/// Returns the password of the file or the variable.
fn stated_password(args: &Sign) -> Result<Option<String>, Failure> {
    if let Some(file) = &args.password_file {
        // Editors end a file with a newline, which does not belong to the password.
        let text = read_text(file)?;
        let text = text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r');
        return Ok(Some(text.to_owned()));
    }
    match std::env::var(PASSWORD_VARIABLE) {
        Ok(password) => Ok(Some(password)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => {
            Err(Failure::new("key", format!("`{PASSWORD_VARIABLE}`")).because(error.to_string()))
        }
    }
}

/// Reads a password from the terminal, without showing it.
fn prompt(text: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        let hint = format!("pass `--password-file FILE`, or set `{PASSWORD_VARIABLE}`");
        return Err(Failure::new("key", "the key needs a password").with_hint(hint));
    }
    rpassword::prompt_password(text)
        .map_err(|error| Failure::io("cannot read the password", &error))
}
