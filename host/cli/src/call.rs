//! `hotbay call`: calls a plugin once, or repeatedly to measure the time per call.

use std::time::{Duration, Instant};

use hotbay::{Error, PluginHandle, Reply};
use serde_json::{Value, json};

use crate::Status;
use crate::args::{Call, Options};
use crate::failure::Failure;
use crate::input::Input;
use crate::output::{Out, print_message};
use crate::start::{block_on, start};

pub(crate) fn call(args: &Call, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let input = Input::of_call(args)?;
    let mut loaded = start(std::slice::from_ref(&args.plugin), options)?;
    let outcome = loaded.plugins.first().map(|plugin| repeat(plugin, &input, args));
    let printed = match outcome {
        Some(Ok((reply, elapsed))) => print(&reply, elapsed, args, options, out),
        Some(Err(error)) => {
            loaded.record_error(&error);
            Err(error.into())
        }
        None => Ok(()),
    };
    loaded.shut_down();
    printed.map(|()| Status::Success)
}

fn repeat(plugin: &PluginHandle, input: &Input, args: &Call) -> Result<(Reply, Duration), Error> {
    let start = Instant::now();
    let mut reply = call_once(plugin, input, args)?;
    for _ in 1..args.repeat {
        reply = call_once(plugin, input, args)?;
    }
    Ok((reply, start.elapsed()))
}

/// Calls on this thread, which is fastest, unless there is a deadline.
fn call_once(plugin: &PluginHandle, input: &Input, args: &Call) -> Result<Reply, Error> {
    let mut request = input.request();
    if let Some(endpoint) = &args.endpoint {
        request = request.with_endpoint(endpoint.clone());
    }
    if let Some(method) = &args.method {
        request = request.with_method(method.clone());
    }
    for (name, value) in &args.headers {
        request = request.with_header(name.clone(), value.clone());
    }
    match args.deadline {
        None => plugin.call(request),
        Some(deadline) => block_on(plugin.execute(request.with_timeout(deadline))),
    }
}

fn print(
    reply: &Reply,
    elapsed: Duration,
    args: &Call,
    options: &Options,
    out: &mut Out,
) -> Result<(), Failure> {
    if options.json {
        out.json(&reply_json(reply))?;
    } else {
        write_reply(reply, out)?;
    }
    out.flush()?;
    if args.repeat > 1 {
        let each_ns = elapsed.as_nanos() / u128::from(args.repeat);
        let each = Duration::from_nanos(u64::try_from(each_ns).unwrap_or(u64::MAX));
        print_message(&format!("{} calls, {each:?} each", args.repeat));
    }
    Ok(())
}

/// Writes the reply's bytes unchanged, and a line end if stdout is a terminal.
pub(crate) fn write_reply(reply: &Reply, out: &mut Out) -> Result<(), Failure> {
    out.bytes(reply.as_bytes())?;
    if out.is_terminal() && !reply.as_bytes().ends_with(b"\n") {
        out.bytes(b"\n")?;
    }
    Ok(())
}

/// Returns the reply as JSON, with the bytes as in [`bytes_json`].
pub(crate) fn reply_json(reply: &Reply) -> Value {
    let mut json = bytes_json(reply.as_bytes());
    json["content_type"] = reply.content_type().into();
    json["generation"] = reply.generation().get().into();
    json
}

/// Returns the bytes as `text`, or as the list of numbers `bytes` if they are not UTF-8.
pub(crate) fn bytes_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "bytes": bytes }),
    }
}
