//! Stands in for the contracts of a program without the feature `contracts`: there are none.

use std::marker::PhantomData;
use std::sync::Arc;

use hotbay_protocol::ContractBody;
use hyper::Response;
use hyper::header::HeaderMap;

use super::body::OutgoingBody;
use super::call::CallHeaders;
use super::connections::Connection;
use super::instance::Instance;

/// No contracts.
#[derive(Debug)]
pub(super) struct Contracts<T>(PhantomData<fn(&T)>);

/// A method, of which there are none.
#[derive(Debug)]
pub(super) struct ServedMethod<T>(std::convert::Infallible, PhantomData<fn(&T)>);

impl<T> Contracts<T> {
    pub(super) fn method(&self, _: &str) -> Option<&'static ServedMethod<T>> {
        None
    }

    pub(super) fn texts(&self) -> Result<Vec<ContractBody>, String> {
        Ok(Vec::new())
    }
}

impl<T> Default for Contracts<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

pub(super) fn respond<T, A>(
    _: &Instance<T>,
    _: impl FnOnce() -> A,
    _: &Arc<Connection>,
    _: CallHeaders,
    _: HeaderMap,
    _: &[u8],
    method: &ServedMethod<T>,
) -> Response<OutgoingBody> {
    match method.0 {}
}
