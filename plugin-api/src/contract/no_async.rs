//! Async methods without the feature `tokio`: a plugin that serves one does not compile.

use super::method::ServesAsync;
use super::served::ServedMethod;
use super::table::RawMethod;

/// Fails to compile, since tables of methods are constants.
pub const fn entry_async<T: Sync + 'static, M: ServesAsync<T>, const LINKED: bool>() -> RawMethod {
    panic!("{}", NEEDS_TOKIO)
}

/// Fails to compile, as [`entry_async`] does.
pub const fn served_async<T: Sync + 'static, M: ServesAsync<T>>() -> ServedMethod<T> {
    panic!("{}", NEEDS_TOKIO)
}

const NEEDS_TOKIO: &str =
    "a contract with an `async fn` is served with the feature `tokio` of `hotbay-plugin`, on Unix";
