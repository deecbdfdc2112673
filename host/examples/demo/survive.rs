//! A plugin panics, and all plugins keep serving.

use hotbay::{Host, Request};

use crate::Outcome;
use crate::show::table;

pub(crate) fn survive(host: &Host) -> Outcome<()> {
    let fragile = host.plugin("fragile")?;
    let mut table = table(["call", "outcome"]);
    for input in ["hello", "boom", "hello again"] {
        let outcome = match fragile.call(Request::text(input)) {
            Ok(reply) => format!("{:?}", reply.as_text()?),
            Err(error) => error.full_message(),
        };
        table.add_row([format!("fragile({input:?})"), outcome]);
    }
    let anchor = host.plugin("anchor")?.call(Request::text("Still here"))?;
    table.add_row(["anchor(\"Still here\")".to_owned(), format!("{:?}", anchor.as_text()?)]);
    println!("{table}\n");

    let mut table = crate::show::table(["plugin", "state", "calls", "faults"]);
    for plugin in host.list() {
        table.add_row([
            plugin.name.to_string(),
            plugin.state.to_string(),
            plugin.stats.calls.to_string(),
            plugin.stats.faults.to_string(),
        ]);
    }
    println!("{table}");
    Ok(())
}
