//! Checks whether a process hangs, after a call has exceeded its deadline. A process that is merely
//! slow answers `/healthz`, or another call, in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::http::{Async, Delivery, HttpRequest, Transport as _};
use super::requests::Shared;
use super::state::Live;

/// Delay between two health requests if one failed at once.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Returns whether a process hangs: neither `/healthz`, on a new connection, nor any call is
/// answered within the limit. Any response counts, whatever its status.
pub(super) async fn is_hung(shared: Arc<Shared>, live: Arc<Live>) -> bool {
    let answers = shared.activity.answers();
    let until = Instant::now() + shared.program.limits.health_timeout;
    let request = HttpRequest::health();
    let probe = async {
        loop {
            match live.client.send_on_new_connection::<Async>(&request).await {
                Ok(_) => return,
                // Even an invalid response proves that the process is alive.
                Err(error) if error.has_response && error.delivery == Delivery::MaybeSent => {
                    return;
                }
                Err(_) => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
    };
    Async::timeout_at(until, probe).await.is_none() && shared.activity.answers() == answers
}
