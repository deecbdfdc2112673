//! Stands in for the checker of values in a build without the feature `schema`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use crate::schema_error::SchemaError;

/// A compiled JSON Schema; without the feature `schema`, none can be compiled.
#[derive(Debug)]
pub struct Checker(Infallible);

impl Checker {
    /// Fails, since this build has no schema checker.
    ///
    /// # Errors
    ///
    /// Always [`SchemaError::Unsupported`].
    pub fn new(_: &Value, _: Option<Instant>) -> Result<Self, SchemaError> {
        Err(SchemaError::Unsupported)
    }

    /// Never called, since no checker exists.
    pub fn schema(&self) -> &Arc<Value> {
        match self.0 {}
    }

    /// Never called, since no checker exists.
    ///
    /// # Errors
    ///
    /// None.
    pub fn check(&self, _: &Value, _: Option<Instant>) -> Result<(), SchemaError> {
        match self.0 {}
    }

    /// Never called, since no checker exists.
    ///
    /// # Errors
    ///
    /// None.
    pub fn check_text(&self, _: &[u8], _: Option<Instant>) -> Result<(), SchemaError> {
        match self.0 {}
    }
}
