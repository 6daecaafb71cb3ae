//! The bounds of transmission: each is reached (and served) and exceeded (and refused, or made to wait).

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use migratekit_core::block::MemoryDisk;
use migratekit_core::nbd::limits::MAX_DRAIN;
use migratekit_core::nbd::wire::{command, command_flag as flag, errno};
use migratekit_core::nbd::{Limits, ServerConfig};

use crate::raw::{Raw, Said};
use crate::rig::{Gated, Rig, Shared, wait_for};

/// A time that passes while a test waits for it.
const SHORT: Duration = Duration::from_millis(300);

fn config(set: impl FnOnce(&mut Limits)) -> ServerConfig {
    let mut limits = Limits::default();
    set(&mut limits);
    ServerConfig { limits, ..ServerConfig::default() }
}

fn gated(config: ServerConfig) -> (Rig, Arc<Gated>) {
    let gate = Gated::new(1 << 20, false, false);
    (Rig::with_disk(config, Shared(Arc::clone(&gate))), gate)
}

#[test]
fn payload() {
    let rig = Rig::with_disk(config(|l| l.payload = 65536), MemoryDisk::new("m", 1 << 20));
    let mut raw = Raw::structured(rig.port, "disk", &[]);
    assert_eq!(raw.ask(command::READ, 0, 0, 65536).errno(), 0);
    assert_eq!(raw.ask(command::READ, 0, 0, 65537).errno(), errno::EINVAL);
    assert_eq!(raw.ask(command::READ, flag::DF, 0, 65536).errno(), 0);
    assert_eq!(raw.ask(command::READ, flag::DF, 0, 65537).errno(), errno::EOVERFLOW);
    raw.write(1, 0, &[1; 65536]);
    assert_eq!(raw.reply(), (1, Said::Simple(0)));
    raw.write(2, 0, &[2; 65537]);
    let (cookie, said) = raw.reply();
    assert_eq!((cookie, said.errno()), (2, errno::EINVAL), "read, forgotten and refused");
    let mut raw = Raw::simple(rig.port, "disk");
    assert_eq!(raw.read(0, 2), [1; 2]);
    raw.request(command::WRITE, 0, 3, 0, MAX_DRAIN + 1);
    assert!(raw.is_closed(), "more than anybody reads");
}

#[test]
fn a_refused_write_of_the_drain_bound_is_still_answered() {
    let rig = Rig::with_disk(ServerConfig::default(), MemoryDisk::new("m", 1 << 40));
    let mut raw = Raw::simple(rig.port, "disk");
    raw.write(1, 0, &vec![1; MAX_DRAIN as usize]);
    assert_eq!(raw.reply(), (1, Said::Simple(errno::EINVAL)));
    raw.write(2, 0, &vec![1; (MAX_DRAIN / 2) as usize]);
    assert_eq!(raw.reply(), (2, Said::Simple(0)), "the longest payload is served");
}

#[test]
fn connections() {
    let rig = Rig::with_disk(config(|l| l.connections = 2), MemoryDisk::new("m", 4096));
    let first = Raw::simple(rig.port, "disk");
    let mut second = Raw::simple(rig.port, "disk");
    let mut third = Raw { stream: std::net::TcpStream::connect(("127.0.0.1", rig.port)).unwrap() };
    assert!(third.is_closed());
    assert_eq!(second.read(0, 1), [0]);
    drop(first);
    wait_for("the first to be gone", || rig.connections().len() == 1);
    Raw::simple(rig.port, "disk");
}

#[test]
fn requests_in_flight() {
    let (rig, gate) = gated(config(|l| l.in_flight_requests = 3));
    let mut raw = Raw::simple(rig.port, "disk");
    for cookie in 0..5 {
        raw.write(cookie, cookie * 4096, &[1; 4096]);
    }
    wait_for("three to be under way", || gate.waiting() == 3);
    // Another connection is served meanwhile; by then this one would have gone on if it might.
    assert_eq!(Raw::simple(rig.port, "disk").read(0, 1), [0]);
    assert_eq!((gate.waiting(), rig.connections()[0].requests), (3, 3));
    gate.set_open(true);
    let mut answered: Vec<u64> = (0..5).map(|_| raw.reply().0).collect();
    answered.sort_unstable();
    assert_eq!(answered, [0, 1, 2, 3, 4]);
}

#[test]
fn bytes_in_flight_over_all_connections() {
    let (rig, gate) = gated(config(|l| l.in_flight_bytes = 100_000));
    let mut first = Raw::simple(rig.port, "disk");
    first.write(1, 0, &[1; 100_000]);
    wait_for("the budget to be taken", || gate.waiting() == 1 && rig.server.bytes_in_flight() == 100_000);
    let mut second = Raw::simple(rig.port, "disk");
    second.write(2, 200_000, &[2]);
    wait_for("the second to ask", || rig.connections()[1].requests == 1);
    // What needs no bytes is served, and shows that the second was looked at.
    assert_eq!(Raw::simple(rig.port, "disk").ask(command::FLUSH, 0, 0, 0), Said::Simple(0));
    assert_eq!((gate.waiting(), rig.server.bytes_in_flight()), (1, 100_000));
    gate.set_open(true);
    assert_eq!(first.reply(), (1, Said::Simple(0)));
    assert_eq!(second.reply(), (2, Said::Simple(0)));
    // One that is longer than all of it is served alone.
    first.write(3, 0, &[3; 300_000]);
    assert_eq!(first.reply(), (3, Said::Simple(0)));
    assert_eq!(rig.server.bytes_in_flight(), 0);
}

#[test]
fn many_connections_that_wait_for_bytes_all_get_them() {
    let rig = Rig::with_disk(config(|l| l.in_flight_bytes = 100_000), MemoryDisk::new("m", 1 << 20));
    std::thread::scope(|scope| {
        for id in 0..24u8 {
            let port = rig.port;
            scope.spawn(move || {
                let mut raw = Raw::simple(port, "disk");
                for round in 0..8u64 {
                    raw.write(round, 0, &vec![id; 60_000]);
                    raw.request(command::READ, 0, 100 + round, 0, 70_000);
                    let mut expected = vec![round, 100 + round];
                    while !expected.is_empty() {
                        let (cookie, said) = raw.reply();
                        assert_eq!(said, Said::Simple(0));
                        if cookie >= 100 {
                            raw.take(70_000);
                        }
                        expected.retain(|c| *c != cookie);
                    }
                }
            });
        }
    });
    wait_for("all bytes to be given back", || rig.server.bytes_in_flight() == 0);
}

#[test]
fn bytes_in_flight_of_one_connection() {
    let (rig, gate) = gated(config(|l| l.connection_bytes = 100_000));
    let mut raw = Raw::simple(rig.port, "disk");
    for cookie in 0..3 {
        raw.write(cookie, 0, &[1; 50_000]);
    }
    wait_for("two to be under way", || gate.waiting() == 2);
    assert_eq!(Raw::simple(rig.port, "disk").read(0, 1), [0]);
    assert_eq!((gate.waiting(), rig.connections()[0].bytes_in_flight), (2, 100_000));
    gate.set_open(true);
    for _ in 0..3 {
        assert_eq!(raw.reply().1, Said::Simple(0));
    }
}

#[test]
fn answers_to_block_status_take_their_share() {
    let mut content = vec![0; 64 << 20];
    for page in (0..1024).step_by(2) {
        content[page * 65536] = 1;
    }
    let rig = Rig::with_disk(config(|l| l.connection_bytes = 200_000), MemoryDisk::from_bytes("stripes", &content));
    let mut raw = Raw::structured(rig.port, "disk", &["base:allocation"]);
    for cookie in 0..3000 {
        raw.request(command::BLOCK_STATUS, 0, cookie, 0, 64 << 20);
    }
    // 24 MB of answers nobody takes: more than the sockets hold. What waits in the server is counted.
    wait_for("answers to be counted", || rig.server.bytes_in_flight() > 100_000);
    assert!(rig.server.bytes_in_flight() <= 200_000);
    drop(raw);
    wait_for("all to be given back", || rig.server.bytes_in_flight() == 0);
}

#[test]
fn handshake_time() {
    let rig = Rig::with_disk(config(|l| l.handshake_time = SHORT), MemoryDisk::new("m", 4096));
    let mut fast = Raw::simple(rig.port, "disk");
    let mut slow = Raw::options(rig.port);
    slow.send(b"IHAVE");
    assert!(slow.is_closed());
    assert_eq!(fast.read(0, 1), [0], "who finished in time stays");
}

#[test]
fn a_client_that_stands_still_in_a_message_is_closed() {
    let rig = Rig::with_disk(config(|l| l.stall_time = SHORT), MemoryDisk::new("m", 64 << 20));
    let mut quiet = Raw::simple(rig.port, "disk");
    let mut header = Raw::simple(rig.port, "disk");
    header.send(&[0x25, 0x60]);
    assert!(header.is_closed());
    let mut payload = Raw::simple(rig.port, "disk");
    payload.request(command::WRITE, 0, 1, 0, 100_000);
    payload.send(&[1; 50_000]);
    assert!(payload.is_closed());
    let mut deaf = Raw::simple(rig.port, "disk");
    for cookie in 0..64 {
        deaf.request(command::READ, 0, cookie, 0, 1 << 20);
    }
    wait_for("the deaf client to be closed", || rig.connections().len() == 1);
    assert_eq!(quiet.read(0, 1), [0], "a client that owes nothing stays");
    wait_for("all bytes to be given back", || rig.server.bytes_in_flight() == 0);
}

#[test]
fn who_stands_still_holding_what_others_wait_for_is_closed_sooner() {
    let limits = config(|l| {
        l.in_flight_bytes = 100_000;
        l.crowded_stall_time = SHORT;
    });
    let rig = Rig::with_disk(limits, MemoryDisk::new("m", 1 << 20));
    let mut holder = Raw::simple(rig.port, "disk");
    holder.request(command::WRITE, 0, 1, 0, 100_000);
    wait_for("the bytes to be taken", || rig.server.bytes_in_flight() == 100_000);
    let mut other = Raw::simple(rig.port, "disk");
    other.write(2, 0, &[2; 1000]);
    assert_eq!(other.reply(), (2, Said::Simple(0)));
    assert!(holder.is_closed());
}

#[test]
fn who_creeps_holding_what_others_wait_for_is_closed() {
    let limits = config(|l| {
        l.in_flight_bytes = 100_000;
        l.crowded_stall_time = SHORT;
        l.crowded_least_bytes = 20_000;
    });
    let rig = Rig::with_disk(limits, MemoryDisk::new("m", 1 << 20));
    let mut creeper = Raw::simple(rig.port, "disk");
    creeper.request(command::WRITE, 0, 1, 0, 100_000);
    wait_for("the bytes to be taken", || rig.server.bytes_in_flight() == 100_000);
    // Something moves all the time, so the connection never stands still.
    let mut drops = creeper.stream.try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        let mut sent = 0;
        while sent < 19_000 && drops.write_all(&[1]).is_ok() {
            sent += 1;
            std::thread::sleep(SHORT / 100);
        }
        sent
    });
    let mut other = Raw::simple(rig.port, "disk");
    other.write(2, 0, &[2; 1000]);
    assert_eq!(other.reply(), (2, Said::Simple(0)));
    assert!(creeper.is_closed());
    assert!(drip.join().unwrap() < 19_000, "it was closed while it still sent");
}

#[test]
fn idle_time() {
    let (rig, gate) = gated(config(|l| l.idle_time = SHORT));
    let mut busy = Raw::simple(rig.port, "disk");
    busy.write(1, 0, &[1; 10]);
    wait_for("a write to be under way", || gate.waiting() == 1);
    let mut idle = Raw::simple(rig.port, "disk");
    assert!(idle.is_closed());
    gate.set_open(true);
    assert_eq!(busy.reply(), (1, Said::Simple(0)), "a slow disk is not an idle client");
    assert!(busy.is_closed());
}
