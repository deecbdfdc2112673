//! Calls of the C function of a method. Its arguments are passed one by one, so numbers and pointers
//! are in registers.

use std::ffi::c_void;
use std::mem;

use super::argument::{Argument, Arguments};
use super::table::DirectFn;
use crate::context::RawContext;
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
    ($($kind:ident $raw:ident $value:ident $space:ident,)*) => {
        impl<$($kind: Argument),*> Passed for list!($($kind)*) {
            #[inline(always)]
            unsafe fn pass(call: Invocation<'_>, arguments: Self::Raw, result: *mut c_void) -> i32 {
                let list!($($raw)*) = arguments;
                let Invocation { function, instance, context, fault } = call;
                // SAFETY: M2 (the type that the function was made of, in `method_direct.rs`).
                let function = unsafe { mem::transmute::<DirectFn, function!($($kind),*)>(function) };
                // SAFETY: M1, M2.
                unsafe { function(instance, context, $($raw,)* result, fault) }
            }
        }
    };
}

/// Expands a macro for each number of arguments that a method may have. For each argument, it gets the
/// names of its kind, of the argument as it crosses, of its value, and of the space for that.
macro_rules! for_each_arity {
    ($with:ident) => {
        for_each_arity! {
            $with []
            [A a a_value a_space]
            [B b b_value b_space]
            [C c c_value c_space]
            [D d d_value d_space]
            [E e e_value e_space]
            [F f f_value f_space]
            [G g g_value g_space]
            [H h h_value h_space]
            [I i i_value i_space]
            [J j j_value j_space]
            [K k k_value k_space]
            [L l l_value l_space]
        }
    };
    ($with:ident [$($done:tt)*]) => { $with!($($done)*); };
    ($with:ident [$($done:tt)*] [$($next:ident)*] $($rest:tt)*) => {
        $with!($($done)*);
        for_each_arity! { $with [$($done)* $($next)*,] $($rest)* }
    };
}

for_each_arity!(passed);

pub(super) use {for_each_arity, function, list};
