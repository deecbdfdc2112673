//! The state that all connections share: the plugin, what the program serves, and its activity.

use std::sync::Arc;

use super::call::Endpoint;
use super::contracts::Contracts;
use super::instance::Instance;
use super::settings::Token;
use super::stop::{ActivityTracker, StopSignal};
#[cfg(doc)]
use crate::Plugin;

/// What a program serves besides the methods of [`Plugin`].
#[derive(Debug)]
pub(super) struct Functions<T: 'static> {
    pub(super) endpoints: Vec<(&'static str, Endpoint<T>)>,
    pub(super) contracts: Contracts<T>,
}

/// State shared by all connections.
#[derive(Debug)]
pub(super) struct Server<T: 'static> {
    pub(super) instance: Instance<T>,
    pub(super) functions: Functions<T>,
    pub(super) token: Option<Token>,
    pub(super) activity: ActivityTracker,
    pub(super) stop_signal: Arc<StopSignal>,
}
