//! The root module of a library: its header, a private check of its layout, its functions.
//! The one file of the host that names abi_stable.
//!
//! The library's own checker is process-wide, keeps references into every library it saw, and
//! makes all versions ever loaded agree with each other. So each load has a checker of its own
//! that is dropped before the library can be closed.

use std::ffi::CStr;
use std::fmt;

use hotbay_plugin::Plugin;
use hotbay_plugin::abi::abi_stable::StableAbi;
use hotbay_plugin::abi::abi_stable::abi_stability::abi_checking::{
    AbiInstability, AbiInstabilityErrors, CheckingGlobals, check_layout_compatibility_with_globals,
};
use hotbay_plugin::abi::abi_stable::library::{
    AbiHeaderRef, IsLayoutChecked, LibHeader, LibraryError, ROOT_MODULE_LOADER_NAME_WITH_NUL,
};
use hotbay_plugin::abi::{Exports, PluginRootRef, RawCensus};

use super::Image;
use crate::error::boundary::BoundaryError;

/// The functions of a plugin. Valid as long as the image they lie in is mapped: B1.
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
    /// The functions of a plugin that is compiled in.
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

    /// The module itself, for the calls of this room.
    #[inline]
    pub(super) fn module(self) -> PluginRootRef {
        self.module
    }

    /// Counts what the library holds. The image is still mapped (B1).
    pub(crate) fn census(self) -> RawCensus {
        let mut census = RawCensus::default();
        // SAFETY: B3, B5.
        unsafe { self.module.census()(&raw mut census) };
        census
    }

    /// Gives back the library's thread keys, right before it is closed.
    pub(crate) fn release_keys(self) {
        // SAFETY: B3.
        unsafe { self.module.release_keys()() };
    }
}

fn header_of(image: &Image) -> Result<&'static LibHeader, BoundaryError> {
    let name = CStr::from_bytes_with_nul(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes());
    let symbol = name.ok().and_then(|name| image.symbol(name)).ok_or(BoundaryError::NoRoot)?;
    // SAFETY: abi_stable's name stands for an `AbiHeader` in every version of it, and a
    // reference to that is what `AbiHeaderRef` is. The image outlives the use (B1).
    let header = unsafe { std::mem::transmute::<*const std::ffi::c_void, AbiHeaderRef>(symbol) };
    header.upgrade().map_err(|error| BoundaryError::Header(first_line(&error)))
}

fn check_layout(header: &LibHeader) -> Result<(), BoundaryError> {
    let IsLayoutChecked::Yes(found) = header.root_mod_consts().layout() else {
        return Err(BoundaryError::Layout {
            summary: "it tells no layout".to_owned(),
            report: String::new(),
        });
    };
    let wanted = <PluginRootRef as StableAbi>::LAYOUT;
    let checker = CheckingGlobals::new();
    check_layout_compatibility_with_globals(wanted, found, &checker).map_err(|errors| {
        // Made into text here: the errors point into the library.
        BoundaryError::Layout { summary: summary_of(&errors), report: errors.to_string() }
    })
}

/// The first difference, in a line.
fn summary_of(errors: &AbiInstabilityErrors) -> String {
    let count: usize = errors.errors.iter().map(|error| error.errs.len()).sum();
    let first = errors.errors.iter().flat_map(|error| error.errs.iter()).next();
    let first = match first {
        Some(AbiInstability::FieldCountMismatch(count)) => {
            format!("found {} fields, wanted {}", count.found, count.expected)
        }
        Some(AbiInstability::Size(size)) => {
            format!("found a size of {} bytes, wanted {}", size.found, size.expected)
        }
        Some(AbiInstability::MismatchedPrefixSize(size)) => {
            format!("found {} fields that every version has, wanted {}", size.found, size.expected)
        }
        Some(AbiInstability::UnexpectedField(field)) => {
            format!("found the field `{}`, wanted `{}`", field.found.name(), field.expected.name())
        }
        Some(AbiInstability::Name(name)) => {
            format!("found the type `{}`, wanted `{}`", name.found.name(), name.expected.name())
        }
        Some(AbiInstability::Package(package)) => {
            format!("found a type of `{}`, wanted one of `{}`", package.found, package.expected)
        }
        _ => "a type differs".to_owned(),
    };
    match count {
        0 | 1 => first,
        _ => format!("{first}, and {} more differences", count - 1),
    }
}

/// abi_stable's messages go over many lines.
fn first_line(error: &LibraryError) -> String {
    let text = error.to_string();
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no message").to_owned()
}
