//! The handler of the protocol: lists tools, calls plugins, and reports changes of the list.

use std::sync::Arc;

use hotbay::CancellationToken;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, SubscriptionFilter,
};
use rmcp::service::{NotificationContext, RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use tokio::sync::watch;

use crate::catalog::Catalog;
use crate::messages::{PluginTool, result_of};

/// A server of one client.
#[derive(Debug)]
pub(crate) struct ToolServer {
    catalog: Arc<Catalog>,
    /// Has seen the list at the start, so that no change since then is missed.
    changes: watch::Receiver<Vec<PluginTool>>,
    /// Cancelled when the client has closed the connection.
    ended: CancellationToken,
}

impl ToolServer {
    pub(crate) fn new(catalog: Arc<Catalog>, ended: CancellationToken) -> Self {
        let changes = catalog.changes();
        Self { catalog, changes, ended }
    }
}

impl ServerHandler for ToolServer {
    fn get_info(&self) -> ServerConfig {
        let tools = ServerCapabilities::builder().enable_tools().enable_tool_list_changed();
        let implementation = Implementation::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        ServerConfig::new(tools.build()).with_server_info(implementation)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = self.catalog.tools().into_iter().map(|tool| tool.tool);
        Ok(ListToolsResult::with_all_items(tools.collect()))
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = self.catalog.tool(&call.name) else {
            let message = format!("tool `{}` not found", call.name);
            return Err(ErrorData::invalid_params(message, None));
        };
        let request = tool.request(call.arguments.unwrap_or_default());
        let called = request.and_then(|request| {
            let plugin = self.catalog.host().plugin(&call.name)?;
            // A cancelled request keeps its future, so the token cancels the call.
            Ok(plugin.execute(request.with_cancellation_token(context.ct)))
        });
        let reply = match called {
            Ok(reply) => reply.await,
            Err(error) => Err(error),
        };
        Ok(result_of(reply).into())
    }

    /// Notifies a client that has initialized the session; since version 2026-07-28 of the protocol,
    /// clients do not, but call [`listen`](Self::listen).
    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let mut changes = self.changes.clone();
        while changes.changed().await.is_ok() {
            if context.peer.notify_tool_list_changed().await.is_err() {
                return;
            }
        }
    }

    fn accepted_subscription_filter(&self, _: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(SubscriptionFilter::builder().tools_list_changed().build())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.changes.clone();
        loop {
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() || context.sink().notify_tool_list_changed().await.is_err() {
                        return Ok(());
                    }
                }
                () = context.cancelled() => return Ok(()),
                () = self.ended.cancelled() => return Ok(()),
            }
        }
    }
}
