//! The cost of a deadline and of an application layer: the same calls with and without them.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hotbay::{Call, Error, Host, Layer, Next, PluginHandle, Reply, Request};

use crate::fixtures::{Echoes, Fixtures, IN_PLACE, title};
use crate::sample::{Contender, Samples, interleaved};
use crate::table::{Report, Table, none, ns, verdict};

const MAX_DEADLINE_NS: f64 = 15.0;
const MAX_LAYER_NS: f64 = 8.0;

struct Passing;

impl Layer for Passing {
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
        next.call(call)
    }
}

pub(crate) fn measure(fixtures: &Fixtures, quick: bool, report: &Report) -> anyhow::Result<()> {
    let echoes = Echoes::load(fixtures)?;
    let layered = Echoes::load_into(fixtures, Host::builder().layer(Passing))?;
    let in_place = |echoes: &Echoes| {
        let found = echoes.plugins.iter().find(|(what, _)| *what == IN_PLACE);
        found.map(|(_, handle)| handle.clone()).expect("the plugin is loaded")
    };
    let (plain, layered) = (in_place(&echoes), in_place(&layered));
    let input = [b'x'; 16];
    let far = Instant::now() + Duration::from_secs(3600);
    let mut contenders = [
        contender("call", &plain, |handle| {
            let reply = handle.call(Request::bytes(black_box(&input)));
            black_box(reply.expect("the echo succeeds").as_bytes());
        }),
        contender("call with a deadline", &plain, |handle| {
            let request = Request::bytes(black_box(&input)).with_deadline(far);
            black_box(handle.call(request).expect("the echo succeeds").as_bytes());
        }),
        contender("call with a timeout", &plain, |handle| {
            let request = Request::bytes(black_box(&input)).with_timeout(Duration::from_secs(5));
            black_box(handle.call(request).expect("the echo succeeds").as_bytes());
        }),
        contender("call through an application layer", &layered, |handle| {
            let reply = handle.call(Request::bytes(black_box(&input)));
            black_box(reply.expect("the echo succeeds").as_bytes());
        }),
    ];
    let goals = [None, Some(MAX_DEADLINE_NS), Some(MAX_DEADLINE_NS), Some(MAX_LAYER_NS)];
    let (rounds, sample) = if quick { (20, 20) } else { (4000, 50) };
    let samples = interleaved(&mut contenders, rounds, Duration::from_micros(sample));
    report.print(&table(&samples, &goals));
    Ok(())
}

fn contender<'a>(
    name: &str,
    handle: &'a PluginHandle,
    call: impl Fn(&PluginHandle) + 'a,
) -> Contender<'a> {
    Contender {
        name: name.to_owned(),
        work: Box::new(move |times| {
            for _ in 0..times {
                call(handle);
            }
        }),
    }
}

fn table(samples: &[Samples], goals: &[Option<f64>]) -> Table {
    let head = ["what", "min", "median", "over call, min", "over call, median", "goal", ""];
    let mut table = Table::new(title("Layers: 16 bytes, in place (ns per call)"), head);
    let call = &samples[0];
    for (one, goal) in samples.iter().zip(goals) {
        let above = one.above(call);
        table.row([
            one.name.clone(),
            ns(one.min()),
            ns(one.median()),
            format!("{:+.1}", one.min() - call.min()),
            format!("{above:+.1}"),
            goal.map_or_else(none, |goal| format!("≤ +{goal}")),
            goal.map_or_else(none, |goal| verdict(above <= goal)),
        ]);
    }
    table.note(
        "No trace subscriber is installed. A deadline an hour away is checked against the coarse \
         clock; a timeout also reads the precise clock once, when it is set. The clock is read \
         again only if the plugin queries the deadline.",
    );
    table
}
