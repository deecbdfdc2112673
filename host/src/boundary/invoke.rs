//! Calls into a plugin, one function each: passes arguments, decodes the code and the fault.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use hotbay_plugin::abi::{
    OutputSlot, RawBuffer, RawContext, RawFault, RawInstance, RawPayload, RawServices, RawSnapshot,
    RawStart, RawText, code, into_instance,
};
use hotbay_plugin::contract::Format;
use hotbay_plugin::contract::internal::{
    DirectFn, Invocation, LoweredCall, Method, MethodCall, OpenFn, RawCompletion, RawStream,
    RawTask, SerializedFn, StartExecuteFn, StartFn, TypedResult, code as contract_code,
};
use hotbay_plugin::{Output, OwnedPayload, Plugin, Snapshot};

use super::{Contracts, Image, Root};
use crate::call::Failure;
use crate::sync::ShardedCounter;

type ExecuteFn = unsafe extern "C" fn(
    RawInstance,
    *const RawContext<'_>,
    *const RawPayload<'_>,
    *mut Output,
    *mut RawFault,
) -> i32;

/// A started plugin.
#[derive(Debug)]
pub(crate) struct Instance {
    // Kept here so that a call needs no lookup.
    execute: ExecuteFn,
    outputs: &'static ShardedCounter,
    /// Null once it was stopped: B4.
    raw: RawInstance,
    root: Root,
    // Dropped last: B1.
    image: Arc<Image>,
}

// SAFETY: a plugin is `Send + Sync` (the trait requires it), and so is the image.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

/// Validates a configuration with the plugin's own code.
pub(crate) fn validate_config(root: Root, config: &str) -> Result<(), Failure> {
    let check = root.module().validate_config();
    // SAFETY: B3, B5.
    decode(|fault| unsafe { check(RawText::new(config), fault) })
}

impl Instance {
    /// Starts a plugin with `root`, whose functions are in `image`.
    pub(crate) fn start(
        image: Arc<Image>,
        root: Root,
        config: &str,
        services: &RawServices,
        capture_panic_backtrace: bool,
    ) -> Result<Self, Failure> {
        let arguments = RawStart {
            config: RawText::new(config),
            services,
            want_frames: capture_panic_backtrace,
        };
        let mut raw = ptr::null();
        let start = root.module().start();
        // SAFETY: B3, B5.
        decode(|fault| unsafe { start(&raw const arguments, &raw mut raw, fault) })?;
        let (execute, outputs) = (root.module().execute(), image.outputs());
        Ok(Self { execute, outputs, raw, root, image })
    }

    /// Returns the instance of a compiled-in plugin, which serves these contracts.
    pub(crate) fn compiled_in<T: Plugin>(plugin: T, contracts: Contracts) -> Self {
        hotbay_plugin::abi::PanicRecords::install();
        let root = Root::compiled_in::<T>();
        let execute = root.module().execute();
        let raw = into_instance(plugin);
        let image = Arc::new(Image::compiled_in(contracts));
        Self { execute, outputs: image.outputs(), raw, root, image }
    }

    /// Returns the image of the plugin's code.
    #[inline]
    pub(crate) fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Returns the counter of the image's live outputs.
    #[inline]
    pub(crate) fn outputs(&self) -> &'static ShardedCounter {
        self.outputs
    }

    /// Returns the functions of the plugin's library.
    pub(crate) fn root(&self) -> Root {
        self.root
    }

    /// Runs a call on this thread and overwrites `output`, which is empty before. A failure goes
    /// through `fail`, so that the good path never makes a value of it.
    #[inline(always)]
    pub(crate) fn execute<E>(
        &self,
        context: &RawContext<'_>,
        input: &RawPayload<'_>,
        output: &mut OutputSlot,
        fail: impl FnOnce(Failure) -> E,
    ) -> Result<(), E> {
        let mut fault = MaybeUninit::<RawFault>::uninit();
        // SAFETY: B3, B4, B5 (the overwritten value is not dropped; at worst it leaks).
        let code = unsafe {
            (self.execute)(self.raw, context, input, output.as_mut_ptr(), fault.as_mut_ptr())
        };
        if code == code::OK {
            // SAFETY: B5 (the code says so).
            unsafe { output.set_written() };
            return Ok(());
        }
        // SAFETY: B5 (the code says that the fault was written).
        Err(fail(unsafe { failure(code, fault) }))
    }

    /// Calls a method with arguments as they are, without a deadline, cancellation and trace. Does not
    /// unwind, so a lease around it needs no memory.
    #[inline(always)]
    #[allow(clippy::result_large_err, reason = "inlined, so only a failed call moves it")]
    pub(crate) fn call_typed<M: Method>(
        &self,
        function: DirectFn,
        call: LoweredCall<'_, M>,
    ) -> Result<TypedResult<M>, MethodFault> {
        let mut fault = MaybeUninit::uninit();
        let invocation = self.invocation(function, None, &mut fault);
        // SAFETY: B4, B5, K1, K2.
        let result = unsafe { call.invoke(invocation) };
        result.map_err(|code| MethodFault { code, fault })
    }

    /// Calls a method with arguments as they are.
    pub(crate) fn call_method(
        &self,
        function: DirectFn,
        context: &RawContext<'_>,
        call: &MethodCall<'_>,
    ) -> Result<(), Failure> {
        let mut fault = MaybeUninit::uninit();
        let invocation = self.invocation(function, Some(context), &mut fault);
        // SAFETY: B4, B5, K1, K2.
        match unsafe { call.invoke(invocation) } {
            code::OK => Ok(()),
            // SAFETY: B5.
            code => Err(unsafe { method_failure(code, fault) }),
        }
    }

    #[inline(always)]
    fn invocation<'a>(
        &self,
        function: DirectFn,
        context: Option<&'a RawContext<'a>>,
        fault: &mut MaybeUninit<RawFault>,
    ) -> Invocation<'a> {
        Invocation { function, instance: self.raw, context, fault: fault.as_mut_ptr() }
    }

    /// Calls a method with serialized arguments.
    pub(crate) fn call_serialized(
        &self,
        function: SerializedFn,
        context: &RawContext<'_>,
        format: Format,
        arguments: &RawPayload<'_>,
        output: &mut OutputSlot,
    ) -> Result<(), Failure> {
        let mut fault = MaybeUninit::uninit();
        // SAFETY: B4, B5, K1.
        let code = unsafe {
            function(
                self.raw,
                context,
                format.code(),
                arguments,
                output.as_mut_ptr(),
                fault.as_mut_ptr(),
            )
        };
        if code == code::OK {
            // SAFETY: B5 (the code says so).
            unsafe { output.set_written() };
            return Ok(());
        }
        // SAFETY: B5.
        Err(unsafe { method_failure(code, fault) })
    }

    /// Starts an async method with serialized arguments, for `task.rs`.
    pub(super) fn start_task(
        &self,
        start: StartFn,
        context: &RawContext<'_>,
        format: Format,
        arguments: RawBuffer,
        completion: RawCompletion,
    ) -> Result<RawTask, Failure> {
        let mut fault = MaybeUninit::uninit();
        let mut task = MaybeUninit::uninit();
        // SAFETY: B4, B5, K1.
        let code = unsafe {
            start(
                self.raw,
                context,
                format.code(),
                arguments,
                completion,
                task.as_mut_ptr(),
                fault.as_mut_ptr(),
            )
        };
        if code == code::OK {
            // SAFETY: B5 (the code says so).
            return Ok(unsafe { task.assume_init() });
        }
        // SAFETY: B5.
        Err(unsafe { method_failure(code, fault) })
    }

    /// Opens a stream, for `stream.rs`, and returns the code. It writes the stream or the fault.
    pub(super) fn call_open(
        &self,
        open: OpenFn,
        context: &RawContext<'_>,
        format: Format,
        arguments: &RawPayload<'_>,
        (stream, fault): (&mut MaybeUninit<RawStream>, &mut MaybeUninit<RawFault>),
    ) -> i32 {
        let (stream, fault) = (stream.as_mut_ptr(), fault.as_mut_ptr());
        // SAFETY: B4, B5, K1.
        unsafe { open(self.raw, context, format.code(), arguments, stream, fault) }
    }

    /// Starts a call of an async plugin, for `task.rs`.
    pub(super) fn start_call(
        &self,
        start: StartExecuteFn,
        context: &RawContext<'_>,
        input: OwnedPayload,
        completion: RawCompletion,
    ) -> Result<RawTask, Failure> {
        let (mut fault, mut task) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        let (input, to) = (input.into_output(), task.as_mut_ptr());
        // SAFETY: B3, B4, B5.
        let code = unsafe { start(self.raw, context, input, completion, to, fault.as_mut_ptr()) };
        if code == code::OK {
            // SAFETY: B5 (the code says so).
            return Ok(unsafe { task.assume_init() });
        }
        // SAFETY: B5.
        Err(unsafe { failure(code, fault) })
    }

    /// Checks the health of the plugin.
    pub(crate) fn health(&self) -> Result<(), Failure> {
        let health = self.root.module().health();
        // SAFETY: B3, B4, B5.
        decode(|fault| unsafe { health(self.raw, fault) })
    }

    /// Takes the state for a reload.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, Failure> {
        let snapshot = self.root.module().snapshot();
        let mut raw = MaybeUninit::<RawSnapshot>::uninit();
        // SAFETY: B3, B4, B5.
        decode(|fault| unsafe { snapshot(self.raw, raw.as_mut_ptr(), fault) })?;
        // SAFETY: B5 (no failure, so it was written).
        let raw = unsafe { raw.assume_init() };
        Ok(raw.present.then(|| Snapshot::new(raw.version, raw.bytes.as_bytes())))
    }

    /// Restores a state in a plugin that was not called yet.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        let restore = self.root.module().restore();
        let version = snapshot.version();
        let bytes = RawBuffer::from(snapshot.into_bytes());
        let raw = RawSnapshot { present: true, version, bytes };
        // SAFETY: B3, B4, B5, and `&mut self`: no other code uses the instance.
        decode(|fault| unsafe { restore(self.raw, &raw const raw, fault) })
    }

    /// Stops the plugin with its `shutdown`, or only drops it if `graceful` is false.
    pub(crate) fn end(&mut self, graceful: bool) -> Result<(), Failure> {
        if self.raw.is_null() {
            return Ok(());
        }
        let module = self.root.module();
        let stop = if graceful { module.shutdown() } else { module.discard() };
        let raw = std::mem::replace(&mut self.raw, ptr::null());
        // SAFETY: B3, B4 (taken out of self, so given once), B5.
        decode(|fault| unsafe { stop(raw, fault) })
    }

    /// Returns the image; leaks the instance if it was not stopped.
    pub(crate) fn into_image(self) -> Arc<Image> {
        self.image
    }
}

/// The failure of a method, not decoded yet.
///
/// Invariant: the code was returned by a function of a plugin that received the fault to write to.
pub(crate) struct MethodFault {
    code: i32,
    fault: MaybeUninit<RawFault>,
}

impl MethodFault {
    /// Decodes it. The plugin's library is still mapped: the caller holds the lease of the call.
    pub(crate) fn decode(self) -> Failure {
        // SAFETY: the invariant of this type.
        unsafe { method_failure(self.code, self.fault) }
    }
}

/// Calls `function` with space for a fault, and decodes the result.
fn decode(function: impl FnOnce(*mut RawFault) -> i32) -> Result<(), Failure> {
    let mut fault = MaybeUninit::<RawFault>::uninit();
    match function(fault.as_mut_ptr()) {
        code::OK => Ok(()),
        // SAFETY: B5.
        code => Err(unsafe { failure(code, fault) }),
    }
}

/// Decodes a failure.
///
/// # Safety
///
/// `code` was returned by a function of a plugin that received `fault` to write to.
#[cold]
unsafe fn failure(code: i32, fault: MaybeUninit<RawFault>) -> Failure {
    if code != code::ERROR && code != code::PANIC {
        return Failure::Code(code);
    }
    // SAFETY: B5 (both codes say that it was written).
    failure_of(code, unsafe { fault.assume_init() })
}

/// Decodes the failure of a method.
///
/// # Safety
///
/// As for `failure`.
#[cold]
pub(super) unsafe fn method_failure(code: i32, fault: MaybeUninit<RawFault>) -> Failure {
    match code {
        code::ERROR | code::PANIC | contract_code::BAD_ARGUMENTS | contract_code::BAD_RESULT => {
            // SAFETY: B5 (these codes say that it was written).
            failure_of(code, unsafe { fault.assume_init() })
        }
        _ => Failure::Code(code),
    }
}

/// Converts the fault that a plugin wrote beside a code.
#[cold]
pub(super) fn failure_of(code: i32, fault: RawFault) -> Failure {
    match code {
        code::ERROR => Failure::Error(fault.to_error()),
        code::PANIC => Failure::Panic(fault.to_panic()),
        contract_code::BAD_ARGUMENTS => Failure::BadArguments(fault.to_error()),
        contract_code::BAD_RESULT => Failure::BadResult(fault.to_error()),
        contract_code::CANCELLED => Failure::Cancelled,
        _ => Failure::Code(code),
    }
}
