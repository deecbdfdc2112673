//! Steps that stop the program: by a signal, by a request, by its idle timeout. Each time it must
//! exit with code 0 and remove its files and descendants.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::super::diagnose;
use super::super::http::Async;
use super::super::location::Location;
use super::super::start::Started;
use super::kit::{RawRequest, TestKit};
use super::{EXIT_TIMEOUT, Outcome, RESPONSE_TIMEOUT, failed, skipped};
use crate::sync::lock;

/// The `idleTimeout` of the launch that gets no calls.
const IDLE_TIMEOUT: Duration = Duration::from_millis(200);
/// Time to wait for the idle exit, even on a busy machine.
const IDLE_EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in which its descendants must exit after it.
const LEFTOVERS_TIMEOUT: Duration = Duration::from_millis(500);
const LEFTOVERS_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Stops it with SIGTERM.
pub(super) async fn by_signal(kit: &mut TestKit) -> Outcome {
    kit.live()?;
    let Some(started) = kit.running.take() else { return skipped("it is not running") };
    started.child.terminate();
    check_exit(kit, started, "SIGTERM", EXIT_TIMEOUT).await
}

/// Stops it with `/shutdown`.
pub(super) async fn by_request(kit: &mut TestKit) -> Outcome {
    if !kit.is_ours() {
        return skipped("older dialect: the host stops it with SIGTERM");
    }
    kit.live()?;
    let Some(started) = kit.running.take() else { return skipped("it is not running") };
    let mut raw_request = RawRequest::get("shutdown");
    raw_request.method = hyper::Method::POST;
    let http_request = raw_request.into_http();
    let sending = started.live.client.send::<Async>(&http_request);
    let response = timeout(RESPONSE_TIMEOUT, sending).await;
    let was_ok = match &response {
        Ok(Ok(response)) => response.status == hyper::StatusCode::OK,
        _ => false,
    };
    let outcome = check_exit(kit, started, "`/shutdown`", EXIT_TIMEOUT).await;
    match response {
        _ if was_ok => outcome,
        Ok(Ok(response)) => failed(format!(
            "`POST /shutdown` returned {}; expected 200, then the exit",
            response.status.as_u16()
        )),
        Ok(Err(error)) => failed(format!(
            "`POST /shutdown` was not answered: {}; expected 200, then the exit",
            error.message
        )),
        Err(_) => failed("`POST /shutdown` was not answered; expected 200, then the exit"),
    }
}

/// Lets it exit by its idle timeout.
pub(super) async fn when_idle(kit: &mut TestKit) -> Outcome {
    if !kit.is_ours() {
        return skipped("older dialect: the host stops it when idle");
    }
    kit.start_again(Some(IDLE_TIMEOUT)).await;
    let nanoseconds = IDLE_TIMEOUT.as_nanos();
    let Some(started) = kit.running.take() else {
        // With such a short timeout it may exit before it was polled for readiness.
        return skipped(format!("it was not started: {}", kit.not_running));
    };
    let channel = kit.config_channel();
    let why = format!("an `idleTimeout` of {nanoseconds} ns, passed via {channel}");
    check_exit(kit, started, &why, IDLE_EXIT_TIMEOUT).await
}

/// Waits for the exit, and checks it.
async fn check_exit(
    kit: &TestKit,
    mut started: Started,
    cause: &str,
    exit_timeout: Duration,
) -> Outcome {
    let signaled_at = Instant::now();
    let status = timeout(exit_timeout, started.child.wait()).await.ok();
    let took = signaled_at.elapsed().as_millis();
    let files = files_left(started.live.client.location());
    if status.is_some() {
        let left = count_descendants(&started).await;
        lock(&kit.left).extend(left.map(|count| format!("{count} after {cause}")));
    }
    let path = kit.program.staged.path();
    let Started { child, readers, tail, services, folder, .. } = started;
    for reader in readers {
        reader.finish().await;
    }
    let _ = child.stop(Duration::ZERO).await;
    drop((services, folder));
    let Some(status) = status else {
        let waited = exit_timeout.as_secs();
        return failed(format!(
            "it did not exit within {waited} s after {cause}; expected it to finish running calls, \
             remove its socket and lock, and exit with code 0"
        ));
    };
    if !kit.is_ours() {
        return Ok(format!("it exited {took} ms after {cause}"));
    }
    if !is_success(status) {
        let how = diagnose::of_exit(status, &path, &lock(&tail));
        return failed(how.map_message(|how| {
            format!(
                "after {cause} it did not exit with code 0; expected it to finish running calls, \
                 remove its socket and lock, and exit with code 0: {how}"
            )
        }));
    }
    match files.as_slice() {
        [] => Ok(format!("it exited with code 0, {took} ms after {cause}")),
        files => failed(format!(
            "after {cause} it left {}; expected it to remove its socket and lock",
            files.join(" and ")
        )),
    }
}

fn is_success(status: ExitStatus) -> bool {
    status.code() == Some(0)
}

/// Returns the socket and its lock, as far as they still exist.
fn files_left(location: &Location) -> Vec<String> {
    let Location::Unix(socket) = location else { return Vec::new() };
    let mut lock = socket.clone().into_os_string();
    lock.push(".lock");
    let all = [socket.clone(), PathBuf::from(lock)];
    let left = all.iter().filter(|file| file.symlink_metadata().is_ok());
    left.map(|file| format!("`{}`", file.display())).collect()
}

/// Returns the number of its descendants that still run.
#[cfg(target_os = "linux")]
async fn count_descendants(started: &Started) -> Option<usize> {
    use super::super::launch_tag::tagged_processes;
    let until = Instant::now() + LEFTOVERS_TIMEOUT;
    loop {
        let tag = started.child.tag().to_owned();
        let count = tokio::task::spawn_blocking(move || tagged_processes::all(&tag).len()).await;
        match count {
            Ok(0) | Err(_) => return None,
            Ok(count) if Instant::now() >= until => return Some(count),
            Ok(_) => tokio::time::sleep(LEFTOVERS_POLL_INTERVAL).await,
        }
    }
}

#[cfg(not(target_os = "linux"))]
async fn count_descendants(_: &Started) -> Option<usize> {
    None
}

/// Checks whether any of the exits left processes behind.
pub(super) fn leftovers(kit: &TestKit) -> Outcome {
    if cfg!(not(target_os = "linux")) {
        return skipped("this system cannot attribute processes to a launch");
    }
    let left = lock(&kit.left);
    if left.is_empty() {
        return Ok("none of its descendants outlived it".to_owned());
    }
    failed(format!(
        "its descendants outlived it: {}; expected it to stop them and wait for them before it \
         exits (the host kills them)",
        left.join(", ")
    ))
}
