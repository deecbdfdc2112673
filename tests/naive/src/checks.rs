//! Several builds of one plugin, checked and loaded by abi_stable alone.

use std::path::Path;

use abi_stable::library::{RawLibrary, RootModule, lib_header_from_raw_library};
use hotbay_naive::RootRef;

/// Opens, checks and calls each library, and keeps it or closes it before the next.
pub(crate) fn one_after_the_other(paths: &[&str], keep: bool) {
    for path in paths {
        let library = RawLibrary::load_at(Path::new(path)).expect("the fixture opens");
        // SAFETY: the header is not used after the library is closed. The checker of abi_stable
        // keeps references into it nevertheless, which is the defect shown here.
        let header = unsafe { lib_header_from_raw_library(&library) }.expect("a header");
        match header.init_root_module::<RootRef>() {
            Ok(module) => println!("version {}", module.version()()),
            Err(_) => println!("refused"),
        }
        if keep {
            std::mem::forget(library);
        }
    }
}

/// Loads each path as the documentation of abi_stable says, and prints the results.
pub(crate) fn load_from_file(paths: &[&str]) {
    for path in paths {
        match RootRef::load_from_file(Path::new(path)) {
            Ok(module) => println!("version {}", module.version()()),
            Err(_) => println!("refused"),
        }
    }
}
