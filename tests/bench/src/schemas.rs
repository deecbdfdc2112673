//! The cost of checking an input: calls of plugins with an `input_schema`, compared with the schema
//! library alone, which has no budget.

use std::hint::black_box;
use std::time::Duration;

use hotbay::{Host, Manifest, Plugin, Request};
use hotbay_plugin::{CallContext, Config, HostServices, Output, Payload, PluginError};
use serde_json::{Value, json};

use crate::sample::{Contender, Samples, interleaved};
use crate::table::{Report, Table, none, ns, verdict};

/// Maximum cost of a call with a large input, relative to reading and checking it with the library
/// alone, if no thread is needed. For a small input the call itself costs as much.
const MAX_TIMES: f64 = 1.25;

struct Nothing;

impl Plugin for Nothing {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Ok(Output::text("ok"))
    }
}

/// A schema and a matching input.
struct Case {
    name: &'static str,
    schema: Value,
    input: String,
    has_goal: bool,
}

fn cases() -> [Case; 3] {
    let order = json!({
        "type": "object",
        "properties": {
            "id": { "type": "integer", "minimum": 1 },
            "name": { "type": "string", "minLength": 1, "maxLength": 40 },
            "state": { "enum": ["new", "paid", "sent"] },
        },
        "required": ["id", "name"],
        "additionalProperties": false,
    });
    let one = |id: usize| json!({ "id": id, "name": format!("order {id}"), "state": "paid" });
    let tree = json!({
        "type": "object",
        "properties": { "id": { "type": "integer" }, "children": { "items": { "$ref": "#" } } },
        "required": ["id"],
    });
    let leaves: Vec<_> = (0..40).map(|id| json!({ "id": id })).collect();
    [
        Case {
            name: "an object",
            schema: order.clone(),
            input: one(1).to_string(),
            has_goal: false,
        },
        Case {
            name: "a list of 100",
            schema: json!({ "type": "array", "items": order }),
            input: json!((1..101).map(one).collect::<Vec<_>>()).to_string(),
            has_goal: true,
        },
        Case {
            name: "a tree of 41, by references",
            schema: tree,
            input: json!({ "id": 0, "children": leaves }).to_string(),
            has_goal: false,
        },
    ]
}

pub(crate) fn measure(quick: bool, report: &Report) -> anyhow::Result<()> {
    let mut table = Table::new(
        "Schemas: parsing and checking an input (ns per call)",
        ["what", "min", "median", "relative to the library", "goal", ""],
    );
    let (rounds, sample) = if quick { (20, 50) } else { (1000, 500) };
    for case in cases() {
        let library = jsonschema::options().offline().build(&case.schema)?;
        let manifest = Manifest::new("checked", "1.0.0")?.with_input_schema(case.schema.clone())?;
        let host = Host::builder().register::<Nothing>(manifest).build()?;
        let handle = host.plugin("checked")?;
        handle.call(Request::text(&case.input))?;
        let mut contenders = [
            Contender {
                name: format!("{}: library only", case.name),
                work: Box::new(|times| {
                    for _ in 0..times {
                        let read = serde_json::from_slice(black_box(case.input.as_bytes()));
                        let value: Value = read.expect("the input is JSON");
                        assert!(library.is_valid(black_box(&value)));
                    }
                }),
            },
            Contender {
                name: format!("{}: call", case.name),
                work: Box::new(|times| {
                    for _ in 0..times {
                        let reply = handle.call(Request::text(black_box(&case.input)));
                        black_box(reply.expect("the input matches").as_bytes());
                    }
                }),
            },
        ];
        let samples = interleaved(&mut contenders, rounds, Duration::from_micros(sample));
        rows(&mut table, &samples, case.has_goal);
    }
    table.note(
        "Parsing the JSON takes most of the time. If a schema follows references, the check runs \
         on a thread with a large enough stack.",
    );
    report.print(&table);
    Ok(())
}

fn rows(table: &mut Table, samples: &[Samples], has_goal: bool) {
    let library_alone = &samples[0];
    for (index, one) in samples.iter().enumerate() {
        let of_alone = 1.0 + one.above(library_alone) / library_alone.median();
        let has_goal = has_goal && index == 1;
        table.row([
            one.name.clone(),
            ns(one.min()),
            ns(one.median()),
            format!("{of_alone:.2}"),
            if has_goal { format!("≤ {MAX_TIMES}") } else { none() },
            if has_goal { verdict(of_alone <= MAX_TIMES) } else { none() },
        ]);
    }
}
