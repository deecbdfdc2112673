//! How a program ends: asked by a signal, by a request, by nobody for long enough. Each time it
//! has to go by itself, with code 0, and to take its files and processes along.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::super::diagnose;
use super::super::http::Async;
use super::super::location::Location;
use super::super::start::Started;
use super::kit::{RawRequest, TestKit};
use super::{ANSWER_WAIT_MAX, END_WAIT_MAX, Outcome, failed, skipped};
use crate::sync::lock;

/// The `idleTimeout` of the launch that is left alone.
const IDLE_MAX: Duration = Duration::from_millis(200);
/// Until then it has to be seen as ended, on a busy machine too.
const IDLE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long what it had started may take to go with it.
const LEFTOVERS_WAIT_MAX: Duration = Duration::from_millis(500);
const LEFTOVERS_LOOK_EVERY: Duration = Duration::from_millis(5);

/// SIGTERM.
pub(super) async fn by_signal(kit: &mut TestKit) -> Outcome {
    kit.live()?;
    let Some(started) = kit.running.take() else { return skipped("it does not run") };
    started.child.terminate();
    ended(kit, started, "SIGTERM", END_WAIT_MAX).await
}

/// `/shutdown`.
pub(super) async fn by_request(kit: &mut TestKit) -> Outcome {
    if !kit.is_ours() {
        return skipped("older dialect: it is ended by SIGTERM");
    }
    kit.live()?;
    let Some(started) = kit.running.take() else { return skipped("it does not run") };
    let mut knock = RawRequest::get("shutdown");
    knock.method = hyper::Method::POST;
    let ask = knock.ask();
    let asked = started.live.client.send::<Async>(&ask);
    let answer = timeout(ANSWER_WAIT_MAX, asked).await;
    let was_ok = match &answer {
        Ok(Ok(answer)) => answer.status == hyper::StatusCode::OK,
        _ => false,
    };
    let outcome = ended(kit, started, "`/shutdown`", END_WAIT_MAX).await;
    match answer {
        _ if was_ok => outcome,
        Ok(Ok(answer)) => failed(format!(
            "`POST /shutdown` was answered {}; wanted 200, then the end",
            answer.status.as_u16()
        )),
        Ok(Err(broken)) => failed(format!(
            "`POST /shutdown` was not answered: {}; wanted 200, then the end",
            broken.message
        )),
        Err(_) => failed("`POST /shutdown` was not answered; wanted 200, then the end"),
    }
}

/// A process that nobody calls.
pub(super) async fn when_idle(kit: &mut TestKit) -> Outcome {
    if !kit.is_ours() {
        return skipped("older dialect: the host ends it");
    }
    kit.start_again(Some(IDLE_MAX)).await;
    let told = IDLE_MAX.as_nanos();
    let Some(started) = kit.running.take() else {
        // With so short a time it may be gone before it was asked whether it is ready.
        return skipped(format!("it could not be started: {}", kit.not_running));
    };
    let given = kit.config_channel();
    let why = format!("an `idleTimeout` of {told} (nanoseconds, given by {given})");
    ended(kit, started, &why, IDLE_WAIT_MAX).await
}

/// Waits for the end, and judges it.
async fn ended(kit: &TestKit, mut started: Started, cause: &str, wait_max: Duration) -> Outcome {
    let asked_at = Instant::now();
    let status = timeout(wait_max, started.child.wait()).await.ok();
    let took = asked_at.elapsed().as_millis();
    let files = files_left(started.live.client.location());
    if status.is_some() {
        let left = left_behind(&started).await;
        lock(&kit.left).extend(left.map(|count| format!("{count} after {cause}")));
    }
    let path = kit.program.staged.path();
    let Started { child, readers, tail, services, folder, .. } = started;
    for reader in readers {
        reader.end().await;
    }
    let _ = child.stop(Duration::ZERO).await;
    drop((services, folder));
    let Some(status) = status else {
        let waited = wait_max.as_secs();
        return failed(format!(
            "it did not end within {waited} s after {cause}; wanted that it finishes what runs, \
             removes its socket and lock, and exits with code 0"
        ));
    };
    if !kit.is_ours() {
        return Ok(format!("it ended {took} ms after {cause}"));
    }
    if !is_well(status) {
        let how = diagnose::of_exit(status, &path, &lock(&tail));
        return failed(format!(
            "after {cause} it did not end with code 0: {how}; wanted that it finishes what runs, \
             removes its socket and lock, and exits with code 0"
        ));
    }
    match files.as_slice() {
        [] => Ok(format!("it ended with code 0, {took} ms after {cause}")),
        files => failed(format!(
            "after {cause} it left {}; wanted that it removes its socket and lock",
            files.join(" and ")
        )),
    }
}

fn is_well(status: ExitStatus) -> bool {
    status.code() == Some(0)
}

/// The socket and its lock, as far as they are still there.
fn files_left(location: &Location) -> Vec<String> {
    let Location::Unix(socket) = location else { return Vec::new() };
    let mut lock = socket.clone().into_os_string();
    lock.push(".lock");
    let all = [socket.clone(), PathBuf::from(lock)];
    let left = all.iter().filter(|file| file.symlink_metadata().is_ok());
    left.map(|file| format!("`{}`", file.display())).collect()
}

/// How many processes that it started live on.
#[cfg(target_os = "linux")]
async fn left_behind(started: &Started) -> Option<usize> {
    use super::super::launch_tag::carriers;
    let until = Instant::now() + LEFTOVERS_WAIT_MAX;
    loop {
        let mark = started.child.mark().to_owned();
        let looked = tokio::task::spawn_blocking(move || carriers::all(&mark).len()).await;
        match looked {
            Ok(0) | Err(_) => return None,
            Ok(count) if Instant::now() >= until => return Some(count),
            Ok(_) => tokio::time::sleep(LEFTOVERS_LOOK_EVERY).await,
        }
    }
}

#[cfg(not(target_os = "linux"))]
async fn left_behind(_: &Started) -> Option<usize> {
    None
}

/// Whether any of the ends left processes.
pub(super) fn leftovers(kit: &TestKit) -> Outcome {
    if cfg!(not(target_os = "linux")) {
        return skipped("this system does not tell who started what");
    }
    let left = lock(&kit.left);
    if left.is_empty() {
        return Ok("no process that it started outlived it".to_owned());
    }
    failed(format!(
        "processes that it started live on: {}; wanted that it ends and waits for them before it \
         exits (the host kills them)",
        left.join(", ")
    ))
}
