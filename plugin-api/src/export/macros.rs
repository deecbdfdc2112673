//! The macro `export_plugin!`. Its expansion is enabled by the feature `export` of the author's
//! crate.
//!
//! It also defines interposers of C library functions in the plugin's library. They are hidden
//! symbols, so only that library uses them. `census` implements them.

/// Exports a plugin from the crate's library.
///
/// Takes a type that implements [`Plugin`](crate::Plugin):
///
/// - `export_plugin!(Transform)` uses the system allocator and counts its live bytes;
/// - `export_plugin!(Transform, allocator = MiMalloc)` uses the given allocator, the path of a unit
///   struct, and counts its live bytes (see below);
/// - `export_plugin!(Transform, allocator = uncounted)` sets no allocator: the host then does not
///   know the number of live bytes;
/// - `export_plugin!(Transform, contracts = [TextAnalysis, KeyValue])` also serves these contracts,
///   whose traits the type implements (feature `contracts`). Each of the forms above accepts it as
///   the second argument;
/// - `export_plugin!(async Fetcher)` exports a type that implements
///   [`AsyncPlugin`](crate::AsyncPlugin) (feature `tokio`). Each of the forms above accepts `async`.
///
/// The calling crate has a feature `export`, enabled by default, and only exports the plugin if it
/// is enabled. A host that links the crate as an ordinary dependency disables it.
///
/// ```
/// use hotbay_plugin::prelude::*;
///
/// struct Length;
///
/// impl Plugin for Length {
///     fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
///         Ok(Self)
///     }
///
///     fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
///         Output::json(&input.len())
///     }
/// }
///
/// # #[cfg(any())]
/// export_plugin!(Length);
/// # fn main() {}
/// ```
///
/// # Allocators
///
/// Two allocators are tested in plugins that are called from three threads, reloaded and unloaded:
///
/// - `mimalloc`, with its feature `local_dynamic_tls`. Without it the library uses static
///   thread-local memory, and the system's loader rejects it after a few reloads.
/// - `tikv-jemallocator`, with its feature `disable_initial_exec_tls`, for the same reason. It
///   keeps a value on each thread that allocates or frees. The library stays mapped until all
///   threads that called it, or dropped one of its replies, have exited.
///
/// # Unmapping
///
/// On GNU/Linux, the library interposes on functions of the C library that start threads or keep a
/// pointer of their caller, such as `timer_create`, `sigaction` or `putenv`. The host unmaps the
/// library only if all its threads have exited and the C library keeps no pointer into it.
///
/// System calls that do not go through `syscall` are not detected. Neither are lookups by `dlvsym`
/// on architectures other than x86-64. A plugin that starts threads in these ways sets
/// `"unload": "keep"` in its manifest.
///
/// # Panics
///
/// The crate does not compile with `panic = "abort"`, because panics could not be caught.
#[macro_export]
macro_rules! export_plugin {
    (@parse [$plugin:ty] $serves:ty $(, contracts = [$($contract:path),* $(,)?])? $(,)?) => {
        $crate::export_plugin!(@allocator ::std::alloc::System);
        $crate::export_plugin!(@exports $plugin, $serves, true, [$($($contract),*)?]);
    };
    (@parse [$plugin:ty] $serves:ty $(, contracts = [$($contract:path),* $(,)?])?, allocator = uncounted $(,)?) => {
        $crate::export_plugin!(@exports $plugin, $serves, false, [$($($contract),*)?]);
    };
    (@parse [$plugin:ty] $serves:ty $(, contracts = [$($contract:path),* $(,)?])?, allocator = $allocator:path $(,)?) => {
        $crate::export_plugin!(@allocator $allocator);
        $crate::export_plugin!(@exports $plugin, $serves, true, [$($($contract),*)?]);
    };
    (async $plugin:ty $(, $($rest:tt)*)?) => {
        $crate::export_plugin!(@parse [$crate::Async<$plugin>] $plugin $(, $($rest)*)?);
    };
    (@contracts $plugin:ty, []) => {
        use $crate::abi::NoContracts as __Contracts;
    };
    (@contracts $plugin:ty, [$($contract:path),+]) => {
        struct __Contracts;

        impl $crate::abi::ContractSet for __Contracts {
            const TABLES: $crate::abi::ContractTables = {
                const TABLES: &[$crate::abi::contract::RawContract] = &[
                    $(<dyn $contract as $crate::abi::contract::ServedBy<$plugin, false>>::TABLE),+
                ];
                $crate::abi::contract::tables(TABLES)
            };
        }

        const __DESCRIPTIONS: &[&$crate::abi::contract::Description] =
            &[$(<dyn $contract as $crate::abi::Contract>::DESCRIPTION),+];

        #[unsafe(export_name = "HOTBAY_PLUGIN_CONTRACTS")]
        static __TEXT: [u8; $crate::abi::contract::export_length(__DESCRIPTIONS)] =
            $crate::abi::contract::export_text(__DESCRIPTIONS);
    };
    (@allocator $allocator:path) => {
        #[cfg(feature = "export")]
        const _: () = {
            #[global_allocator]
            static ALLOCATOR: $crate::abi::CountingAllocator<$allocator> =
                $crate::abi::CountingAllocator::new($allocator);
        };
    };
    (@exports $plugin:ty, $serves:ty, $counts_bytes:literal, $contracts:tt) => {
        const _: fn() = || {
            fn is_a_plugin<T: $crate::Plugin>() {}
            is_a_plugin::<$plugin>();
        };

        #[cfg(all(feature = "export", panic = "abort"))]
        ::core::compile_error!(
            "a plugin needs `panic = \"unwind\"`: with \"abort\", a panic in the plugin ends the host"
        );

        #[cfg(feature = "export")]
        const _: () = {
            use $crate::abi::abi_stable::library as __library;

            #[unsafe(export_name = "HOTBAY_PLUGIN_STAMP")]
            static STAMP: $crate::stamp::StampBytes = $crate::stamp::stamp(
                ::core::env!("CARGO_PKG_NAME"),
                ::core::env!("CARGO_PKG_VERSION"),
            );

            $crate::export_plugin!(@contracts $serves, $contracts);

            extern "C" fn root() -> __library::RootModuleResult {
                $crate::abi::init_census($counts_bytes);
                __library::__call_root_module_loader(|| {
                    <$crate::abi::Exports<$plugin, false, __Contracts>>::ROOT
                })
            }

            // The symbol in which abi_stable expects the root module.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static ROOT: __library::LibHeader = unsafe {
                __library::LibHeader::from_constructor::<$crate::abi::PluginRootRef>(
                    root,
                    __library::CheckTypeLayout::Yes,
                )
            };
        };

        #[cfg(all(feature = "export", target_os = "linux", target_env = "gnu"))]
        mod __hotbay_interposers {
            $crate::__interpose!();
        }
    };
    ($plugin:ty $(, $($rest:tt)*)?) => {
        $crate::export_plugin!(@parse [$plugin] $plugin $(, $($rest)*)?);
    };
}

/// Defines the interposers in the crate of the plugin.
#[doc(hidden)]
#[macro_export]
macro_rules! __interpose {
    () => {
        use ::core::ffi::{c_char, c_int, c_long, c_uint, c_void};
        use ::core::option::Option;
        use $crate::abi::interposers;

        $crate::__interpose! {
            pthread_create(thread: *mut c_void, attributes: *const c_void, function: interposers::StartFn, argument: *mut c_void) -> c_int;
            thrd_create(thread: *mut c_void, function: interposers::StartC11Fn, argument: *mut c_void) -> c_int;
            pthread_key_create(key: *mut c_uint, destructor: Option<interposers::KeyDestructor>) -> c_int;
            pthread_key_delete(key: c_uint) -> c_int;
            pthread_setspecific(key: c_uint, value: *const c_void) -> c_int;
            tss_create(key: *mut c_uint, destructor: Option<interposers::KeyDestructor>) -> c_int;
            tss_delete(key: c_uint) -> ();
            tss_set(key: c_uint, value: *const c_void) -> c_int;
            dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
            dlmopen(namespace: c_long, file: *const c_char, flags: c_int) -> *mut c_void;
            dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
            sigaction(signal: c_int, action: *const c_void, old: *mut c_void) -> c_int;
            __sigaction(signal: c_int, action: *const c_void, old: *mut c_void) -> c_int;
            signal(signal: c_int, handler: usize) -> usize;
            bsd_signal(signal: c_int, handler: usize) -> usize;
            ssignal(signal: c_int, handler: usize) -> usize;
            sysv_signal(signal: c_int, handler: usize) -> usize;
            __sysv_signal(signal: c_int, handler: usize) -> usize;
            sigset(signal: c_int, handler: usize) -> usize;
            sigaltstack(stack: *const c_void, old: *mut c_void) -> c_int;
            timer_create(clock: c_int, event: *const c_void, timer: *mut c_void) -> c_int;
            mq_notify(queue: c_int, event: *const c_void) -> c_int;
            aio_read(request: *mut c_void) -> c_int;
            aio_read64(request: *mut c_void) -> c_int;
            aio_write(request: *mut c_void) -> c_int;
            aio_write64(request: *mut c_void) -> c_int;
            aio_fsync(operation: c_int, request: *mut c_void) -> c_int;
            aio_fsync64(operation: c_int, request: *mut c_void) -> c_int;
            lio_listio(mode: c_int, list: *const c_void, count: c_int, event: *mut c_void) -> c_int;
            lio_listio64(mode: c_int, list: *const c_void, count: c_int, event: *mut c_void) -> c_int;
            getaddrinfo_a(mode: c_int, list: *mut c_void, count: c_int, event: *mut c_void) -> c_int;
            on_exit(function: *const c_void, argument: *mut c_void) -> c_int;
            __cxa_atexit(function: *const c_void, argument: *mut c_void, library: *const c_void) -> c_int;
            __cxa_at_quick_exit(function: *const c_void, library: *const c_void) -> c_int;
            __register_atfork(before: *const c_void, parent: *const c_void, child: *const c_void, library: *const c_void) -> c_int;
            __cxa_thread_atexit_impl(function: *const c_void, argument: *mut c_void, library: *const c_void) -> c_int;
            syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long;
            fopencookie(cookie: *mut c_void, mode: *const c_char, functions: interposers::CookieFunctions) -> *mut c_void;
            setvbuf(stream: *mut c_void, buffer: *mut c_char, mode: c_int, size: usize) -> c_int;
            setbuf(stream: *mut c_void, buffer: *mut c_char) -> ();
            setbuffer(stream: *mut c_void, buffer: *mut c_char, size: usize) -> ();
            open_memstream(buffer: *mut c_void, size: *mut usize) -> *mut c_void;
            open_wmemstream(buffer: *mut c_void, size: *mut usize) -> *mut c_void;
            fmemopen(buffer: *mut c_void, size: usize, mode: *const c_char) -> *mut c_void;
            register_printf_function(specifier: c_int, print: *const c_void, arguments: *const c_void) -> c_int;
            register_printf_specifier(specifier: c_int, print: *const c_void, arguments: *const c_void) -> c_int;
            register_printf_type(function: *const c_void) -> c_int;
            putenv(entry: *mut c_char) -> c_int;
            openlog(name: *const c_char, options: c_int, facility: c_int) -> ();
            initstate(seed: c_uint, state: *mut c_char, size: usize) -> *mut c_char;
            setstate(state: *mut c_char) -> *mut c_char;
            hsearch(entry: interposers::Entry, action: c_int) -> *mut c_void;
        }
        #[cfg(target_arch = "x86_64")]
        $crate::__interpose! {
            dlvsym(handle: *mut c_void, name: *const c_char, version: *const c_char) -> *mut c_void;
        }
    };
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(
            ::core::arch::global_asm!(::core::concat!(".hidden ", ::core::stringify!($name)));

            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($argument: $type),*) -> $result {
                unsafe { interposers::$name($($argument),*) }
            }
        )*
    };
}
