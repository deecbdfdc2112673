//! Serves a [`Plugin`](crate::Plugin) as a program that a host calls over a socket.
//!
//! The main thread starts the plugin, accepts connections and shuts everything down. Few threads
//! serve all connections: the thread that notices a request calls the plugin and writes the
//! response, and another one takes over when a call takes long (`executor`). A connection that was
//! upgraded to frames has a thread (`frames`). So a call never changes threads. `PROTOCOL.md`
//! specifies the protocol.

#[cfg(all(unix, feature = "serve"))]
mod batch;
#[cfg(all(unix, feature = "serve"))]
mod body;
#[cfg(all(unix, feature = "serve"))]
mod call;
#[cfg(all(unix, feature = "serve"))]
mod connections;
#[cfg(all(unix, feature = "serve"))]
mod console;
#[cfg(all(unix, feature = "serve", feature = "contracts"))]
mod contract_client;
#[cfg(all(unix, feature = "serve", feature = "contracts"))]
mod contracts;
#[cfg(all(unix, feature = "serve", not(feature = "contracts")))]
#[path = "no_contracts.rs"]
mod contracts;
#[cfg(all(unix, feature = "serve"))]
mod endpoints;
#[cfg(all(unix, feature = "serve"))]
mod executor;
#[cfg(all(unix, feature = "serve"))]
mod frames;
#[cfg(all(unix, feature = "serve"))]
mod host_client;
#[cfg(all(unix, feature = "serve"))]
mod instance;
#[cfg(all(unix, feature = "serve"))]
mod lifecycle;
#[cfg(all(unix, feature = "serve"))]
mod listener;
#[cfg(all(unix, feature = "serve"))]
mod load;
#[cfg(all(unix, feature = "serve"))]
mod program;
#[cfg(all(unix, feature = "serve"))]
mod responses;
#[cfg(all(unix, feature = "serve"))]
mod routes;
#[cfg(all(unix, feature = "serve"))]
mod server;
#[cfg(all(unix, feature = "serve"))]
mod settings;
#[cfg(all(unix, feature = "serve"))]
mod socket;
#[cfg(all(unix, feature = "serve"))]
mod stop;
#[cfg(all(unix, feature = "serve", feature = "contracts"))]
mod streams;

#[cfg(all(unix, feature = "serve"))]
pub use call::Endpoint;
#[cfg(all(unix, feature = "serve", feature = "contracts"))]
pub use contract_client::host_functions;
#[cfg(all(unix, feature = "serve"))]
pub use program::Program;

/// Turns a plugin into a program by defining `main`.
///
/// A host starts the program and calls it over a socket. Needs the feature `serve`, and Unix.
///
/// - `serve_plugin!(Rows)` serves the methods of a [`Plugin`](crate::Plugin);
/// - `serve_plugin!(Rows, endpoints = { "rows" => Rows::rows })` adds endpoints, each with a name
///   and a function of the signature of [`Plugin::execute`](crate::Plugin::execute);
/// - `serve_plugin!(Rows, contracts = [TextAnalysis, KeyValue])` serves these contracts, whose
///   traits the type implements (feature `contracts`). It precedes all other arguments;
/// - `serve_plugin!(async Rows)` serves an [`AsyncPlugin`](crate::AsyncPlugin) (feature `tokio`),
///   without other endpoints and without contracts;
/// - `config_schema = "…"` and `input_schema = "…"` are JSON Schemas as text, reported as part of
///   the program's capabilities.
///
/// ```
/// use hotbay_plugin::prelude::*;
///
/// struct Rows;
///
/// impl Rows {
///     /// The endpoint `rows`: returns the number of rows.
///     fn rows(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
///         Output::json(&2)
///     }
/// }
///
/// impl Plugin for Rows {
///     fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
///         Ok(Self)
///     }
///
///     fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
///         Ok(Output::text(input.as_text()?))
///     }
/// }
///
/// # #[cfg(any())]
/// serve_plugin!(Rows, endpoints = { "rows" => Rows::rows });
/// # fn main() {}
/// ```
///
/// # Panics
///
/// The crate does not compile with `panic = "abort"`: a panic in one call would end the program.
#[cfg(all(unix, feature = "serve"))]
#[macro_export]
macro_rules! serve_plugin {
    (async $plugin:ty $(, $($rest:tt)*)?) => {
        $crate::serve_plugin!($crate::Async<$plugin> $(, $($rest)*)?);
    };
    (
        $plugin:ty
        $(, contracts = [$($contract:path),* $(,)?])?
        $(, endpoints = { $($name:literal => $function:expr),* $(,)? })?
        $(, config_schema = $config_schema:expr)?
        $(, input_schema = $input_schema:expr)?
        $(,)?
    ) => {
        #[cfg(panic = "abort")]
        ::core::compile_error!(
            "a plugin needs `panic = \"unwind\"`: with \"abort\", a panic in one call ends the program"
        );

        fn main() -> ::std::process::ExitCode {
            let program = $crate::serve::Program::<$plugin>::new(
                ::core::env!("CARGO_PKG_NAME"),
                ::core::env!("CARGO_PKG_VERSION"),
            );
            $($(let program = program.contract::<dyn $contract>();)*)?
            $($(let program = program.endpoint($name, $function);)*)?
            $(let program = program.config_schema($config_schema);)?
            $(let program = program.input_schema($input_schema);)?
            program.run()
        }
    };
}

/// Turns a plugin into a program. Needs the feature `serve` of `hotbay-plugin`, and Unix.
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

/// Turns a plugin into a program, on Unix.
#[cfg(not(unix))]
#[macro_export]
macro_rules! serve_plugin {
    ($($anything:tt)*) => {
        ::core::compile_error!(
            "`serve_plugin!` supports Unix only\n\
             hint: build the plugin as a library with `export_plugin!`"
        );
    };
}
