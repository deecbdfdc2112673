//! `hotbay run`: loads all plugins, serves them, and prints events until it is stopped by a signal
//! or by a closed stdout.

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use hotbay::{Events, Host, HostEvent, LoadReport};
use tokio::sync::mpsc::{self, Receiver};

use crate::Status;
use crate::args::{Options, Run};
use crate::config_values::is_set;
use crate::dev::seal_on_change;
use crate::events::{EventHistory, EventPrinter};
use crate::failure::Failure;
use crate::metrics_page::{self, BoundPage, MetricsPage};
use crate::output::{Out, print_hint, print_message};
use crate::plugin_dirs::{NO_PLUGINS_HINT, builder, dirs, quoted};
use crate::signals::{self, StopRequest};
use crate::start::{GRACE, block_on};

pub(crate) fn run(args: &Run, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let dirs = dirs(options);
    let (sender, stop_requests) = mpsc::channel(4);
    // Before plugins are loaded, so that a signal always stops them.
    signals::listen(&sender).map_err(|error| Failure::io("cannot handle signals", &error))?;
    let page = args.metrics.map(metrics_page::bind).transpose()?;
    let is_watched = args.watch || is_set(options, "reload.watch");
    let mut builder = builder(options, &dirs).hot_reload(is_watched);
    if let Some(interval_ms) = args.poll_ms {
        builder = builder.watch_poll_interval(Duration::from_millis(interval_ms));
    }
    let host = builder.build()?;
    let page = page.map(|page| serve(page, &host)).transpose()?;
    let mut run = RunLoop {
        events: host.events(),
        stop_requests,
        loading: Some(Box::pin({
            let host = host.clone();
            async move { host.load_all().await }
        })),
        shutdown: Shutdown::NotRequested,
        host,
        printer: EventPrinter::new(options.json),
        history: EventHistory::new(is_watched),
        watched: is_watched.then_some(dirs.as_slice()).filter(|dirs| !dirs.is_empty()),
        dirs: &dirs,
        status: Status::Success,
    };
    let outcome = thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel();
        if args.dev {
            let dirs = &dirs;
            scope.spawn(move || seal_on_change(dirs, options, &stopped));
        }
        let outcome = block_on(run.run(out));
        drop(stop);
        outcome
    });
    if outcome.is_err() {
        // Stdout failed; the plugins still shut down cleanly.
        block_on(run.host.shutdown(GRACE));
    }
    // The page holds the host too, which ends with its last owner.
    drop(page);
    outcome.map(|()| run.status)
}

fn serve(page: BoundPage, host: &Host) -> Result<MetricsPage, Failure> {
    let messages = page.messages();
    let page = page.serve(host.clone())?;
    messages.iter().for_each(|line| print_message(line));
    Ok(page)
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// A host that serves until it is stopped.
struct RunLoop<'a> {
    host: Host,
    events: Events,
    stop_requests: Receiver<StopRequest>,
    /// `None` after all plugins were loaded.
    loading: Option<BoxFuture<LoadReport>>,
    shutdown: Shutdown,
    printer: EventPrinter,
    history: EventHistory,
    /// The folders that are watched for changes.
    watched: Option<&'a [PathBuf]>,
    dirs: &'a [PathBuf],
    status: Status,
}

enum Shutdown {
    NotRequested,
    Running(BoxFuture<()>),
    Done,
}

enum Step {
    Event(HostEvent),
    Loaded(LoadReport),
    StopRequested(StopRequest),
    Stopped,
}

impl RunLoop<'_> {
    async fn run(&mut self, out: &mut Out) -> Result<(), Failure> {
        loop {
            match self.next().await {
                Step::Event(event) => {
                    self.print(&event, out)?;
                    if out.is_closed() {
                        self.stop();
                    }
                }
                Step::Loaded(report) => self.loaded(&report),
                Step::StopRequested(request) => {
                    let is_signal = request == StopRequest::Signal;
                    if is_signal && self.is_serving() && !self.printer.is_json() {
                        print_message("note: stopping; a second signal exits at once");
                    }
                    self.stop();
                }
                Step::Stopped => break,
            }
        }
        while let Some(event) = self.events.try_next() {
            self.print(&event, out)?;
        }
        Ok(())
    }

    /// Prints an event with details from the events before it.
    fn print(&mut self, event: &HostEvent, out: &mut Out) -> Result<(), Failure> {
        let detail = self.history.record(event, &self.host, !self.is_serving());
        self.printer.print(event, detail.as_deref(), out)
    }

    /// Events come first, so that they are printed before what follows from them.
    async fn next(&mut self) -> Step {
        let mut event = pin!(self.events.next());
        let mut request = pin!(self.stop_requests.recv());
        poll_fn(|cx| {
            if let Poll::Ready(Some(event)) = event.as_mut().poll(cx) {
                return Poll::Ready(Step::Event(event));
            }
            if let Poll::Ready(Some(request)) = request.as_mut().poll(cx) {
                return Poll::Ready(Step::StopRequested(request));
            }
            if let Some(loading) = &mut self.loading
                && let Poll::Ready(report) = loading.as_mut().poll(cx)
            {
                self.loading = None;
                return Poll::Ready(Step::Loaded(report));
            }
            if let Shutdown::Running(shutdown) = &mut self.shutdown
                && shutdown.as_mut().poll(cx).is_ready()
            {
                self.shutdown = Shutdown::Done;
            }
            match (&self.shutdown, &self.loading) {
                // A load in progress holds the host.
                (Shutdown::Done, None) => Poll::Ready(Step::Stopped),
                _ => Poll::Pending,
            }
        })
        .await
    }

    fn loaded(&mut self, report: &LoadReport) {
        if !self.is_serving() {
            return;
        }
        for one in &report.loaded {
            for note in &one.notes {
                print_message(&format!("note: plugin `{}`: {note}", one.name));
            }
        }
        let (loaded, refused) = (report.loaded.len(), report.refused.len());
        if loaded == 0 && self.watched.is_none() {
            if refused == 0 && self.dirs.is_empty() {
                print_message("error: nothing to run: no plugin directory");
            } else if refused == 0 {
                let dirs = quoted(self.dirs);
                print_message(&format!("error: nothing to run: no plugins found in {dirs}"));
                print_hint(NO_PLUGINS_HINT);
            }
            self.status = Status::Failed;
            self.stop();
        } else if !self.printer.is_json() {
            print_message(&summary(loaded, refused, self.watched));
        }
    }

    fn stop(&mut self) {
        if self.is_serving() {
            let host = self.host.clone();
            self.shutdown = Shutdown::Running(Box::pin(async move { host.shutdown(GRACE).await }));
        }
    }

    fn is_serving(&self) -> bool {
        matches!(self.shutdown, Shutdown::NotRequested)
    }
}

fn summary(loaded: usize, refused: usize, watched: Option<&[PathBuf]>) -> String {
    let plugins = if loaded == 1 { "plugin" } else { "plugins" };
    let mut text = format!("{loaded} {plugins} loaded");
    if refused > 0 {
        text.push_str(&format!(", {refused} refused"));
    }
    if let Some(dirs) = watched {
        text.push_str(&format!("; watching {}", quoted(dirs)));
    }
    text.push_str("; press Ctrl-C to stop");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_contains_counts_and_watched_folders() {
        let dirs = [PathBuf::from("a"), PathBuf::from("b")];
        assert_eq!(summary(1, 0, None), "1 plugin loaded; press Ctrl-C to stop");
        let expected = "0 plugins loaded, 2 refused; watching `a`, `b`; press Ctrl-C to stop";
        assert_eq!(summary(0, 2, Some(&dirs)), expected);
    }
}
