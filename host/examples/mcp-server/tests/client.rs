//! A client and its server, a child process that is killed when dropped.

use std::path::Path;
use std::process::Stdio;

use hotbay_tests::{LIMIT, until};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CallToolResult, ClientRequest, JsonObject,
    ProtocolVersion, SubscriptionFilter, Tool,
};
use rmcp::service::{
    ClientLifecycleMode, NotificationContext, PeerRequestOptions, RequestHandle, RunningService,
    Subscription, serve_client_with_lifecycle,
};
use rmcp::{ClientHandler, RoleClient, ServiceError};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// How a client opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    /// With a session; notifications arrive unasked.
    Initialize,
    /// Without one, as of version 2026-07-28; notifications arrive in subscriptions.
    Discover,
}

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client {
    session: RunningService<RoleClient, Notified>,
    child: Child,
    lifecycle: Lifecycle,
    changes: mpsc::UnboundedReceiver<()>,
    subscription: Option<Subscription>,
}

/// Records notifications outside of subscriptions.
#[derive(Debug)]
pub(crate) struct Notified(mpsc::UnboundedSender<()>);

impl ClientHandler for Notified {
    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        // The receiver is gone when the test has ended.
        let _ = self.0.send(());
    }
}

/// Runs a test, which fails if it takes longer than [`LIMIT`].
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = runtime.block_on(async { tokio::time::timeout(LIMIT, test).await });
    assert!(done.is_ok(), "not completed after {LIMIT:?}");
}

/// Returns the text of a result.
#[track_caller]
pub(crate) fn text_of(result: &CallToolResult) -> &str {
    match &result.content[..] {
        [one] => &one.as_text().expect("a text").text,
        other => panic!("expected one text: {other:?}"),
    }
}

/// Returns the command of a server for this folder.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotbay-mcp-server"));
    command.arg(folder).env("RUST_LOG", "error").kill_on_drop(true);
    command
}

/// Waits for a file, while the runtime of the client runs.
pub(crate) async fn exists(file: &Path) {
    let file = file.to_owned();
    let wait = move || until("the file exists", || file.exists().then_some(()));
    tokio::task::spawn_blocking(wait).await.unwrap();
}

impl Client {
    pub(crate) async fn start(folder: &Path, lifecycle: Lifecycle) -> Self {
        let mut child =
            command(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let streams = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let (sender, changes) = mpsc::unbounded_channel();
        let mode = match lifecycle {
            Lifecycle::Initialize => ClientLifecycleMode::Initialize,
            Lifecycle::Discover => ClientLifecycleMode::Discover {
                preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            },
        };
        let session = serve_client_with_lifecycle(Notified(sender), streams, mode).await.unwrap();
        Self { session, child, lifecycle, changes, subscription: None }
    }

    /// Returns the id of the server's process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("the server is running")
    }

    pub(crate) async fn tools(&self) -> Vec<Tool> {
        self.session.list_all_tools().await.unwrap()
    }

    /// Subscribes to changes of the list, if the lifecycle requires that.
    pub(crate) async fn subscribe(&mut self) {
        if self.lifecycle == Lifecycle::Discover {
            let tools = SubscriptionFilter::builder().tools_list_changed().build();
            self.subscription = Some(self.session.listen(tools).await.unwrap());
        }
    }

    /// Returns what the server accepts of a subscription.
    pub(crate) async fn accepted(&self, filter: SubscriptionFilter) -> SubscriptionFilter {
        let subscription = self.session.listen(filter).await.unwrap();
        subscription.acknowledged().clone()
    }

    /// Waits for notifications until the list is as expected, and returns it.
    pub(crate) async fn changed_until(&mut self, expected: impl Fn(&[Tool]) -> bool) -> Vec<Tool> {
        loop {
            match &mut self.subscription {
                Some(subscription) => {
                    subscription.next().await.unwrap().expect("the subscription is open");
                }
                None => self.changes.recv().await.expect("the client is open"),
            }
            let tools = self.tools().await;
            if expected(&tools) {
                return tools;
            }
        }
    }

    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> CallToolResult {
        self.try_call(tool, arguments).await.unwrap()
    }

    /// Calls a tool, which must fail, and returns the kind of its error.
    pub(crate) async fn failure(&self, tool: &str, arguments: Value) -> Value {
        let reply = self.call(tool, arguments).await;
        assert_eq!(reply.is_error, Some(true), "{reply:?}");
        reply.structured_content.expect("the fields of the error")["kind"].clone()
    }

    pub(crate) async fn try_call(
        &self,
        tool: &str,
        arguments: Value,
    ) -> Result<CallToolResult, ServiceError> {
        self.session.call_tool(params(tool, arguments)).await
    }

    /// Sends a call, whose handle can cancel it.
    pub(crate) async fn send(&self, tool: &str, arguments: Value) -> RequestHandle<RoleClient> {
        let request = CallToolRequest::new(params(tool, arguments));
        let request = ClientRequest::CallToolRequest(request);
        let options = PeerRequestOptions::no_options();
        self.session.send_cancellable_request(request, options).await.unwrap()
    }

    /// Closes the connection; the server must exit without an error.
    pub(crate) async fn close(mut self) {
        self.session.close().await.unwrap();
        let status = self.child.wait().await.unwrap();
        assert!(status.success(), "{status}");
    }

    /// Kills the server.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

fn params(tool: &str, arguments: Value) -> CallToolRequestParams {
    let arguments: JsonObject = serde_json::from_value(arguments).unwrap();
    CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments)
}
