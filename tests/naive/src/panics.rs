//! Panics of a plugin, in a host that does not expect them or handles them only on its own side.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use abi_stable::library::RootModule;
use hotbay_naive::RootRef;
use libloading::Library;

/// Lets a panic leave the library through a function that must not unwind.
pub(crate) fn out_of_c(library: &Path) {
    println!("answered {}", call(&open(library), b"panic_out_of_c\0"));
}

/// Lets a panic leave the library through a function that may unwind, and catches it in the host.
pub(crate) fn into_host(library: &Path) {
    let library = open(library);
    // SAFETY: the fixture exports a function of this type under this name.
    let function = unsafe { library.get::<extern "C-unwind" fn() -> u32>(b"panic_into_host\0") };
    let function = *function.expect("the fixture exports the function");
    println!("caught: {}", catch_unwind(|| function()).is_err());
}

/// Calls a method of an abi_stable trait object that panics.
pub(crate) fn in_object(library: &Path) {
    let module = RootRef::load_from_file(library).expect("the fixture loads");
    let greeter = module.greeter()();
    let greeted = catch_unwind(std::panic::AssertUnwindSafe(|| greeter.greet()));
    println!("caught: {}", greeted.is_err());
}

/// Closes a library whose plugin caught its own panic, which its std has printed.
pub(crate) fn printed(library: &Path) {
    // Mappings are listed under the real path.
    let path = library.canonicalize().expect("the fixture exists");
    let library = open(&path);
    println!("answered {}", call(&library, b"panic_caught\0"));
    library.close().expect("the library closes");
    println!("mappings: {}", mappings_of(&path));
}

/// Calls a plugin that catches its own panic and drops the payload, which panics again.
pub(crate) fn payload(library: &Path) {
    println!("answered {}", call(&open(library), b"panic_in_payload\0"));
}

fn open(path: &Path) -> Library {
    // SAFETY: the fixture belongs to this project and does nothing when opened.
    unsafe { Library::new(path) }.expect("the fixture opens")
}

fn call(library: &Library, name: &[u8]) -> u32 {
    // SAFETY: the fixture exports functions of this type under the names used above.
    let function = unsafe { library.get::<extern "C" fn() -> u32>(name) };
    function.expect("the fixture exports the function")()
}

fn mappings_of(path: &Path) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").expect("`/proc/self/maps` is readable");
    let path = path.to_str().expect("the path is UTF-8");
    maps.lines().filter(|line| line.contains(path)).count()
}
