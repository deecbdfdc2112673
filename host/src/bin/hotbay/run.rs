//! `hotbay run`: starts everything, stays up, and tells events as they happen.
//! Decides nothing about plugins; ends by a signal, or when nobody reads any more.

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use hotbay::{Events, Host, HostEvent, LoadReport};
use tokio::sync::mpsc::{self, Receiver};

use crate::Verdict;
use crate::args::{Options, Run};
use crate::events::EventPrinter;
use crate::failure::Failure;
use crate::output::{Out, say};
use crate::page::{self, Page, Place};
use crate::places::{builder, dirs, told};
use crate::signals::{self, Ask};
use crate::start::{GRACE, block_on};

pub(crate) fn run(args: &Run, options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let dirs = dirs(options);
    let (sender, asked) = mpsc::channel(4);
    // Before anything is loaded: from here on nothing stays behind.
    signals::listen(&sender).map_err(|error| Failure::io("cannot listen to signals", &error))?;
    let place = args.metrics.map(page::take).transpose()?;
    let mut builder = builder(options, &dirs).hot_reload(args.watch);
    if let Some(every_ms) = args.poll_ms {
        builder = builder.watch_poll_interval(Duration::from_millis(every_ms));
    }
    let host = builder.build()?;
    let page = place.map(|place| show(place, &host)).transpose()?;
    let mut stay = Stay {
        events: host.events(),
        asked,
        loading: Some(Box::pin({
            let host = host.clone();
            async move { host.load_all().await }
        })),
        stopping: Stopping::No,
        host,
        printer: EventPrinter::new(options.json),
        watched: args.watch.then_some(dirs.as_slice()).filter(|dirs| !dirs.is_empty()),
        dirs: &dirs,
        verdict: Verdict::Well,
    };
    let ended = block_on(stay.go_on(out));
    if ended.is_err() {
        // Stdout is broken, the plugins are not.
        block_on(stay.host.shutdown(GRACE));
    }
    // It holds the host too, which ends with the last who does.
    drop(page);
    ended.map(|()| stay.verdict)
}

fn show(place: Place, host: &Host) -> Result<Page, Failure> {
    let told = place.told();
    let page = place.serve(host.clone())?;
    told.iter().for_each(|line| say(line));
    Ok(page)
}

type Work<T> = Pin<Box<dyn Future<Output = T>>>;

/// A host that stays up.
struct Stay<'a> {
    host: Host,
    events: Events,
    asked: Receiver<Ask>,
    /// As long as not everything was started.
    loading: Option<Work<LoadReport>>,
    stopping: Stopping,
    printer: EventPrinter,
    /// The folders in which changes are looked for.
    watched: Option<&'a [PathBuf]>,
    dirs: &'a [PathBuf],
    verdict: Verdict,
}

/// How far the end has come.
enum Stopping {
    /// Nobody asked for it.
    No,
    Runs(Work<()>),
    Done,
}

/// What there is to react to.
enum Happening {
    Told(HostEvent),
    Loaded(LoadReport),
    Asked(Ask),
    Stopped,
}

impl Stay<'_> {
    async fn go_on(&mut self, out: &mut Out) -> Result<(), Failure> {
        loop {
            match self.next().await {
                Happening::Told(event) => {
                    self.printer.print(&event, out)?;
                    if out.is_closed() {
                        self.stop();
                    }
                }
                Happening::Loaded(report) => self.loaded(&report),
                Happening::Asked(ask) => {
                    if ask == Ask::Signal && self.is_up() && !self.printer.is_json() {
                        say("stopping; a second time ends at once");
                    }
                    self.stop();
                }
                Happening::Stopped => break,
            }
        }
        while let Some(event) = self.events.try_next() {
            self.printer.print(&event, out)?;
        }
        Ok(())
    }

    /// Events come first, so that what happened is told before what came of it.
    async fn next(&mut self) -> Happening {
        let mut event = pin!(self.events.next());
        let mut ask = pin!(self.asked.recv());
        poll_fn(|cx| {
            if let Poll::Ready(Some(event)) = event.as_mut().poll(cx) {
                return Poll::Ready(Happening::Told(event));
            }
            if let Poll::Ready(Some(ask)) = ask.as_mut().poll(cx) {
                return Poll::Ready(Happening::Asked(ask));
            }
            if let Some(loading) = &mut self.loading
                && let Poll::Ready(report) = loading.as_mut().poll(cx)
            {
                self.loading = None;
                return Poll::Ready(Happening::Loaded(report));
            }
            if let Stopping::Runs(stopping) = &mut self.stopping
                && stopping.as_mut().poll(cx).is_ready()
            {
                self.stopping = Stopping::Done;
            }
            match (&self.stopping, &self.loading) {
                // A load that still runs holds the host.
                (Stopping::Done, None) => Poll::Ready(Happening::Stopped),
                _ => Poll::Pending,
            }
        })
        .await
    }

    fn loaded(&mut self, report: &LoadReport) {
        if !self.is_up() {
            return;
        }
        for one in &report.loaded {
            for note in &one.notes {
                say(&format!("note: plugin `{}`: {note}", one.name));
            }
        }
        let (loaded, refused) = (report.loaded.len(), report.refused.len());
        if loaded == 0 && self.watched.is_none() {
            if refused == 0 && !self.dirs.is_empty() {
                say(&format!("nothing to run: no plugins in {}", told(self.dirs)));
            }
            self.verdict = Verdict::Wrong;
            self.stop();
        } else if !self.printer.is_json() {
            say(&summary(loaded, refused, self.watched));
        }
    }

    fn stop(&mut self) {
        if self.is_up() {
            let host = self.host.clone();
            self.stopping = Stopping::Runs(Box::pin(async move { host.shutdown(GRACE).await }));
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.stopping, Stopping::No)
    }
}

fn summary(loaded: usize, refused: usize, watched: Option<&[PathBuf]>) -> String {
    let mut text = match loaded {
        1 => "1 plugin serves".to_owned(),
        _ => format!("{loaded} plugins serve"),
    };
    match refused {
        0 => {}
        1 => text.push_str(", 1 was refused"),
        _ => text.push_str(&format!(", {refused} were refused")),
    }
    if let Some(dirs) = watched {
        text.push_str(&format!("; watching {}", told(dirs)));
    }
    text.push_str("; Ctrl-C ends");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_serves_and_how_to_end() {
        let dirs = [PathBuf::from("a"), PathBuf::from("b")];
        assert_eq!(summary(1, 0, None), "1 plugin serves; Ctrl-C ends");
        let told = "0 plugins serve, 2 were refused; watching `a`, `b`; Ctrl-C ends";
        assert_eq!(summary(0, 2, Some(&dirs)), told);
    }
}
