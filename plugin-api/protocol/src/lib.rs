//! The protocol of process plugins: names, limits and JSON bodies, for hosts and for the SDK.
//! Contains neither I/O nor HTTP. `PROTOCOL.md` specifies the protocol.

#![forbid(unsafe_code)]

mod batch;
mod bodies;
pub mod frame;
mod stream;
mod traceparent;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use batch::{
    BatchCall, BatchReplies, BatchReply, BatchRequests, MAX_BATCH, batch_request, write_content,
};
pub use bodies::{
    Capabilities, ConfigEntry, ContractBody, ContractCheck, ErrorBody, FaultBody, LogRecord,
    OwnCapabilities, SocketKind, StartConfig, ThreadPanic,
};
pub use stream::{InvalidLine, MAX_LINE_OVERHEAD_BYTES, STREAM_CONTENT_TYPE, StreamLine};
pub use traceparent::{Hex, format_traceparent, parse_traceparent};

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// The argument for which a program prints its capabilities.
pub const CAPABILITIES_ARGUMENT: &str = "capabilities";

/// The argument before the start configuration, if that is passed as an argument.
pub const CONFIG_ARGUMENT: &str = "--config";

/// The config type of the plugin's whole config.
pub const CONFIG_TYPE: &str = "hotbay/v1";

/// Time for the command `capabilities`.
pub const CAPABILITIES_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest output of the command `capabilities`.
pub const MAX_CAPABILITIES_BYTES: usize = 1 << 20;

/// A longer start configuration is passed in a file, if the program reads one.
pub const MAX_VARIABLE_CONFIG_BYTES: usize = 96 << 10;

/// The longest line of output that is logged uncut, without its line end.
pub const MAX_LOG_LINE_BYTES: usize = 64 << 10;

/// Time that running calls have to finish when a program exits on request.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns a time until a deadline in milliseconds, rounded up, so that the deadline of the receiver
/// is never before that of the sender.
///
/// ```
/// use std::time::Duration;
/// use hotbay_protocol::millis_rounded_up;
///
/// assert_eq!(millis_rounded_up(Duration::from_micros(1_001)), 2);
/// assert_eq!(millis_rounded_up(Duration::from_millis(2)), 2);
/// assert_eq!(millis_rounded_up(Duration::ZERO), 0);
/// ```
pub fn millis_rounded_up(left: Duration) -> u64 {
    u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Names of endpoints, without the leading slash.
pub mod endpoint {
    /// Runs a batch of calls.
    pub const BATCH: &str = "batch";
    /// The prefix of the endpoints of contracts.
    pub const CONTRACT_PREFIX: &str = "contract/";
    /// Calls the plugin.
    pub const EXECUTE: &str = "execute";
    /// Reports the health of the plugin.
    pub const HEALTH: &str = "healthz";
    /// Restores a state.
    pub const RESTORE: &str = "restore";
    /// Stops the program.
    pub const SHUTDOWN: &str = "shutdown";
    /// Returns the state.
    pub const SNAPSHOT: &str = "snapshot";

    /// Endpoints of the protocol itself, which are not functions of the plugin.
    pub const OF_PROTOCOL: [&str; 5] = [BATCH, HEALTH, RESTORE, SHUTDOWN, SNAPSHOT];

    /// Returns the endpoint of a method of a contract.
    pub fn of_method(contract: &str, method: &str) -> String {
        format!("{CONTRACT_PREFIX}{contract}/{method}")
    }
}

/// Paths of the host's services.
pub mod service {
    /// Checks that a contract is served; and the start of the paths of its methods.
    pub const CONTRACT: &str = "/contract";
    /// Logs a record.
    pub const LOG: &str = "/log";
    /// Records a panic outside of calls.
    pub const THREAD_PANICKED: &str = "/thread-panicked";
}

/// Names of headers, in lower case.
pub mod header {
    /// The number of a call.
    pub const CALL_ID: &str = "hotbay-call-id";
    /// The hash of the signature of a contract's method, as 16 hexadecimal digits.
    pub const CONTRACT_HASH: &str = "hotbay-contract-hash";
    /// Milliseconds until the deadline of a call, by [`millis_rounded_up`](crate::millis_rounded_up).
    pub const DEADLINE_MS: &str = "hotbay-deadline-ms";
    /// The most verbose level that the host logs, in responses of its services.
    pub const LOG_LEVEL: &str = "hotbay-log-level";
    /// The plugin that is to serve a call of a program.
    pub const PLUGIN: &str = "hotbay-plugin";
    /// The version of a state.
    pub const SNAPSHOT_VERSION: &str = "hotbay-snapshot-version";
    /// The token of a launch, in both directions.
    pub const TOKEN: &str = "hotbay-token";
    /// The trace of a call, as defined by W3C Trace Context.
    pub const TRACEPARENT: &str = "traceparent";

    /// The prefix of all headers of the protocol.
    pub const PREFIX: &str = "hotbay-";
}

/// Names of environment variables.
pub mod variable {
    /// The start configuration.
    pub const CONFIG: &str = "HOTBAY_CONFIG";
    /// A file with the start configuration.
    pub const CONFIG_FILE: &str = "HOTBAY_CONFIG_FILE";
    /// The address of the host's services.
    pub const HOST: &str = "HOTBAY_HOST";
    /// The tag of a launch, which all descendants inherit.
    pub const LAUNCH: &str = "HOTBAY_LAUNCH";
    /// The private folder of the plugin that survives restarts, if its sandbox permits one.
    pub const STATE_DIR: &str = "HOTBAY_STATE_DIR";
    /// The version of the protocol.
    pub const PROTOCOL: &str = "HOTBAY_PROTOCOL";
    /// The private folder for the program's socket.
    pub const SOCKET_DIR: &str = "HOTBAY_SOCKET_DIR";
    /// The token that every request contains.
    pub const TOKEN: &str = "HOTBAY_TOKEN";

    /// The prefix of all variables of the protocol.
    pub const PREFIX: &str = "HOTBAY_";
}

/// Prefixes of the line in which a program prints its location.
pub mod location {
    /// Before the path of a Unix socket.
    pub const UNIX_PREFIX: &str = "http+unix://";
    /// Before the address of a TCP port.
    pub const TCP_PREFIX: &str = "http://";
}

/// Returns the lock of a Unix socket: a file next to it with the program's process id.
pub fn lock_of(socket: &Path) -> PathBuf {
    let mut lock = OsString::from(socket);
    lock.push(".lock");
    lock.into()
}
