//! `hotbay call`: one call of one plugin, or the same call many times to see what it costs.

use std::time::{Duration, Instant};

use hotbay::{Error, PluginHandle, Reply};
use serde_json::{Value, json};

use crate::Verdict;
use crate::args::{Call, Options};
use crate::failure::Failure;
use crate::input::Input;
use crate::output::{Out, say};
use crate::start::{block_on, start};

pub(crate) fn call(args: &Call, options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let input = Input::of_call(args)?;
    let mut started = start(std::slice::from_ref(&args.plugin), options)?;
    let outcome = started.plugins.first().map(|plugin| repeat(plugin, &input, args));
    let told = match outcome {
        Some(Ok((reply, took))) => tell(&reply, took, args, options, out),
        Some(Err(error)) => {
            started.note(&error);
            Err(error.into())
        }
        None => Ok(()),
    };
    started.end();
    told.map(|()| Verdict::Well)
}

fn repeat(plugin: &PluginHandle, input: &Input, args: &Call) -> Result<(Reply, Duration), Error> {
    let start = Instant::now();
    let mut reply = once(plugin, input, args)?;
    for _ in 1..args.repeat {
        reply = once(plugin, input, args)?;
    }
    Ok((reply, start.elapsed()))
}

/// In this thread, which is the quickest, unless the plugin may not be waited for.
fn once(plugin: &PluginHandle, input: &Input, args: &Call) -> Result<Reply, Error> {
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
        Some(wait_max) => block_on(plugin.execute(request.with_timeout(wait_max))),
    }
}

fn tell(
    reply: &Reply,
    took: Duration,
    args: &Call,
    options: &Options,
    out: &mut Out,
) -> Result<(), Failure> {
    if options.json {
        out.json(&reply_json(reply))?;
    } else {
        tell_bytes(reply, out)?;
    }
    out.flush()?;
    if args.repeat > 1 {
        let each_ns = took.as_nanos() / u128::from(args.repeat);
        let each = Duration::from_nanos(u64::try_from(each_ns).unwrap_or(u64::MAX));
        say(&format!("{} calls, {each:?} each", args.repeat));
    }
    Ok(())
}

/// The reply's bytes, unchanged; on a terminal the prompt gets a line of its own.
pub(crate) fn tell_bytes(reply: &Reply, out: &mut Out) -> Result<(), Failure> {
    out.bytes(reply.as_bytes())?;
    if out.is_terminal() && !reply.as_bytes().ends_with(b"\n") {
        out.bytes(b"\n")?;
    }
    Ok(())
}

/// The reply with `text`, or with `bytes` as a list of numbers when it is none.
pub(crate) fn reply_json(reply: &Reply) -> Value {
    let mut json = bytes_json(reply.as_bytes());
    json["content_type"] = reply.content_type().into();
    json["generation"] = reply.generation().get().into();
    json
}

/// As `text`, or as `bytes` when it is none.
pub(crate) fn bytes_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "bytes": bytes }),
    }
}
