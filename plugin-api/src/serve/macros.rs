//! The macro that makes a program of a plugin.

/// Makes a program of a plugin: defines `main`.
///
/// A host starts the program and calls it over a socket. Needs the feature `serve`, and Unix.
///
/// - `serve_plugin!(Rows)` serves what a [`Plugin`](crate::Plugin) has;
/// - `serve_plugin!(Rows, endpoints = { "rows" => Rows::rows })` also serves functions of the
///   shape of [`Plugin::execute`](crate::Plugin::execute) under names of their own;
/// - `config_schema = "…"` and `input_schema = "…"` are JSON Schemas as text, told to whoever
///   asks the program what it can do.
///
/// Does not compile with `panic = "abort"`: one panic would end all calls.
#[cfg(all(unix, feature = "serve"))]
#[macro_export]
macro_rules! serve_plugin {
    (
        $plugin:ty
        $(, endpoints = { $($name:literal => $function:expr),* $(,)? })?
        $(, config_schema = $config_schema:expr)?
        $(, input_schema = $input_schema:expr)?
        $(,)?
    ) => {
        #[cfg(panic = "abort")]
        ::core::compile_error!(
            "a plugin needs `panic = \"unwind\"`: with \"abort\" a panic in one call ends all"
        );

        fn main() -> ::std::process::ExitCode {
            let program = $crate::serve::Program::<$plugin>::new(
                ::core::env!("CARGO_PKG_NAME"),
                ::core::env!("CARGO_PKG_VERSION"),
            );
            $($(let program = program.endpoint($name, $function);)*)?
            $(let program = program.config_schema($config_schema);)?
            $(let program = program.input_schema($input_schema);)?
            program.run()
        }
    };
}

/// Makes a program of a plugin. Needs the feature `serve` of `hotbay-plugin`, and Unix.
#[cfg(all(unix, not(feature = "serve")))]
#[macro_export]
macro_rules! serve_plugin {
    ($($anything:tt)*) => {
        ::core::compile_error!(
            "`serve_plugin!` needs the feature `serve` of `hotbay-plugin`: \
             hotbay-plugin = { …, features = [\"serve\"] }"
        );
    };
}

/// Makes a program of a plugin, on Unix.
#[cfg(not(unix))]
#[macro_export]
macro_rules! serve_plugin {
    ($($anything:tt)*) => {
        ::core::compile_error!(
            "`serve_plugin!` works on Unix only so far; on this target a plugin can be a library, \
             by `export_plugin!`"
        );
    };
}
