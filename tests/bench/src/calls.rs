//! Single calls: through the handle and through a pin, compared with a raw trait object and a raw C
//! function, with outputs in place and on the heap.

use std::hint::black_box;
use std::time::Duration;

use hotbay::{Pinned, PluginHandle, Request};

use crate::fixtures::{Echoes, Fixtures, IN_PLACE, title};
use crate::raw::RawPlugin;
use crate::sample::{Contender, Samples, interleaved};
use crate::table::{Report, Table, none, ns, verdict};

/// The size for which there are goals.
const GOAL_BYTES: usize = 16;
/// The goals, in nanoseconds above a raw call.
const GOALS: [(&str, f64); 3] =
    [("call: in place", 7.0), ("pin: in place", 4.5), ("call: heap, counted", 14.0)];

pub(crate) fn measure(fixtures: &Fixtures, quick: bool, report: &Report) -> anyhow::Result<()> {
    let raw = RawPlugin::load(&fixtures.raw)?;
    let echoes = Echoes::load(fixtures)?;
    let limited = echoes.load_limited(fixtures)?;
    let pins: Vec<_> = echoes
        .plugins
        .iter()
        .map(|(what, handle)| handle.pin().map(|pin| (*what, pin)))
        .collect::<Result<_, _>>()?;
    for bytes in [GOAL_BYTES, 1024] {
        let input = vec![b'x'; bytes];
        let mut contenders = vec![object(&raw, &input), c(&raw, &input)];
        for ((what, handle), (_, pin)) in echoes.plugins.iter().zip(&pins) {
            // In-place outputs hold 24 bytes; longer copies go to the heap.
            if *what != IN_PLACE || bytes <= 24 {
                contenders.push(call(what, handle, &input));
                contenders.push(pinned(what, pin, &input));
            }
        }
        contenders.push(call("heap, memory limited", &limited, &input));
        let (rounds, sample) = if quick { (20, 20) } else { (4000, 50) };
        let samples = interleaved(&mut contenders, rounds, Duration::from_micros(sample));
        report.print(&table(bytes, &samples));
    }
    Ok(())
}

fn table(bytes: usize, samples: &[Samples]) -> Table {
    let title = title(&format!("Calls: {bytes} bytes in, {bytes} bytes out (ns per call)"));
    let head = ["what", "min", "median", "over raw, min", "over raw, median", "goal", ""];
    let mut table = Table::new(title, head);
    let raw = &samples[0];
    for one in samples {
        let by_min = one.min() - raw.min();
        let goal = GOALS.iter().find(|(name, _)| bytes == GOAL_BYTES && *name == one.name);
        let goal = goal.map(|(_, goal)| *goal);
        table.row([
            one.name.clone(),
            ns(one.min()),
            ns(one.median()),
            format!("{by_min:+.1}"),
            format!("{:+.1}", one.above(raw)),
            goal.map_or_else(none, |goal| format!("≤ +{goal}")),
            goal.map_or_else(none, |goal| verdict(one.above(raw) <= goal)),
        ]);
    }
    table.note(
        "Goals are relative to `raw: trait object`; its output, and that of `raw: C`, is on the \
         heap. `in place` is `Output::copy_of`, which allocates nothing; `heap` is \
         `Output::bytes`; `counted` uses the allocator of `export_plugin!(T)`, and so does `memory \
         limited`, with `limits.call_memory_bytes`. `over raw, median` \
         is the median of the differences of neighboring samples, and goals refer to it.",
    );
    table
}

fn object<'a>(raw: &'a RawPlugin, input: &'a [u8]) -> Contender<'a> {
    Contender {
        name: "raw: trait object".to_owned(),
        work: Box::new(move |times| {
            for _ in 0..times {
                let output = raw.object(black_box(input));
                black_box(output.as_slice());
            }
        }),
    }
}

fn c<'a>(raw: &'a RawPlugin, input: &'a [u8]) -> Contender<'a> {
    Contender {
        name: "raw: C".to_owned(),
        work: Box::new(move |times| {
            for _ in 0..times {
                let output = raw.c(black_box(input));
                black_box(output.as_slice());
            }
        }),
    }
}

fn call<'a>(what: &str, handle: &'a PluginHandle, input: &'a [u8]) -> Contender<'a> {
    Contender {
        name: format!("call: {what}"),
        work: Box::new(move |times| {
            for _ in 0..times {
                let reply = handle.call(Request::bytes(black_box(input)));
                let reply = reply.expect("the echo succeeds");
                black_box(reply.as_bytes());
            }
        }),
    }
}

fn pinned<'a>(what: &str, pin: &'a Pinned, input: &'a [u8]) -> Contender<'a> {
    Contender {
        name: format!("pin: {what}"),
        work: Box::new(move |times| {
            for _ in 0..times {
                let reply = pin.call(Request::bytes(black_box(input)));
                let reply = reply.expect("the echo succeeds");
                black_box(reply.as_bytes());
            }
        }),
    }
}
