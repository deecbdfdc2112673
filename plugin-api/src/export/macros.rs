//! The macro `export_plugin!`. Its expansion is enabled by the feature `export` of the author's
//! crate.

/// Exports a plugin from the crate's library.
///
/// Takes a type that implements [`Plugin`](crate::Plugin):
///
/// - `export_plugin!(Transform)` uses the system allocator and counts its live bytes;
/// - `export_plugin!(Transform, allocator = MiMalloc)` uses the given allocator, the path of a unit
///   struct, and counts its live bytes (see below);
/// - `export_plugin!(Transform, allocator = uncounted)` sets no allocator: the host then does not
///   know the number of live bytes.
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
    ($plugin:ty $(,)?) => {
        $crate::export_plugin!(@allocator ::std::alloc::System);
        $crate::export_plugin!(@exports $plugin, true);
    };
    ($plugin:ty, allocator = uncounted $(,)?) => {
        $crate::export_plugin!(@exports $plugin, false);
    };
    ($plugin:ty, allocator = $allocator:path $(,)?) => {
        $crate::export_plugin!(@allocator $allocator);
        $crate::export_plugin!(@exports $plugin, true);
    };
    (@allocator $allocator:path) => {
        #[cfg(feature = "export")]
        const _: () = {
            #[global_allocator]
            static ALLOCATOR: $crate::abi::CountingAllocator<$allocator> =
                $crate::abi::CountingAllocator::new($allocator);
        };
    };
    (@exports $plugin:ty, $counts_bytes:literal) => {
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

            extern "C" fn root() -> __library::RootModuleResult {
                $crate::abi::init_census($counts_bytes);
                __library::__call_root_module_loader(|| <$crate::abi::Exports<$plugin>>::ROOT)
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
}
