//! Opens the watched file itself, without a private copy.

use std::fs;
use std::path::Path;

use libloading::Library;

/// Opens a file that may be anything.
pub(crate) fn open(path: &Path) {
    // SAFETY: cannot be known; this is the defect shown here.
    match unsafe { Library::new(path) } {
        Ok(library) => println!("version {}", version(&library)),
        Err(_) => println!("refused"),
    }
}

/// Opens a file, replaces it with a newer one, and opens it again.
pub(crate) fn replaced(path: &Path, newer: &Path) {
    // SAFETY: the fixture belongs to this project and does nothing when opened.
    let before = unsafe { Library::new(path) }.expect("the fixture opens");
    fs::rename(newer, path).expect("both files are in one folder");
    // SAFETY: as above.
    let after = unsafe { Library::new(path) }.expect("the fixture opens");
    println!("version {}", version(&before));
    println!("version {}", version(&after));
}

fn version(library: &Library) -> u32 {
    // SAFETY: the fixtures export a function of this type under this name.
    let function = unsafe { library.get::<extern "C" fn() -> u32>(b"naive_version\0") };
    function.expect("the fixture exports the function")()
}
