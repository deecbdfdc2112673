//! Loads the plugins of a folder, and calls one with a text.

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::time::Duration;

use hotbay::{Host, Request};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, plugin, text] = &arguments[..] else {
        return Err("expected arguments: FOLDER PLUGIN TEXT".into());
    };
    let host = Host::builder().plugin_dir(folder).build()?;
    for refused in host.load_all().await.refused {
        eprintln!("{}", refused.error.full_message());
    }
    let reply = host.plugin(plugin)?.execute(Request::text(text)).await?;
    println!("{}", reply.as_text()?);
    host.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
