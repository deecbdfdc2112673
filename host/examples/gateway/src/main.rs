//! An HTTP gateway whose routes and policies are plugins: `/hello/…` is served by the plugin `hello`.
//! Plugins are replaced while it runs, without a failed request.

#![allow(clippy::print_stdout, reason = "an example prints its results")]

mod gateway;
mod metrics_page;
mod response;
mod settings;
mod signals;

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use hotbay::{CancellationToken, Host};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use gateway::Gateway;
use metrics_page::MetricsPage;
use settings::Settings;
use signals::Signals;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(std::io::stderr)
        .init();
    let Some(file) = std::env::args_os().nth(1) else {
        return Err("expected an argument: the path of a hotbay.toml".into());
    };
    // First, so that no signal ends the program from now on.
    let signals = Signals::register()?;
    let settings = Settings::read(Path::new(&file))?;
    let host = Host::builder().config_file(&file).build()?;
    let mut events = host.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            tracing::info!("{event}");
        }
    });
    for refused in host.load_all().await.refused {
        tracing::error!("{}", refused.error.full_message());
    }
    serve(host, settings, signals).await
}

/// Serves until a signal arrives, and then until running requests have finished.
async fn serve(host: Host, settings: Settings, mut signals: Signals) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(settings.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let grace = settings.shutdown_grace;
    let page = Arc::new(MetricsPage::new(host.clone()));
    let gateway = Gateway::new(host.clone(), settings, Arc::clone(&page));
    let routes = Router::new()
        .route("/metrics", get(async move || page.render()))
        .fallback(gateway::handle)
        .with_state(Arc::new(gateway))
        .into_make_service_with_connect_info::<SocketAddr>();

    let stop = CancellationToken::new();
    let server =
        axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
    let server = tokio::spawn(server.into_future());
    signals.received().await;
    tracing::info!("finishing running requests");
    stop.cancel();
    match timeout(grace, server).await {
        Ok(served) => served??,
        Err(_) => tracing::warn!("requests have not finished within {grace:?}"),
    }
    host.shutdown(grace).await;
    Ok(())
}
