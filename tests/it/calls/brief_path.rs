//! The brief path of a call has the same outcomes and counters as the middleware.

use std::time::Duration;

use hotbay::{Call, Error, Host, Layer, Next, Output, PluginError, Reply, Request};

struct PassThrough;

impl Layer for PassThrough {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        next.call(call)
    }
}

/// Returns a host whose calls take the brief path, or all pass a layer.
fn host(is_layered: bool) -> Host {
    let builder = Host::builder().quarantine(None).register_fn("any", |context, input| match input
        .as_text(
    )? {
        "fail" => Err(PluginError::new(7, "failed, on request")),
        "panic" => panic!("on request"),
        "late" => {
            while !context.is_cancelled() {
                std::hint::spin_loop();
            }
            Err(PluginError::new(499, "cancelled, on request"))
        }
        "type" => Ok(Output::text("x").with_content_type("a\nb")),
        "own" => Ok(Output::copy_of(b"x").with_content_type("text/csv")),
        _ => Ok(Output::copy_of(input.as_bytes())),
    });
    let builder = if is_layered { builder.layer(PassThrough) } else { builder };
    builder.build().unwrap()
}

#[test]
fn brief_path_and_middleware_have_the_same_outcomes_and_counters() {
    let outcomes = [false, true].map(|is_layered| {
        let host = host(is_layered);
        let plugin = host.plugin("any").unwrap();
        let pinned = plugin.pin().unwrap();
        // The first call is timed, in the middleware.
        plugin.call(Request::text("")).unwrap();
        let mut outcomes = Vec::new();
        let lengths = [0, 1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 4096].map(|len| "x".repeat(len));
        let words = ["fail", "panic", "late", "type", "own"].map(str::to_owned);
        for input in lengths.into_iter().chain(words) {
            for timeout in [None, Some(0), Some(50), Some(60_000)] {
                // Only the plugin that waits for its deadline may see it pass.
                if (input == "late") == matches!(timeout, None | Some(60_000)) && timeout != Some(0)
                {
                    continue;
                }
                let request = || {
                    let request = Request::text(&input);
                    let timeout = timeout.map(Duration::from_millis);
                    timeout.into_iter().fold(request, Request::with_timeout)
                };
                for outcome in [plugin.call(request()), pinned.call(request())] {
                    outcomes.push(match outcome {
                        Ok(reply) => {
                            let generation = Some(reply.generation());
                            let text = reply.as_text().unwrap().to_owned();
                            (format!("{} {text}", reply.content_type()), generation)
                        }
                        Err(error) => (
                            format!("{:?} {}", error.kind(), error.full_message()),
                            error.generation(),
                        ),
                    });
                }
            }
        }
        let stats = &host.list()[0].stats;
        let counted = (stats.calls, stats.errors, stats.faults, stats.refused, stats.abandoned);
        assert_eq!(stats.calls, outcomes.len() as u64 + 1);
        (outcomes, counted)
    });
    let [brief, layered] = outcomes;
    for (brief, layered) in brief.0.iter().zip(&layered.0) {
        assert_eq!(brief, layered);
    }
    assert_eq!(brief.1, layered.1);
}
