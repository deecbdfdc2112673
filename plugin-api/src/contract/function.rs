//! The C function that serves a method. Its arguments are passed one by one, so numbers and pointers
//! are in registers.

use std::ffi::c_void;
use std::mem;

use super::argument::{Argument, Arguments};
use super::form::Form;
use super::method::{Failed, MethodError, OutputForm, RawResult, Serves, run_guarded};
use super::table::DirectFn;
use crate::context::{RawContext, in_optional_context};
use crate::root::{RawFault, RawInstance};

/// A call of a C function: everything but its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a> {
    /// The function, which is in the table of the caller's method.
    pub function: DirectFn,
    /// The instance.
    pub instance: RawInstance,
    /// `None` for a call without a deadline, cancellation and trace.
    pub context: Option<&'a RawContext<'a>>,
    /// Where the fault is written if the function does not return zero.
    pub fault: *mut RawFault,
}

/// Arguments that are passed to a C function.
pub trait Passed: Arguments {
    /// Calls the function, and returns its code. The result is written if that is zero.
    ///
    /// # Safety
    ///
    /// The function serves a method with these types of arguments and with the type of `result`, and
    /// the pointers are valid for it: M1 and M2 of `method.rs`.
    unsafe fn pass(call: Invocation<'_>, arguments: Self::Raw, result: *mut c_void) -> i32;
}

/// Arguments of the method `M` of the plugin type `T`. `LINKED` is `true` if that is compiled into the
/// host.
pub trait PassedTo<T, M, const LINKED: bool>: Passed {
    /// The function that serves the method.
    const FUNCTION: DirectFn;
}

macro_rules! list {
    () => { () };
    ($first:ident $($rest:ident)*) => { ($first, list!($($rest)*)) };
}

macro_rules! function {
    ($($kind:ident),*) => {
        unsafe extern "C" fn(
            RawInstance,
            Option<&RawContext<'_>>,
            $($kind::Raw,)*
            *mut c_void,
            *mut RawFault,
        ) -> i32
    };
}

macro_rules! passed {
    ($($kind:ident $raw:ident $value:ident $space:ident),*) => {
        impl<$($kind: Argument),*> Passed for list!($($kind)*) {
            #[inline(always)]
            unsafe fn pass(call: Invocation<'_>, arguments: Self::Raw, result: *mut c_void) -> i32 {
                let list!($($raw)*) = arguments;
                let Invocation { function, instance, context, fault } = call;
                // SAFETY: the type that `FUNCTION` has for these arguments (M2).
                let function = unsafe { mem::transmute::<DirectFn, function!($($kind),*)>(function) };
                // SAFETY: M1, M2.
                unsafe { function(instance, context, $($raw,)* result, fault) }
            }
        }

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

passed!();
passed!(A a a_value a_space);
passed!(A a a_value a_space, B b b_value b_space);
passed!(A a a_value a_space, B b b_value b_space, C c c_value c_space);
passed!(A a a_value a_space, B b b_value b_space, C c c_value c_space, D d d_value d_space);
passed!(A a a_value a_space, B b b_value b_space, C c c_value c_space, D d d_value d_space, E e e_value e_space);
passed!(A a a_value a_space, B b b_value b_space, C c c_value c_space, D d d_value d_space, E e e_value e_space, F f f_value f_space);
passed!(A a a_value a_space, B b b_value b_space, C c c_value c_space, D d d_value d_space, E e e_value e_space, F f f_value f_space, G g g_value g_space);
passed!(A a a_value a_space, B b b_value b_space, C c c_value c_space, D d d_value d_space, E e e_value e_space, F f f_value f_space, G g g_value g_space, H h h_value h_space);
passed!(A a a_value a_space, B b b_value b_space, C c c_value c_space, D d d_value d_space, E e e_value e_space, F f f_value f_space, G g g_value g_space, H h h_value h_space, I i i_value i_space);
passed!(A a a_value a_space, B b b_value b_space, C c c_value c_space, D d d_value d_space, E e e_value e_space, F f f_value f_space, G g g_value g_space, H h h_value h_space, I i i_value i_space, J j j_value j_space);
passed!(A a a_value a_space, B b b_value b_space, C c c_value c_space, D d d_value d_space, E e e_value e_space, F f f_value f_space, G g g_value g_space, H h h_value h_space, I i i_value i_space, J j j_value j_space, K k k_value k_space);
passed!(A a a_value a_space, B b b_value b_space, C c c_value c_space, D d d_value d_space, E e e_value e_space, F f f_value f_space, G g g_value g_space, H h h_value h_space, I i i_value i_space, J j j_value j_space, K k k_value k_space, L l l_value l_space);
