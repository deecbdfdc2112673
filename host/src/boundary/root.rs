//! The root module of a library: its header, a private check of its layout, its functions. The only
//! file of the host that uses abi_stable.
//!
//! abi_stable's own checker is process-wide, keeps references into every library that it checked,
//! and requires all versions ever loaded to match each other. So each load has its own checker,
//! which is dropped before the library can be closed.

use std::ffi::CStr;
use std::{fmt, ptr};

use hotbay_plugin::Plugin;
use hotbay_plugin::abi::abi_stable::StableAbi;
use hotbay_plugin::abi::abi_stable::abi_stability::abi_checking::{
    AbiInstability, AbiInstabilityErrors, CheckingGlobals, check_layout_compatibility_with_globals,
};
use hotbay_plugin::abi::abi_stable::library::{
    AbiHeaderRef, IsLayoutChecked, LibHeader, LibraryError, ROOT_MODULE_LOADER_NAME_WITH_NUL,
};
use hotbay_plugin::abi::{Exports, PluginRootRef, RawCensus, RawMeasure};
use hotbay_plugin::contract::internal::{
    RawAsyncPlugin, RawContract, RawHostFunctions, StartExecuteFn,
};

use super::Image;
use crate::error::boundary::BoundaryError;

/// The functions of a plugin. Valid while their image is mapped: B1.
#[derive(Clone, Copy)]
pub(crate) struct Root {
    module: PluginRootRef,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").finish_non_exhaustive()
    }
}

impl Root {
    /// Returns the functions of a compiled-in plugin.
    pub(crate) fn compiled_in<T: Plugin>() -> Self {
        Self { module: <Exports<T, true>>::ROOT }
    }

    /// Finds the root module of a library and checks its layout.
    pub(crate) fn of(image: &Image) -> Result<Self, BoundaryError> {
        let header = header_of(image)?;
        check_layout(header)?;
        // SAFETY: the layout was checked just above.
        let module = unsafe { header.init_root_module_with_unchecked_layout::<PluginRootRef>() };
        let module = module.map_err(|error| BoundaryError::Root(first_line(&error)))?;
        Ok(Self { module })
    }

    /// Returns the module, for the calls of `invoke`.
    #[inline]
    pub(super) fn module(self) -> PluginRootRef {
        self.module
    }

    /// Counts the resources that the library holds. The image is still mapped (B1).
    pub(crate) fn census(self) -> RawCensus {
        let mut census = RawCensus::default();
        // SAFETY: B3, B5.
        unsafe { self.module.census()(&raw mut census) };
        census
    }

    /// Returns the functions that measure calls, if the library counts bytes. Libraries that were
    /// built before API 1.2 have none.
    pub(crate) fn call_meter(self) -> Option<CallMeter> {
        let (begin, end) = (self.module.begin_call()?, self.module.end_call()?);
        self.census().counts_bytes.then_some(CallMeter { begin, end })
    }

    /// Returns the tables of the library's contracts; none if it was built before API 1.1.
    pub(crate) fn contracts(self) -> &'static [RawContract] {
        let Some(contracts) = self.module.contracts() else { return &[] };
        let mut count = 0;
        // SAFETY: B3, B5.
        let first = unsafe { contracts(&raw mut count) };
        if first.is_null() {
            return &[];
        }
        // SAFETY: B3 (the function returns the address of so many tables), B1.
        unsafe { std::slice::from_raw_parts(first.cast(), count) }
    }

    /// Passes the functions by which the plugin calls contracts; ignored by libraries that were built
    /// before API 1.2.
    pub(crate) fn connect(self, functions: &'static RawHostFunctions) {
        if let Some(connect) = self.module.connect() {
            // SAFETY: B3, B5.
            unsafe { connect(ptr::from_ref(functions).cast()) };
        }
    }

    /// Returns the function that starts a call as a task, if it is an async plugin.
    pub(crate) fn start_execute(self) -> Option<StartExecuteFn> {
        let functions = self.module.async_functions()?;
        // SAFETY: B3.
        let functions = unsafe { functions() }.cast::<RawAsyncPlugin>();
        // SAFETY: B3 (the function returns null or the address of that struct), B1.
        unsafe { functions.as_ref() }.map(|functions| functions.start)
    }

    /// Deletes the library's thread keys, right before it is closed.
    pub(crate) fn release_keys(self) {
        // SAFETY: B3.
        unsafe { self.module.release_keys()() };
    }
}

/// The functions of a library that measure the memory of calls. Valid while its image is mapped: B1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallMeter {
    begin: unsafe extern "C" fn(*mut RawMeasure),
    end: unsafe extern "C" fn(*const RawMeasure) -> i64,
}

impl CallMeter {
    /// Runs `call`, and returns the most bytes that it held at once on this thread. The caller holds a
    /// lease.
    pub(crate) fn measure<T>(self, call: impl FnOnce() -> T) -> (T, u64) {
        let mut measure = RawMeasure::default();
        // SAFETY: B1, B3, B5.
        unsafe { (self.begin)(&raw mut measure) };
        let result = call();
        // SAFETY: B1, B3, B5.
        let peak = unsafe { (self.end)(&raw const measure) };
        (result, u64::try_from(peak).unwrap_or(0))
    }
}

fn header_of(image: &Image) -> Result<&'static LibHeader, BoundaryError> {
    let name = CStr::from_bytes_with_nul(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes());
    let symbol = name.ok().and_then(|name| image.symbol(name)).ok_or(BoundaryError::NoRoot)?;
    // SAFETY: in every version of abi_stable, the symbol of this name is an `AbiHeader`, and
    // `AbiHeaderRef` is a reference to it. The image outlives the use (B1).
    let header = unsafe { std::mem::transmute::<*const std::ffi::c_void, AbiHeaderRef>(symbol) };
    header.upgrade().map_err(|error| BoundaryError::Header(first_line(&error)))
}

fn check_layout(header: &LibHeader) -> Result<(), BoundaryError> {
    let IsLayoutChecked::Yes(found) = header.root_mod_consts().layout() else {
        return Err(BoundaryError::Layout {
            summary: "it has no layout information".to_owned(),
            report: String::new(),
        });
    };
    let expected = <PluginRootRef as StableAbi>::LAYOUT;
    let check =
        |one, other| check_layout_compatibility_with_globals(one, other, &CheckingGlobals::new());
    // An older library has fewer functions at the end: then the host's layout extends that of the
    // library. The module states how many it has, and a missing one is `None`.
    let checked = match check(expected, found) {
        Err(errors) if check(found, expected).is_err() => Err(errors),
        _ => Ok(()),
    };
    checked.map_err(|errors| {
        // Formatted here, since the errors point into the library.
        BoundaryError::Layout { summary: summary_of(&errors), report: errors.to_string() }
    })
}

/// Formats the first difference in one line.
fn summary_of(errors: &AbiInstabilityErrors) -> String {
    let count: usize = errors.errors.iter().map(|error| error.errs.len()).sum();
    let first = errors.errors.iter().flat_map(|error| error.errs.iter()).next();
    let first = match first {
        Some(AbiInstability::FieldCountMismatch(count)) => {
            format!("found {} fields, expected {}", count.found, count.expected)
        }
        Some(AbiInstability::Size(size)) => {
            format!("found a size of {} bytes, expected {}", size.found, size.expected)
        }
        Some(AbiInstability::MismatchedPrefixSize(size)) => {
            format!("found {} required fields, expected {}", size.found, size.expected)
        }
        Some(AbiInstability::UnexpectedField(field)) => {
            format!(
                "found the field `{}`, expected `{}`",
                field.found.name(),
                field.expected.name()
            )
        }
        Some(AbiInstability::Name(name)) => {
            format!("found the type `{}`, expected `{}`", name.found.name(), name.expected.name())
        }
        Some(AbiInstability::Package(package)) => {
            format!(
                "found a type of the crate `{}`, expected one of `{}`",
                package.found, package.expected
            )
        }
        _ => "a type differs".to_owned(),
    };
    match count {
        0 | 1 => first,
        2 => format!("{first}, and 1 more difference"),
        _ => format!("{first}, and {} more differences", count - 1),
    }
}

/// Returns the first line of a message of abi_stable.
fn first_line(error: &LibraryError) -> String {
    let text = error.to_string();
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no message").to_owned()
}
