//! A value of the program that serves a contract to plugins.

use std::sync::Arc;
use std::time::Duration;

use hotbay_plugin::contract::{CallError, CallErrorKind, ContractText, MethodText};

use crate::boundary::{BindError, BoundMethod, Contracts, Instance};
use crate::call::Failure;
use crate::error::{Error, ErrorKind};
use crate::sync::{WaitGroup, deadline_in};

/// Time for tasks of a service that were cancelled, when the service is dropped.
const TASKS_TIMEOUT: Duration = Duration::from_secs(1);

/// A value of the program that serves a contract to plugins.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) instance: Option<Instance>,
    /// Its running async methods.
    pub(super) tasks: Arc<WaitGroup>,
}

impl Service {
    pub(super) fn new(name: &str, instance: Instance) -> Self {
        Self { name: name.to_owned(), instance: Some(instance), tasks: Arc::default() }
    }

    pub(super) fn contracts(&self) -> Option<&Contracts> {
        self.instance.as_ref()?.image().contracts()
    }

    pub(super) fn bind(&self, contract: &ContractText) -> Result<Box<[BoundMethod]>, Error> {
        let contracts = self.contracts().ok_or_else(|| self.not_served())?;
        contracts.bind(contract).map_err(|error| match error {
            BindError::NotServed => self.not_served(),
            BindError::Incompatible { error, .. } => {
                let message =
                    format!("the host serves an incompatible version of contract `{}`", self.name);
                Error::new(ErrorKind::Incompatible, message).caused_by(error)
            }
        })
    }

    #[cold]
    pub(super) fn not_served(&self) -> Error {
        Error::new(ErrorKind::NotProvided, format!("the host does not serve `{}`", self.name))
    }

    /// Returns the error of an async method that does not return before its deadline.
    #[cold]
    pub(super) fn not_in_time(&self, method: &MethodText) -> CallError {
        let (service, method) = (&self.name, &method.name);
        let message =
            format!("method `{method}` of service `{service}` did not return before the deadline");
        CallError::new(CallErrorKind::DeadlineExceeded, message)
    }

    /// Returns the error of a call that failed in the value.
    #[cold]
    pub(super) fn failed(&self, method: &MethodText, failure: Failure) -> CallError {
        let (service, method) = (&self.name, &method.name);
        let (kind, what) = match failure {
            Failure::Error(error) => return error.into(),
            Failure::Panic(fault) => {
                tracing::error!(service, method, %fault, "a service of the host panicked");
                (CallErrorKind::Panicked, fault.to_string())
            }
            Failure::BadArguments(error) => {
                (CallErrorKind::InvalidInput, format!("invalid arguments: {}", error.message()))
            }
            Failure::BadResult(error) => {
                let what = format!("the result cannot be serialized: {}", error.message());
                (CallErrorKind::InvalidOutput, what)
            }
            Failure::Cancelled => (CallErrorKind::Cancelled, "cancelled".to_owned()),
            Failure::Code(code) => (CallErrorKind::Other, format!("returned the code {code}")),
            Failure::Other(error) => (CallErrorKind::Other, error.full_message()),
        };
        CallError::new(kind, format!("method `{method}` of service `{service}`: {what}"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A value whose tasks still run is leaked.
        if self.tasks.wait_idle(deadline_in(TASKS_TIMEOUT))
            && let Some(mut instance) = self.instance.take()
        {
            // An error of its drop concerns no plugin.
            let _ = instance.end(false);
        }
    }
}
