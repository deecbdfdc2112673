//! Loaders without hotbay: for a plugin that does not use hotbay, and for hotbay's own library,
//! step by step, as a careful author would write them.

use std::ffi::c_void;
use std::fs;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{
    CheckingGlobals, check_layout_compatibility_with_globals,
};
use abi_stable::library::{
    AbiHeaderRef, IsLayoutChecked, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL, RootModule,
};
use abi_stable::std_types::{RSlice, RVec};
use anyhow::{Context, bail, ensure};
use bench_raw::{CBytes, EchoBox, RawRootRef};
use hotbay_plugin::ServiceError;
use hotbay_plugin::abi::{
    PluginRootRef, RawInstance, RawServices, RawStart, RawText, Record, ServiceHost, code,
};
use libloading::Library;
use sha2::{Digest, Sha256};

use crate::sample::time;

/// The plugin without hotbay; its library is never closed.
pub(crate) struct RawPlugin {
    object: EchoBox,
    echo: unsafe extern "C" fn(*const u8, usize, *mut CBytes),
    score: extern "C" fn(f64, f64) -> f64,
    length: unsafe extern "C" fn(*const u8, usize) -> u64,
}

impl RawPlugin {
    pub(crate) fn load(file: &Path) -> anyhow::Result<Self> {
        let library = std::mem::ManuallyDrop::new(open(file)?);
        let root: RawRootRef = root_of(header_of(&library)?)?;
        let (echo, score, length) = (root.echo(), root.score(), root.length());
        Ok(Self { object: root.make()(), echo, score, length })
    }

    /// Calls the trait object.
    #[inline]
    pub(crate) fn object(&self, input: &[u8]) -> RVec<u8> {
        self.object.execute(RSlice::from_slice(input))
    }

    /// Adds two numbers by the trait object.
    #[inline]
    pub(crate) fn object_score(&self, a: f64, b: f64) -> f64 {
        self.object.score(a, b)
    }

    /// Adds two numbers by the C function.
    #[inline]
    pub(crate) fn c_score(&self, a: f64, b: f64) -> f64 {
        (self.score)(a, b)
    }

    /// Returns the length of a text, by the C function.
    #[inline]
    pub(crate) fn c_length(&self, text: &str) -> u64 {
        // SAFETY: the function reads the text, as declared by its library.
        unsafe { (self.length)(text.as_ptr(), text.len()) }
    }

    /// Calls the C function.
    #[inline]
    pub(crate) fn c(&self, input: &[u8]) -> CBytes {
        let mut output = MaybeUninit::uninit();
        // SAFETY: the function reads the slice and writes its output, as declared by its library.
        unsafe { (self.echo)(input.as_ptr(), input.len(), output.as_mut_ptr()) };
        // SAFETY: written by the call above.
        unsafe { output.assume_init() }
    }
}

/// The names of the steps timed by [`load_hotbay_library`], in order.
pub(crate) const STEPS: [&str; 6] =
    ["read the file", "SHA-256", "write a private copy", "dlopen", "check the layout", "start"];

/// Loads the library of a hotbay plugin into `copy`, starts and stops it. Returns the nanoseconds
/// of each step, and of the unload: discard, `dlclose`, remove the copy.
pub(crate) fn load_hotbay_library(
    file: &Path,
    copy: &Path,
    expected: &[u8],
) -> anyhow::Result<([f64; STEPS.len()], f64)> {
    let mut steps = [0.0; STEPS.len()];
    let mut step = 0;
    let mut timed = |work: &mut dyn FnMut() -> anyhow::Result<()>| {
        let mut done = Ok(());
        steps[step] = time(|| done = work());
        step += 1;
        done
    };
    let (mut bytes, mut library, mut root) = (Vec::new(), None, None);
    timed(&mut || {
        bytes = fs::read(file)?;
        Ok(())
    })?;
    timed(&mut || {
        ensure!(Sha256::digest(&bytes)[..] == *expected, "digest mismatch");
        Ok(())
    })?;
    timed(&mut || {
        let mut options = fs::OpenOptions::new();
        let mut copy = options.write(true).create_new(true).mode(0o700).open(copy)?;
        Ok(copy.write_all(&bytes)?)
    })?;
    timed(&mut || {
        library = Some(open(copy)?);
        Ok(())
    })?;
    timed(&mut || {
        let library = library.as_ref().context("the library is open")?;
        root = Some(root_of::<PluginRootRef>(header_of(library)?)?);
        Ok(())
    })?;
    let root = root.context("the root module was checked")?;
    let mut instance = std::ptr::null();
    timed(&mut || {
        instance = start(root)?;
        Ok(())
    })?;
    let mut ended = Ok(());
    let back = time(|| ended = end(root, instance, library.take(), copy));
    ended.map(|()| (steps, back))
}

struct Silent;

impl ServiceHost for Silent {
    fn log(_: u64, _: &Record<'_>) -> Result<(), ServiceError> {
        Ok(())
    }

    fn log_level(_: u64) -> u32 {
        0
    }

    fn thread_panicked(_: u64, _: &str, _: &str) -> Result<(), ServiceError> {
        Ok(())
    }
}

fn start(root: PluginRootRef) -> anyhow::Result<RawInstance> {
    let services = RawServices::of::<Silent>(0);
    let start = RawStart {
        config: RawText::new(r#"{"output":"heap"}"#),
        services: &raw const services,
        want_frames: false,
    };
    let mut instance = std::ptr::null();
    let mut fault = MaybeUninit::uninit();
    // SAFETY: the layout was checked, and the pointers are valid until the call returns.
    let code = unsafe { root.start()(&raw const start, &raw mut instance, fault.as_mut_ptr()) };
    ensure!(code == code::OK, "`start` returned {code}");
    Ok(instance)
}

fn end(
    root: PluginRootRef,
    instance: RawInstance,
    library: Option<Library>,
    copy: &Path,
) -> anyhow::Result<()> {
    let mut fault = MaybeUninit::uninit();
    // SAFETY: an instance of this module, discarded once.
    let code = unsafe { root.discard()(instance, fault.as_mut_ptr()) };
    ensure!(code == code::OK, "`discard` returned {code}");
    library.context("the library is open")?.close()?;
    Ok(fs::remove_file(copy)?)
}

#[expect(clippy::disallowed_methods, reason = "the host is compared with this loader")]
pub(crate) fn open(file: &Path) -> anyhow::Result<Library> {
    // SAFETY: a library that was just built for this benchmark.
    Ok(unsafe { Library::new(file) }?)
}

pub(crate) fn header_of(library: &Library) -> anyhow::Result<&'static LibHeader> {
    let name = ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes();
    // SAFETY: only its address is taken here.
    let symbol = unsafe { library.get::<*const c_void>(name) }?;
    // SAFETY: used while the library is open.
    let address = unsafe { symbol.try_as_raw_ptr() }.context("no root module")?;
    // SAFETY: abi_stable exports a header under this name.
    let header = unsafe { std::mem::transmute::<*mut c_void, AbiHeaderRef>(address) };
    Ok(header.upgrade()?)
}

fn root_of<R: RootModule + StableAbi>(header: &'static LibHeader) -> anyhow::Result<R> {
    let IsLayoutChecked::Yes(found) = header.root_mod_consts().layout() else {
        bail!("the header has no layout");
    };
    let globals = CheckingGlobals::new();
    if let Err(errors) = check_layout_compatibility_with_globals(R::LAYOUT, found, &globals) {
        bail!("{errors}");
    }
    // SAFETY: the layout was checked just above.
    Ok(unsafe { header.init_root_module_with_unchecked_layout::<R>() }?)
}
