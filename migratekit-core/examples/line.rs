//! A long, narrow or bad line as a program: what the benchmarks put between the two ends of a tunnel. By itself it tells what it could
//! carry.
//!
//! `line [--delay-ms N] [--rate BYTES] [--mib N]`: sends bytes through a line of N ms each way and prints the rate, its own limit.
//! `line --to ADDRESS [--listen ADDRESS] [--delay-ms N] [--rate BYTES] [--counts FILE]`: leads to an address until SIGTERM, and then
//! writes what it counted, as JSON.

#![allow(clippy::expect_used, clippy::panic, reason = "an example may fail loudly")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use migratekit_core::testing::line::{Counted, Line, LineOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() {
    let (mut options, mut mib) = (LineOptions { delay: Duration::from_millis(5), rate: None }, 64);
    let (mut to, mut listen, mut counts) = (None, SocketAddr::from(([127, 0, 0, 1], 0)), None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().expect("a value");
        let number = || value.parse().expect("a number");
        match word.as_str() {
            "--delay-ms" => options.delay = Duration::from_millis(number()),
            "--rate" => options.rate = Some(number()),
            "--mib" => mib = number(),
            "--to" => to = Some(value.parse::<SocketAddr>().expect("an address")),
            "--listen" => listen = value.parse().expect("an address"),
            "--counts" => counts = Some(PathBuf::from(value)),
            other => panic!("{other}: not understood; see the head of this example"),
        }
    }
    match to {
        Some(to) => lead(listen, to, options, counts).await,
        None => own_limit(options, mib).await,
    }
}

/// Serves until SIGTERM.
async fn lead(listen: SocketAddr, to: SocketAddr, options: LineOptions, counts: Option<PathBuf>) {
    let mut end = signal(SignalKind::terminate()).expect("a signal");
    let line = Line::on(TcpListener::bind(listen).await.expect("listen"), to, options);
    println!("listening on {}", line.address());
    end.recv().await;
    let Counted { up, down, connections } = line.counted();
    if let Some(file) = counts {
        std::fs::write(file, format!(r#"{{"up": {up}, "down": {down}, "connections": {connections}}}"#)).expect("write the counts");
    }
    line.close().await;
}

/// One connection, one direction, a sender and a receiver that do nothing else.
async fn own_limit(options: LineOptions, mib: u64) {
    let sink = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let line = Line::start(sink.local_addr().expect("an address"), options).await;
    let began = Instant::now();
    let receiver = tokio::spawn(async move {
        let (mut from, _) = sink.accept().await.expect("a connection");
        let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
        while let n @ 1.. = from.read(&mut buffer).await.expect("bytes") {
            total += n;
        }
        total
    });
    let mut sender = TcpStream::connect(line.address()).await.expect("the line");
    let piece = vec![0x5a; 1 << 20];
    for _ in 0..mib {
        sender.write_all(&piece).await.expect("the line takes it");
    }
    sender.shutdown().await.expect("the end");
    let total = receiver.await.expect("the receiver");
    let seconds = (began.elapsed() - options.delay).as_secs_f64();
    println!("{:.0} MB/s: {mib} MiB in {seconds:.3} s, not counting a delay of {:?}", total as f64 / seconds / 1e6, options.delay);
    line.close().await;
}
