//! A host, a plugin of its own making, a few calls, and what a round trip costs.
//!
//! `cargo run --release --example quickstart`

use busway::{Config, Deadline, Host, Link, Plugin, Result};
use std::env;
use std::process::Command;
use std::time::{Duration, Instant};

const GREET: u32 = 1;
const ADD: u32 = 2;

/// The plugin: serves two methods until its host closes the link.
fn plugin() -> Result<()> {
    Plugin::attach()?.serve(|request| {
        // An error here means that the host is gone, which ends `serve` too.
        let _ = match request.method() {
            GREET => {
                let name = String::from_utf8_lossy(&request.to_vec()).into_owned();
                request.reply(&format!("hello {name}, this is process {}", std::process::id()))
            }
            ADD => match request.read::<[u64; 2]>() {
                Ok([a, b]) => request.reply_as(&a.wrapping_add(b)),
                Err(_) => request.reject(1),
            },
            _ => request.no_such_method(),
        };
    })
}

fn host() -> Result<()> {
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    command.arg("--plugin");
    let plugin = Host::new(Config::default()).spawn(command)?;
    println!("spawned plugin {}", plugin.id());

    let greeting = plugin.call(GREET, "host", Duration::from_secs(1))?.to_vec();
    println!("greet: {}", String::from_utf8_lossy(&greeting));
    let sum: u64 = plugin.call_as(ADD, &[40u64, 2], Duration::from_secs(1))?;
    println!("40 + 2 = {sum}");
    println!("an unknown method: {}", plugin.call(99, b"", Duration::from_secs(1)).unwrap_err());

    let round_trips = measure(&plugin)?;
    let at = |q: f64| round_trips[((round_trips.len() - 1) as f64 * q) as usize];
    println!("{} calls: p50 {:?}, p99 {:?}", round_trips.len(), at(0.5), at(0.99));
    println!("{:?}", plugin.stats());
    let status = plugin.shut_down(Duration::from_secs(1))?;
    println!("plugin ended with {status}");
    Ok(())
}

fn measure(link: &Link) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(100_000);
    for n in 0..110_000u64 {
        let start = Instant::now();
        let sum: u64 = link.call_as(ADD, &[n, 1], Deadline::NEVER)?;
        let time = start.elapsed();
        assert_eq!(sum, n + 1);
        // The first tenth warms caches up.
        if n >= 10_000 {
            times.push(time);
        }
    }
    times.sort_unstable();
    Ok(times)
}

fn main() {
    let result = if env::args().any(|arg| arg == "--plugin") { plugin() } else { host() };
    if let Err(e) = result {
        eprintln!("quickstart: {e}");
        std::process::exit(1);
    }
}
