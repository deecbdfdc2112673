//! A database of PostgreSQL: several connections, each with its own thread.
//!
//! The client uses tokio, which leaves thread-local values on each thread that calls it. On a thread of
//! the host, they would keep the library mapped until that thread exits. So callers only pass jobs to
//! the threads of the connections, and wait.
//!
//! All changes lock the row of the last revision first. So they are made one after another, revisions
//! grow in the order of the commits, and changes cannot wait for each other in a circle.

mod error;
mod link;
mod schema;
mod statements;
mod transaction;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use storage_contract::{Entry, StoreError};

use crate::backend::{Backend, Change, KeyRange};
use crate::config::CommonSettings;
use crate::pool::Pool;
use error::Failure;
use link::{Link, LinkSettings};
use worker::Worker;

/// A database. Its connections are opened when they are needed, and closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Postgres {
    /// One connection: the callers of one host wait for each other here, not in the server.
    writer: Pool<Worker>,
    /// `None` if there is only one connection.
    readers: Option<Pool<Worker>>,
}

impl Postgres {
    /// Connects to the database, and creates or migrates its tables.
    pub(crate) fn open(
        common: CommonSettings,
        config: &tokio_postgres::Config,
        connections: usize,
        work_limit: Duration,
    ) -> Result<Self, StoreError> {
        let settings = Arc::new(LinkSettings::new(common, config, work_limit));
        let start = |_| Worker::start(Arc::clone(&settings));
        let pool = |workers: usize| {
            let workers = (0..workers).map(start).collect::<Result<_, _>>()?;
            Ok::<_, StoreError>(Pool::new(workers, common.timeout))
        };
        let writer = pool(1)?;
        let readers = (connections > 1).then(|| pool(connections - 1)).transpose()?;
        let database = Self { writer, readers };
        let failed = |error: StoreError| {
            StoreError::new(error.kind(), format!("cannot open the database: {error}"))
        };
        let migrate = async |link: &Link| schema::migrate(link.client()).await;
        database.writer.with(|worker| worker.run(migrate)).map_err(failed)?;
        Ok(database)
    }

    /// Runs `call` with a connection that reads, on its thread.
    fn read<T: Send + 'static>(
        &self,
        call: impl AsyncFn(&Link) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.as_ref().unwrap_or(&self.writer).with(|worker| worker.run(call))
    }
}

impl Backend for Postgres {
    fn load(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let key = key.to_vec();
        self.read(async move |link| {
            let statements = link.statements().await?;
            let found = link.client().query_opt(&statements.load, &[&key]).await?;
            let entry = |row: tokio_postgres::Row| {
                Ok(Entry { value: row.try_get(0)?, revision: row.try_get::<_, i64>(1)? as u64 })
            };
            found.map(entry).transpose()
        })
    }

    fn list(&self, range: KeyRange<'_>) -> Result<Vec<Vec<u8>>, StoreError> {
        let KeyRange { from, end, after, max } = range;
        let (from, after, max) = (from.to_vec(), after.to_vec(), i64::from(max));
        self.read(async move |link| {
            let (client, statements) = (link.client(), link.statements().await?);
            let rows = match &end {
                Some(end) => {
                    client.query(&statements.list_below, &[&from, &after, &max, end]).await?
                }
                None => client.query(&statements.list, &[&from, &after, &max]).await?,
            };
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
        })
    }

    fn change(&self, changes: Vec<Change<'_>>) -> Result<Vec<u64>, StoreError> {
        let changes: Vec<_> = changes.into_iter().map(Change::into_owned).collect();
        let change = async move |link: &Link| transaction::run(link, &changes).await;
        self.writer.with(|worker| worker.run(change))
    }

    fn check(&self) -> Result<(), StoreError> {
        self.read(async |link| {
            let statements = link.statements().await?;
            link.client().query_one(&statements.last, &[]).await?;
            Ok(())
        })
    }
}
