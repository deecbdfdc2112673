//! The C functions that serve methods with arguments as they are.

use std::ffi::c_void;
use std::mem;

use super::argument::Argument;
use super::form::Form;
use super::function::{Passed, for_each_arity, function, list};
use super::method::{Failed, MethodError, OutputForm, RawResult, Serves, run_guarded, serialized};
use super::table::{DirectFn, RawMethod, RawStr};
use crate::context::{RawContext, in_optional_context};
use crate::root::{RawFault, RawInstance};

/// Returns the entry of a method that the plugin type `T` serves. `LINKED` is `true` if it is
/// compiled into the host.
pub const fn entry<T: 'static, M: Serves<T>, const LINKED: bool>() -> RawMethod
where
    M::Arguments: PassedTo<T, M, LINKED>,
{
    RawMethod {
        name: RawStr::new(M::SHAPE.name),
        hash: M::SHAPE.hash(),
        direct: Some(<M::Arguments as PassedTo<T, M, LINKED>>::FUNCTION),
        serialized: Some(serialized::<T, M, LINKED>),
        start: None,
        open: None,
    }
}

/// Arguments of the method `M` of the plugin type `T`. `LINKED` is `true` if that is compiled into the
/// host.
pub trait PassedTo<T, M, const LINKED: bool>: Passed {
    /// The function that serves the method.
    const FUNCTION: DirectFn;
}

macro_rules! passed_to {
    ($($kind:ident $raw:ident $value:ident $space:ident,)*) => {
        impl<T, M, const LINKED: bool, $($kind: Argument),*> PassedTo<T, M, LINKED>
            for list!($($kind)*)
        where
            T: 'static,
            M: Serves<T, Arguments = Self>,
        {
            const FUNCTION: DirectFn = {
                #[allow(clippy::too_many_arguments, reason = "up to 12 of the method")]
                unsafe extern "C" fn serve<T, M, const LINKED: bool, $($kind: Argument),*>(
                    instance: RawInstance,
                    context: Option<&RawContext<'_>>,
                    $($raw: $kind::Raw,)*
                    result: *mut c_void,
                    fault: *mut RawFault,
                ) -> i32
                where
                    M: Serves<T, Arguments = list!($($kind)*)>,
                {
                    #[allow(unused_variables, reason = "without arguments, nothing fails before")]
                    let serve = |failed: &mut Failed| {
                        // SAFETY: M1.
                        let target = unsafe { &*instance.cast::<T>() };
                        $(let mut $space = None;)*
                        $(
                            // SAFETY: M2 (F1 and F2 of `form.rs`).
                            let $value = unsafe { $kind::lift(&$raw, &mut $space) };
                            let $value =
                                $value.map_err(|error| failed.with(Failed::Arguments, &error))?;
                        )*
                        let arguments = list!($($value)*);
                        let output = in_optional_context(context, || M::call(target, arguments))
                            .map_err(M::Error::into_plugin_error)?;
                        let raw = OutputForm::<M>::lower_result(output);
                        let raw = raw.map_err(|error| failed.with(Failed::Result, &error))?;
                        // SAFETY: M2.
                        unsafe { result.cast::<RawResult<M>>().write(raw) };
                        Ok(())
                    };
                    // SAFETY: M2.
                    unsafe { run_guarded::<LINKED>(serve, fault) }
                }
                let function: function!($($kind),*) = serve::<T, M, LINKED, $($kind),*>;
                // SAFETY: only `pass` calls it, which gives it this type again.
                unsafe { mem::transmute::<function!($($kind),*), DirectFn>(function) }
            };
        }
    };
}

for_each_arity!(passed_to);
