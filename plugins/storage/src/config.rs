//! The config of the plugin.

use std::path::PathBuf;
use std::time::Duration;

use hotbay_plugin::{Config, PluginError};
use serde::Deserialize;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};

/// Maximum number of connections.
const MAX_CONNECTIONS: u64 = 64;
/// The database if none is set.
const DEFAULT_FILE: &str = "storage.sqlite";
/// Maximum of `timeout_ms` and `work_timeout_ms`.
const MAX_TIMEOUT_MS: u64 = 600_000;

/// The config after all checks.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) database: DatabaseSettings,
    pub(crate) common: CommonSettings,
}

/// The settings of all databases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommonSettings {
    pub(crate) timeout: Duration,
    pub(crate) synchronous: Synchronous,
}

/// The settings of one kind of database.
#[derive(Clone, Debug)]
pub(crate) enum DatabaseSettings {
    Sqlite {
        file: PathBuf,
        readers: usize,
    },
    // Its `Debug` hides the password.
    Postgres {
        config: Box<tokio_postgres::Config>,
        connections: usize,
        /// Maximum time for one call after it has got its locks.
        work_limit: Duration,
    },
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Synchronous {
    #[default]
    Full,
    Normal,
}

/// The fields; `plugin.json` describes them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    file: Option<PathBuf>,
    readers: Option<u64>,
    dsn: Option<String>,
    connections: Option<u64>,
    timeout_ms: Option<u64>,
    work_timeout_ms: Option<u64>,
    #[serde(default)]
    synchronous: Synchronous,
}

impl Settings {
    /// Parses and checks the config, also for hosts that do not check it against its schema.
    pub(crate) fn parse(config: &Config) -> Result<Self, PluginError> {
        let fields: Fields = config.parse()?;
        let timeout_ms = number("timeout_ms", fields.timeout_ms, 5000, MAX_TIMEOUT_MS)?;
        let common = CommonSettings {
            timeout: Duration::from_millis(timeout_ms),
            synchronous: fields.synchronous,
        };
        let readers = number("readers", fields.readers, 4, MAX_CONNECTIONS)? as usize;
        let connections = number("connections", fields.connections, 4, MAX_CONNECTIONS)? as usize;
        // Enough for the largest value on a slow network.
        let work_ms = number("work_timeout_ms", fields.work_timeout_ms, 60_000, MAX_TIMEOUT_MS)?;
        let database = match (fields.file, fields.dsn) {
            (file, None) => {
                not_both("connections", fields.connections, "dsn", "readers")?;
                not_both("work_timeout_ms", fields.work_timeout_ms, "dsn", "timeout_ms")?;
                let file = file.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
                DatabaseSettings::Sqlite { file, readers }
            }
            (None, Some(dsn)) => {
                not_both("readers", fields.readers, "file", "connections")?;
                DatabaseSettings::Postgres {
                    config: Box::new(parse_dsn(&dsn)?),
                    connections,
                    work_limit: Duration::from_millis(work_ms),
                }
            }
            (Some(_), Some(_)) => {
                let message = "`file` (SQLite) and `dsn` (PostgreSQL) are both set; expected one";
                return Err(invalid(message));
            }
        };
        Ok(Self { database, common })
    }
}

fn number(field: &str, found: Option<u64>, default: u64, max: u64) -> Result<u64, PluginError> {
    match found.unwrap_or(default) {
        number if (1..=max).contains(&number) => Ok(number),
        number => Err(invalid(format!("`{field}` is {number}; expected 1 to {max}"))),
    }
}

/// Rejects a field of the other kind of database.
fn not_both(
    field: &str,
    found: Option<u64>,
    belongs_to: &str,
    instead: &str,
) -> Result<(), PluginError> {
    let message = format!("`{field}` is set without `{belongs_to}`; expected `{instead}`");
    found.map_or(Ok(()), |_| Err(invalid(message)))
}

fn parse_dsn(dsn: &str) -> Result<tokio_postgres::Config, PluginError> {
    let demands_tls = |what: &str| {
        invalid(format!("`dsn` demands TLS ({what}), which this build of the plugin lacks"))
    };
    // The client has no such mode.
    if dsn.contains("sslmode=verify-") {
        return Err(demands_tls("`sslmode=verify-*`"));
    }
    let config: tokio_postgres::Config = dsn.parse().map_err(|error: tokio_postgres::Error| {
        // Neither contains the text itself, which may have a password.
        let cause = std::error::Error::source(&error);
        let cause = cause.map_or_else(|| error.to_string(), ToString::to_string);
        invalid(format!("`dsn` is invalid: {cause}"))
    })?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(demands_tls("`sslmode=require`"));
    }
    if config.get_ssl_negotiation() == SslNegotiation::Direct {
        return Err(demands_tls("`sslnegotiation=direct`"));
    }
    if config.get_channel_binding() == ChannelBinding::Require {
        return Err(demands_tls("`channel_binding=require`"));
    }
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(invalid(
            "`dsn` has no host; expected a name, an address or a folder of a socket",
        ));
    }
    Ok(config)
}

#[cold]
fn invalid(message: impl Into<String>) -> PluginError {
    PluginError::new(400, message)
}
