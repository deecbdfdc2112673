//! Compares a contract with a file in its crate, so that no breaking change goes unnoticed.

use std::path::Path;
use std::{env, fs, io};

use super::changes::compare;
use super::proxy::Contract;
use super::text::ContractText;

/// The variable that makes [`check_golden`] write the file.
const UPDATE: &str = "UPDATE_CONTRACTS";

/// Checks that a contract is the one in a file, for a unit test in the contract's crate. Cargo runs
/// tests in the folder of their package.
///
/// The file has the text of the contract, as `hotbay contract show` prints it. With the environment
/// variable `UPDATE_CONTRACTS=1`, it is created or updated if the change is allowed: a change that
/// breaks hosts or plugins of the old version needs a higher major number.
///
/// # Panics
///
/// Panics if the contract has a change that is not allowed, or that the file does not have yet, and
/// if the file is missing, invalid, or cannot be written. The message lists the changes, and says what
/// to do.
///
/// ```
/// # use hotbay_plugin::contract::CallError;
/// #[hotbay_plugin::contract(name = "text-analysis", version = "1.0")]
/// pub trait TextAnalysis {
///     fn words(&self, text: &str) -> Result<u64, CallError>;
/// }
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("text-analysis.txt");
/// # std::fs::write(&path, "contract text-analysis 1.0\nfn words(text: string) -> u64\n")?;
/// hotbay_plugin::contract::check_golden::<dyn TextAnalysis>(path);
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn check_golden<C: Contract + ?Sized>(path: impl AsRef<Path>) {
    let update = env::var_os(UPDATE).is_some_and(|value| value != "0" && !value.is_empty());
    if let Err(message) = check(&C::DESCRIPTION.text(), path.as_ref(), update) {
        panic!("{message}");
    }
}

fn check(text: &str, path: &Path, update: bool) -> Result<(), String> {
    let shown = path.display();
    let new =
        ContractText::parse(text).map_err(|error| format!("text of the contract: {error}"))?;
    let [new] = new.as_slice() else { return Err("the contract has no text".to_owned()) };
    let golden = match fs::read_to_string(path) {
        Ok(golden) => golden,
        Err(error) if error.kind() == io::ErrorKind::NotFound && update => {
            return write(path, new);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = &new.name;
            return Err(format!(
                "`{shown}` not found: create it with `{UPDATE}=1 cargo test`, so that changes of \
                 contract `{name}` are checked"
            ));
        }
        Err(error) => return Err(format!("cannot read `{shown}`: {error}")),
    };
    let old =
        ContractText::parse(&golden).map_err(|error| format!("invalid `{shown}`: {error}"))?;
    let [old] = old.as_slice() else {
        return Err(format!("invalid `{shown}`: found {} contracts, expected one", old.len()));
    };
    let name = &new.name;
    if old.name != *name {
        return Err(format!("`{shown}` has contract `{}`, expected `{name}`", old.name));
    }
    if old == new {
        return Ok(());
    }
    let changes = compare(old, new);
    let versions = format!("from version {} to {}", changes.old, changes.new);
    if !changes.are_allowed() {
        let major = old.version.major.saturating_add(1);
        return Err(format!(
            "contract `{name}` has breaking changes {versions}:\n{changes}\n\
             revert them, or set the version to \"{major}.0\"; if the version in `{shown}` was \
             never released, delete the file and run `{UPDATE}=1 cargo test`"
        ));
    }
    if update {
        return write(path, new);
    }
    let list = if changes.methods.is_empty() { String::new() } else { format!(":\n{changes}") };
    Err(format!(
        "contract `{name}` changed {versions}{list}\n\
         run `{UPDATE}=1 cargo test` to update `{shown}`"
    ))
}

fn write(path: &Path, contract: &ContractText) -> Result<(), String> {
    let create = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, contract.to_string())
    };
    create().map_err(|error| format!("cannot write `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "contract a 1.0\nfn f(n: u32) -> u64\n";

    /// Checks `new` against the file with `OLD`. Returns the message, and what the file then has.
    fn checked(new: &str, update: bool) -> (Option<String>, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        fs::write(&path, OLD).expect("written");
        let message = check(new, &path, update).err();
        let message = message.map(|it| it.replace(&folder.path().display().to_string(), "DIR"));
        (message, fs::read_to_string(path).expect("read"))
    }

    #[test]
    fn unchanged_contract_passes() {
        for update in [false, true] {
            assert_eq!(checked(OLD, update), (None, OLD.to_owned()));
        }
    }

    #[test]
    fn missing_file_is_created_on_request() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("contracts/a.txt");
        let message = check(OLD, &path, false).expect_err("no file");
        assert!(message.contains("not found: create it with `UPDATE_CONTRACTS=1"), "{message}");
        assert!(!path.exists());
        assert_eq!(check(OLD, &path, true), Ok(()));
        assert_eq!(fs::read_to_string(path).expect("read"), OLD);
    }

    #[test]
    fn compatible_change_fails_until_the_file_is_updated() {
        let new = "contract a 1.1\nfn f(n: u32) -> u64\n#since 1.1 fn g() -> unit\n";
        let expected = "contract `a` changed from version 1.0 to 1.1:\n\
                        added       g\n  \
                        new: #since 1.1 fn g() -> unit\n\
                        run `UPDATE_CONTRACTS=1 cargo test` to update `DIR/a.txt`";
        let (message, file) = checked(new, false);
        assert_eq!((message.as_deref(), file.as_str()), (Some(expected), OLD));
        assert_eq!(checked(new, true), (None, new.to_owned()));
    }

    #[test]
    fn breaking_change_needs_a_higher_major_version() {
        let new = "contract a 1.1\nfn f(n: string) -> u64\n";
        for update in [false, true] {
            let (message, file) = checked(new, update);
            let message = message.expect("breaking");
            assert!(message.starts_with("contract `a` has breaking changes"), "{message}");
            assert!(message.contains("set the version to \"2.0\""), "{message}");
            assert_eq!(file, OLD);
        }
        let new = new.replace("1.1", "2.0");
        let (message, _) = checked(&new, false);
        assert!(message.expect("not updated").contains("to update `DIR/a.txt`"));
        assert_eq!(checked(&new, true), (None, new));
    }

    #[test]
    fn invalid_file_is_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        let two = format!("{OLD}contract b 1.0\n");
        for (text, expected) in [
            ("contract", "line 1, column 1: expected `contract`"),
            ("", "found 0 contracts, expected one"),
            (&two, "found 2 contracts, expected one"),
            ("contract b 1.0", "has contract `b`, expected `a`"),
        ] {
            fs::write(&path, text).expect("written");
            let message = check(OLD, &path, true).expect_err("invalid");
            assert!(message.contains(expected), "{message}");
        }
    }
}
