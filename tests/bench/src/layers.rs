//! The cost of the layers around a call: the same calls with and without them.

use std::hint::black_box;
use std::time::Duration;

use hotbay::{Call, Error, Host, Layer, Next, PluginHandle, Reply, Request};

use crate::fixtures::{Echoes, Fixtures, IN_PLACE};
use crate::sample::{Contender, Samples, interleaved};
use crate::table::{Report, Table, none, ns, verdict};

const MAX_LAYERS_NS: f64 = 8.0;

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
    let mut contenders = [
        contender("bare: lease and plugin", &plain, |handle| {
            let reply = handle.call_without_layers(Request::bytes(black_box(&input)));
            black_box(reply.expect("the echo succeeds").as_bytes());
        }),
        contender("default layers", &plain, |handle| {
            let reply = handle.call(Request::bytes(black_box(&input)));
            black_box(reply.expect("the echo succeeds").as_bytes());
        }),
        contender("default layers and a deadline", &plain, |handle| {
            let request = Request::bytes(black_box(&input)).with_timeout(Duration::from_secs(5));
            black_box(handle.call(request).expect("the echo succeeds").as_bytes());
        }),
        contender("default layers and an application layer", &layered, |handle| {
            let reply = handle.call(Request::bytes(black_box(&input)));
            black_box(reply.expect("the echo succeeds").as_bytes());
        }),
    ];
    let (rounds, sample) = if quick { (20, 20) } else { (4000, 50) };
    let samples = interleaved(&mut contenders, rounds, Duration::from_micros(sample));
    report.print(&table(&samples));
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

fn table(samples: &[Samples]) -> Table {
    let head = ["what", "min", "median", "over bare, min", "over bare, median", "goal", ""];
    let mut table = Table::new("Layers: 16 bytes, in place (ns per call)", head);
    let bare = &samples[0];
    for (index, one) in samples.iter().enumerate() {
        let above = one.above(bare);
        let has_goal = index == 1;
        table.row([
            one.name.clone(),
            ns(one.min()),
            ns(one.median()),
            format!("{:+.1}", one.min() - bare.min()),
            format!("{above:+.1}"),
            if has_goal { format!("≤ +{MAX_LAYERS_NS}") } else { none() },
            if has_goal { verdict(above <= MAX_LAYERS_NS) } else { none() },
        ]);
    }
    table.note(
        "The default layers trace the call, count it, check its limits, and record its outcome. No \
         trace subscriber is installed. A deadline reads the clock twice: when it is set and when \
         it is checked. It reads the clock again only if the plugin queries the deadline.",
    );
    table
}
