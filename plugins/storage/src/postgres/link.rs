//! One connection to the server.

use std::cell::Cell;
use std::time::Duration;

use storage_contract::{StoreError, StoreErrorKind};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

use super::error::Failure;
use super::statements::Statements;
use crate::config::{CommonSettings, Synchronous};

/// Maximum time to report the end of the connection to the server.
const CLOSE_LIMIT: Duration = Duration::from_millis(200);

/// What a connection needs.
#[derive(Debug)]
pub(super) struct LinkSettings {
    config: Config,
    common: CommonSettings,
    /// Maximum time for one call after it has got its locks.
    work_limit: Duration,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    client: Client,
    /// The task that exchanges messages with the server.
    task: JoinHandle<()>,
    /// Prepared when they are first needed: the tables may not exist before.
    statements: OnceCell<Statements>,
    /// Whether a commit was sent that was not answered.
    is_committing: Cell<bool>,
}

impl LinkSettings {
    /// Completes the settings of the dsn.
    pub(super) fn new(common: CommonSettings, config: &Config, work_limit: Duration) -> Self {
        let mut config = config.clone();
        let timeout = common.timeout;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(timeout);
        }
        // Without it, a dead network is noticed after minutes.
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(timeout);
        }
        if config.get_application_name().is_none() {
            config.application_name("hotbay storage");
        }
        Self { config, common, work_limit }
    }

    /// Returns the maximum time to connect, to the last one of the servers.
    fn connect_limit(&self) -> Duration {
        let servers = self.config.get_hosts().len().max(self.config.get_hostaddrs().len());
        self.common.timeout * u32::try_from(servers).unwrap_or(u32::MAX).max(1)
    }

    /// Returns the maximum time of one call.
    pub(super) fn call_limit(&self) -> Duration {
        self.common.timeout + self.work_limit
    }
}

impl Link {
    /// Connects to the server.
    pub(super) async fn connect(settings: &LinkSettings) -> Result<Self, Failure> {
        let connect = async {
            let (client, connection) = settings.config.connect(NoTls).await?;
            let task = tokio::spawn(async move {
                // Callers get its error from their calls.
                let _ = connection.await;
            });
            let statements = OnceCell::new();
            let link = Self { client, task, statements, is_committing: Cell::new(false) };
            link.set_up(settings).await?;
            Ok(link)
        };
        match tokio::time::timeout(settings.connect_limit(), connect).await {
            Ok(connected) => connected,
            Err(_) => Err(Failure::timed_out("connecting")),
        }
    }

    /// Limits the connection to the schema in which tables are created, and sets its timeouts.
    async fn set_up(&self, settings: &LinkSettings) -> Result<(), Failure> {
        let current = self.client.query_one("SELECT current_schema()", &[]).await?;
        if current.try_get::<_, Option<String>>(0)?.is_none() {
            let message = "no schema of the `search_path` exists; create one, or name one in `dsn`";
            return Err(StoreError::new(StoreErrorKind::Failed, message).into());
        }
        let (wait, work) = (settings.common.timeout.as_millis(), settings.call_limit().as_millis());
        // A stronger setting of the server, such as `remote_apply`, stays.
        let synchronous = match settings.common.synchronous {
            Synchronous::Full => {
                "SELECT set_config('synchronous_commit', 'on', false) \
                 WHERE current_setting('synchronous_commit') = 'off'"
            }
            Synchronous::Normal => "SET synchronous_commit = off",
        };
        // A transaction of a host that hangs must not block the changes of all others forever. The
        // time in which the server receives a large value counts as idle.
        let set = format!(
            "SELECT set_config('search_path', quote_ident(current_schema()), false);
             SET lock_timeout = {wait};
             SET statement_timeout = {work};
             SET idle_in_transaction_session_timeout = {work};
             {synchronous}"
        );
        Ok(self.client.batch_execute(&set).await?)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the prepared statements.
    pub(super) async fn statements(&self) -> Result<&Statements, Failure> {
        Ok(self.statements.get_or_try_init(|| Statements::prepare(&self.client)).await?)
    }

    /// Commits the transaction.
    pub(super) async fn commit(&self) -> Result<(), Failure> {
        self.is_committing.set(true);
        let committed = self.client.batch_execute("COMMIT").await;
        self.is_committing.set(false);
        committed.map_err(|error| Failure::from(error).of_commit())
    }

    /// Runs a call, and limits its time.
    pub(super) async fn run<T>(
        &self,
        settings: &LinkSettings,
        call: &impl AsyncFn(&Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(settings.call_limit(), call(self)).await {
            Ok(result) => result,
            Err(_) => {
                let failure = Failure::timed_out("a call");
                Err(if self.is_committing.get() { failure.of_commit() } else { failure })
            }
        }
    }

    /// Reports the end of the connection to the server, and closes it.
    pub(super) async fn close(self) {
        let Self { client, mut task, statements, .. } = self;
        drop((statements, client));
        if tokio::time::timeout(CLOSE_LIMIT, &mut task).await.is_err() {
            // The server does not answer. The socket is closed all the same.
            task.abort();
            let _ = task.await;
        }
    }
}
