//! The watched file itself is opened.

use std::fs;
use std::path::Path;

use libloading::Library;

/// Opens a file that may be anything.
pub(crate) fn open(path: &Path) {
    // SAFETY: there is no way to know; this is the fault that is shown here.
    match unsafe { Library::new(path) } {
        Ok(library) => println!("version {}", version(&library)),
        Err(_) => println!("refused"),
    }
}

/// Opens a file, puts a newer one in its place, and opens it again.
pub(crate) fn replaced(path: &Path, newer: &Path) {
    // SAFETY: the fixture is this project's own and does nothing when it is opened.
    let before = unsafe { Library::new(path) }.expect("the fixture can be opened");
    fs::rename(newer, path).expect("a file of the same folder");
    // SAFETY: as above.
    let after = unsafe { Library::new(path) }.expect("the fixture can be opened");
    println!("version {}", version(&before));
    println!("version {}", version(&after));
}

fn version(library: &Library) -> u32 {
    // SAFETY: the fixtures export a function of this type under this name.
    let function = unsafe { library.get::<extern "C" fn() -> u32>(b"naive_version\0") };
    function.expect("the fixture exports it")()
}
