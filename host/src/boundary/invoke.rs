//! Calls into a plugin, one function each: arguments laid out, code and fault decoded.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use hotbay_plugin::abi::{
    RawBuffer, RawContext, RawFault, RawInstance, RawPayload, RawServices, RawSnapshot, RawStart,
    RawText, code, into_instance,
};
use hotbay_plugin::{Output, Payload, Plugin, Snapshot};

use super::{Image, Root};
use crate::call::Failure;

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
    /// The module's own, here once so that a call looks nothing up.
    execute: ExecuteFn,
    /// Null once it was ended: B4.
    raw: RawInstance,
    root: Root,
    // Dropped last: B1.
    image: Arc<Image>,
}

// SAFETY: a plugin is `Send + Sync` (the trait demands it), and the image is too.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

/// Checks a configuration with the plugin's own code.
pub(crate) fn validate_config(root: Root, config: &str) -> Result<(), Failure> {
    let check = root.module().validate_config();
    // SAFETY: B3, B5.
    decode(|fault| unsafe { check(RawText::new(config), fault) })
}

impl Instance {
    /// Starts a plugin of `root`, which lies in `image`.
    pub(crate) fn start(
        image: Arc<Image>,
        root: Root,
        config: &str,
        services: &RawServices,
        want_frames: bool,
    ) -> Result<Self, Failure> {
        let start = RawStart { config: RawText::new(config), services, want_frames };
        let mut raw = ptr::null();
        let begin = root.module().start();
        // SAFETY: B3, B5.
        decode(|fault| unsafe { begin(&raw const start, &raw mut raw, fault) })?;
        Ok(Self { execute: root.module().execute(), raw, root, image })
    }

    /// Takes a plugin that is part of this program and was made already.
    pub(crate) fn compiled_in<T: Plugin>(plugin: T) -> Self {
        hotbay_plugin::abi::PanicRecords::install();
        let root = Root::compiled_in::<T>();
        let execute = root.module().execute();
        let raw = into_instance(plugin);
        Self { execute, raw, root, image: Arc::new(Image::compiled_in()) }
    }

    /// The image that the plugin's code lies in.
    #[inline]
    pub(crate) fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// The functions of the plugin's library.
    pub(crate) fn root(&self) -> Root {
        self.root
    }

    /// Answers a call, in this thread, by writing over `output`, which holds nothing yet.
    #[inline]
    pub(crate) fn execute(
        &self,
        context: &RawContext<'_>,
        input: Payload<'_>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let input = RawPayload::new(input);
        let mut fault = MaybeUninit::<RawFault>::uninit();
        // SAFETY: B3, B4, B5 (what is written over is not dropped; at worst that leaks).
        let code = unsafe {
            (self.execute)(self.raw, context, &raw const input, output, fault.as_mut_ptr())
        };
        if code == code::OK {
            return Ok(());
        }
        // SAFETY: B5 (the code says that the fault was written).
        Err(unsafe { failure(code, fault) })
    }

    /// Asks whether the plugin can work.
    pub(crate) fn health(&self) -> Result<(), Failure> {
        let health = self.root.module().health();
        // SAFETY: B3, B4, B5.
        decode(|fault| unsafe { health(self.raw, fault) })
    }

    /// Takes the state that is to live through a reload.
    pub(crate) fn snapshot(&self) -> Result<Option<Snapshot>, Failure> {
        let snapshot = self.root.module().snapshot();
        let mut raw = MaybeUninit::<RawSnapshot>::uninit();
        // SAFETY: B3, B4, B5.
        decode(|fault| unsafe { snapshot(self.raw, raw.as_mut_ptr(), fault) })?;
        // SAFETY: B5 (no failure, so it was written).
        let raw = unsafe { raw.assume_init() };
        Ok(raw.present.then(|| Snapshot::new(raw.version, raw.bytes.as_bytes())))
    }

    /// Gives a state to a plugin that was not called yet.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) -> Result<(), Failure> {
        let restore = self.root.module().restore();
        let version = snapshot.version();
        let bytes = RawBuffer::from(snapshot.into_bytes());
        let raw = RawSnapshot { present: true, version, bytes };
        // SAFETY: B3, B4, B5, and `&mut self`: nobody else uses the instance.
        decode(|fault| unsafe { restore(self.raw, &raw const raw, fault) })
    }

    /// Ends the plugin by its `shutdown`, or by its drop alone if `graceful` is false.
    pub(crate) fn end(&mut self, graceful: bool) -> Result<(), Failure> {
        if self.raw.is_null() {
            return Ok(());
        }
        let module = self.root.module();
        let end = if graceful { module.shutdown() } else { module.discard() };
        let raw = std::mem::replace(&mut self.raw, ptr::null());
        // SAFETY: B3, B4 (taken out of self, so given once), B5.
        decode(|fault| unsafe { end(raw, fault) })
    }

    /// Gives up the instance for its image. What was not ended is leaked.
    pub(crate) fn into_image(self) -> Arc<Image> {
        self.image
    }
}

/// Calls `function` with room for a fault and reads what it says.
fn decode(function: impl FnOnce(*mut RawFault) -> i32) -> Result<(), Failure> {
    let mut fault = MaybeUninit::<RawFault>::uninit();
    match function(fault.as_mut_ptr()) {
        code::OK => Ok(()),
        // SAFETY: B5.
        code => Err(unsafe { failure(code, fault) }),
    }
}

/// Reads a failure.
///
/// # Safety
///
/// `code` is what a function of a plugin returned that was given `fault` to write to.
#[cold]
unsafe fn failure(code: i32, fault: MaybeUninit<RawFault>) -> Failure {
    if code != code::ERROR && code != code::PANIC {
        return Failure::Code(code);
    }
    // SAFETY: B5 (both codes say that it was written).
    let fault = unsafe { fault.assume_init() };
    if code == code::ERROR {
        Failure::Error(fault.to_error())
    } else {
        Failure::Panic(fault.to_panic())
    }
}
