//! `hotbay pipe`: stdin through plugins in a row, as a whole or line by line.
//! Holds one request and one reply at a time, however long the input is.

use std::io::{self, BufReader};

use hotbay::{Error, PluginHandle, Reply, Request};

use crate::Verdict;
use crate::args::{Options, Pipe};
use crate::call::{reply_json, tell_bytes};
use crate::failure::Failure;
use crate::input::{Input, Line, bytes_max, next_line};
use crate::output::{Out, say};
use crate::start::start;

pub(crate) fn pipe(args: &Pipe, options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let started = start(&args.plugins, options)?;
    let ended = if args.lines {
        lines(&started.plugins, options, out)
    } else {
        whole(&started.plugins, options, out)
    };
    let ended = ended.and_then(|verdict| out.flush().map(|()| verdict));
    started.end();
    ended
}

fn whole(plugins: &[PluginHandle], options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let input = Input::of_stdin()?;
    let Some(reply) = through(plugins, input.request())? else {
        return Ok(Verdict::Well);
    };
    match options.json {
        true => out.json(&reply_json(&reply))?,
        false => tell_bytes(&reply, out)?,
    }
    Ok(Verdict::Well)
}

fn lines(plugins: &[PluginHandle], options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let mut verdict = Verdict::Well;
    let mut stdin = BufReader::new(io::stdin());
    let bytes_max = bytes_max();
    for number in 1_u64.. {
        let line = next_line(&mut stdin, bytes_max)
            .map_err(|error| Failure::io("cannot read stdin", &error))?;
        let outcome = match line {
            None => break,
            Some(Line::TooLong) => {
                let message = format!("it is longer than {bytes_max} bytes");
                Err(Failure::new("input", message))
            }
            Some(Line::Whole(line)) => {
                through(plugins, Input::new(line).request()).map_err(Failure::from)
            }
        };
        match outcome {
            Ok(Some(reply)) => tell_line(number, &reply, options, out)?,
            Ok(None) => {}
            Err(failure) => {
                verdict = Verdict::Wrong;
                tell_failed(number, &failure, options, out)?;
            }
        }
        // Whoever waits for an answer gets it before the next line is waited for.
        if stdin.buffer().is_empty() {
            out.flush()?;
        }
        if out.is_closed() {
            break;
        }
    }
    Ok(verdict)
}

/// Calls one after the other; each reply is the next one's request.
fn through(plugins: &[PluginHandle], request: Request<'_>) -> Result<Option<Reply>, Error> {
    let Some((first, others)) = plugins.split_first() else {
        return Ok(None);
    };
    let mut reply = first.call(request)?;
    for plugin in others {
        reply = plugin.call(Request::from(reply))?;
    }
    Ok(Some(reply))
}

fn tell_line(number: u64, reply: &Reply, options: &Options, out: &mut Out) -> Result<(), Failure> {
    if options.json {
        let mut json = reply_json(reply);
        json["line"] = number.into();
        return out.json_line(&json);
    }
    out.bytes(reply.as_bytes())?;
    out.bytes(b"\n")
}

fn tell_failed(
    number: u64,
    failure: &Failure,
    options: &Options,
    out: &mut Out,
) -> Result<(), Failure> {
    if options.json {
        return out.json_line(&serde_json::json!({ "line": number, "error": failure.json() }));
    }
    // Both go to one terminal: in the order in which they came.
    out.flush()?;
    for line in failure.lines() {
        say(&line.replacen("error:", &format!("error: line {number}:"), 1));
    }
    Ok(())
}
