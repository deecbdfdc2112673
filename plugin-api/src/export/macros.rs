//! The export macro: what it writes stands behind the feature `export` of the author's crate.

/// Exports a plugin from the crate's library.
///
/// Takes a type that is a [`Plugin`](crate::Plugin). What makes a library a plugin stands behind
/// the feature `export` of the crate that calls the macro, which is to be on by default; a host
/// that links the crate as an ordinary one switches it off.
///
/// - `export_plugin!(Transform)` counts what the system allocator gives out;
/// - `export_plugin!(Transform, allocator = MiMalloc)` counts around that allocator, the path
///   of a unit struct (see below);
/// - `export_plugin!(Transform, allocator = uncounted)` sets no allocator: live bytes are then
///   unknown to the host.
///
/// # Allocators
///
/// Two are tested in plugins that are called from three threads, reloaded and unloaded:
///
/// - `mimalloc`, with its feature `local_dynamic_tls`. Without it the library takes static
///   thread-local memory, and after a few reloads the system's loader refuses the next one.
/// - `tikv-jemallocator`, with its feature `disable_initial_exec_tls`, for the same reason. It
///   leaves a value on each thread that allocates or frees: a library that is called on, or whose
///   replies are dropped on, a thread that lives on stays mapped until that thread ends.
///
/// # Unmapping
///
/// On GNU/Linux the library gets hidden functions in front of those of the C library that start
/// threads or keep a pointer of their caller, such as `timer_create`, `sigaction` or `putenv`. The
/// host unmaps the library only if no thread is left and none of those was called with a pointer
/// of the library. System calls that do not go through `syscall` are not seen, and neither is what
/// is looked up by `dlvsym` on processors other than x86-64: a plugin that starts threads that way
/// states `"unload": "keep"` in its manifest.
///
/// Does not compile with `panic = "abort"`: no panic could be caught.
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
            "a plugin needs `panic = \"unwind\"`: with \"abort\" a panic in it ends the host"
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

            // The name under which abi_stable looks for a root module.
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
