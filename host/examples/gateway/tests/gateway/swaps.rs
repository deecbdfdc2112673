//! Requests while a route is replaced.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hotbay_tests::{Plugins, StopOnDrop, library_file_name, until};
use hyper::StatusCode;

use super::client::{Client, block_on, fetch};
use super::program::Gateway;

const SWAPS: usize = 50;
const CONNECTIONS: usize = 32;
const ANSWERS: [&str; 2] = ["Hello, you!\n", "Howdy, you!\n"];

/// Both versions of `hello`, whose code differs, and the folder of the one that is served.
struct Versions {
    folders: [PathBuf; 2],
    served: PathBuf,
    _built: Plugins,
}

impl Versions {
    fn new(plugins: &Plugins) -> Self {
        let built = Plugins::new();
        let version = |folder| built.add_in(folder, "hello", "hello");
        let second = version("second").patch("Hello, ", "Howdy, ").write();
        let served = plugins.dir().join("hello");
        fs::create_dir(&served).unwrap();
        Self { folders: [version("first").write(), second], served, _built: built }
    }

    /// Replaces the files of the served version, each by a rename.
    fn install(&self, version: usize) {
        for file in [&*library_file_name("hello"), "plugin.json"] {
            let new = self.served.join(format!("{file}.new"));
            fs::copy(self.folders[version].join(file), &new).unwrap();
            fs::rename(new, self.served.join(file)).unwrap();
        }
    }
}

/// Requests until `stop`, and counts the answers of each version. Returns the time of each request.
async fn request_until(
    mut client: Client,
    stop: &AtomicBool,
    seen: &[AtomicU64; 2],
) -> Vec<Duration> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let response = client.get("/hello/you").await.expect("no connection fails");
        times.push(start.elapsed());
        assert_eq!(response.status(), StatusCode::OK, "{}", response.body());
        let version = ANSWERS.iter().position(|answer| answer == response.body());
        seen[version.expect("an answer of a version")].fetch_add(1, Ordering::Relaxed);
    }
    times
}

/// Returns the generation of a plugin that serves.
fn generation(gateway: &Gateway, plugin: &str) -> u64 {
    let page = fetch(gateway.address, "/metrics").1;
    let name = format!("hotbay_generation{{plugin=\"{plugin}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no generation of {plugin}: {page}")).parse().unwrap()
}

#[test]
fn no_request_fails_during_swaps_under_load() {
    let plugins = Plugins::new();
    let versions = Versions::new(&plugins);
    versions.install(0);
    let gateway = Gateway::start(&plugins, "[]", "");
    let (stop, seen) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);

    let mut times = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            block_on(async {
                let clients = (0..CONNECTIONS).map(|_| async {
                    let client = Client::connect(gateway.address).await;
                    request_until(client, &stop, &seen).await
                });
                futures_util::future::join_all(clients).await.concat()
            })
        });
        let _stop = StopOnDrop(&stop);
        for swap in 1..=SWAPS {
            let version = swap % 2;
            versions.install(version);
            until("the new version answers", || {
                let answer = fetch(gateway.address, "/hello/you").1;
                (answer == ANSWERS[version]).then_some(())
            });
            let before = seen[version].load(Ordering::Relaxed);
            until("the connections see the new version", || {
                assert!(!load.is_finished(), "a request failed");
                (seen[version].load(Ordering::Relaxed) >= before + CONNECTIONS as u64).then_some(())
            });
            assert_eq!(fetch(gateway.address, "/hello/you").1, ANSWERS[version], "swap {swap}");
        }
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });

    assert!(generation(&gateway, "hello") > SWAPS as u64);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    assert!(fetch(gateway.address, "/metrics").1.contains("hotbay_kept_libraries 0\n"));

    times.sort_unstable();
    let percentile = |percent| times[(times.len() - 1) * percent / 100];
    println!(
        "{} requests during {SWAPS} swaps: p50 {:?}, p99 {:?}, longest {:?}",
        times.len(),
        percentile(50),
        percentile(99),
        percentile(100)
    );
}

#[test]
fn counts_of_visits_outlive_swaps_under_load() {
    let plugins = Plugins::new();
    // A byte behind the end of the file makes another build of it.
    let install = |build| {
        let plugin = plugins.add("visits", "visits").set("handover", "pause");
        plugin.bytes(|bytes| bytes.push(build)).write();
    };
    install(0);
    let gateway = Gateway::start(&plugins, "[]", "");
    let stop = AtomicBool::new(false);
    let visits = std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            block_on(async {
                let mut client = Client::connect(gateway.address).await;
                let mut visits = 0;
                while !stop.load(Ordering::Relaxed) {
                    visits += 1;
                    let answer = client.get("/visits/page").await.unwrap();
                    assert_eq!(*answer.body(), format!("{visits}\n"));
                }
                visits
            })
        });
        let _stop = StopOnDrop(&stop);
        for build in 1..=5 {
            let before = generation(&gateway, "visits");
            install(build);
            until("the new build serves", || {
                assert!(!visitor.is_finished(), "a visit was not counted");
                (generation(&gateway, "visits") > before).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
        visitor.join().unwrap()
    });
    assert_eq!(fetch(gateway.address, "/visits/page").1, format!("{}\n", visits + 1));
}
