//! Whether a process is hung: asked when a call has missed its deadline. A process that is merely
//! slow answers `/healthz`, or some call, in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::http::{Async, Delivery, HttpRequest, Transport as _};
use super::requests::Shared;
use super::state::Live;

/// Between two requests for the health, where one failed at once.
const AGAIN_IN: Duration = Duration::from_millis(50);

/// Whether a process is hung: `/healthz` is not answered within the limit, on a connection of its
/// own, and nothing else is answered meanwhile. Any response counts, whatever its status.
pub(super) async fn is_hung(shared: Arc<Shared>, live: Arc<Live>) -> bool {
    let answers = shared.activity.answers();
    let until = Instant::now() + shared.program.limits.health_timeout;
    let ask = HttpRequest::health();
    let asked = async {
        loop {
            match live.client.send_on_new_connection::<Async>(&ask).await {
                Ok(_) => return,
                // What is invalid was written by somebody who is alive.
                Err(broken) if broken.has_response && broken.delivery == Delivery::MaybeSent => {
                    return;
                }
                Err(_) => tokio::time::sleep(AGAIN_IN).await,
            }
        }
    };
    Async::timeout_at(until, asked).await.is_none() && shared.activity.answers() == answers
}
