//! Entrances for fuzzers: a server's bytes, any bytes, into the code that must withstand them. Only with feature `testing`.
//!
//! Neither function may panic, hang, or hold memory beyond the named bounds, whatever it is given. Both go through the code of the
//! client itself; reading from memory never waits, so one poll runs it to its end.

use std::future::Future;
use std::io::Cursor;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use super::assembly::{Assembly, Expect};
use super::connection::{Reader, Shared};
use super::order::{Hold, Order};
use crate::nbd::handshake::client::{Machine, Plan, Purpose, Style, Then};
use crate::nbd::handshake::facts::{MetaContext, Negotiated};
use crate::nbd::limits::MAX_OPTION_REPLY;
use crate::nbd::wire::command;

/// A server's side of a handshake. The first byte chooses what the client wants, the rest is what the server sends.
///
/// # Panics
/// When the machine asks for more than the bounds allow, or accepts a size beyond 2^63-1: faults of ours.
pub fn fuzz_client_handshake(input: &[u8]) {
    let Some((choice, mut rest)) = input.split_first() else { return };
    let bit = |n: u8| choice & (1 << n) != 0;
    let mut machine = Machine::new(Plan {
        export: "disk".to_owned(),
        purpose: if bit(0) { Purpose::List } else { Purpose::Open },
        style: if bit(1) { Style::ExportNameOnly } else { Style::Full },
        tls: bit(2),
        contexts: if bit(3) { Vec::new() } else { vec!["base:allocation".to_owned(), "migratekit:ledger".to_owned()] },
        list_contexts: if bit(4) { vec![vec!["migratekit:".to_owned()], Vec::new()] } else { Vec::new() },
    });
    loop {
        let wants = machine.wants();
        assert!(wants <= MAX_OPTION_REPLY as usize, "the client would hold {wants} bytes");
        let Some((head, tail)) = rest.split_at_checked(wants) else {
            let _ = machine.closed();
            return;
        };
        rest = tail;
        let step = match machine.feed(head) {
            Ok(step) => step,
            Err(_) => return,
        };
        match step.then {
            Then::More => {}
            Then::StartTls => {
                if machine.tls_started().is_err() {
                    return;
                }
            }
            Then::Done => {
                assert!(i64::try_from(machine.finish().size).is_ok(), "a size beyond 2^63-1 is accepted");
                return;
            }
        }
    }
}

/// A server's side of transmission. Six requests wait (reads, extents, a write); the first byte chooses whether structured replies
/// were agreed, the rest is what the server sends.
///
/// # Panics
/// When reading from memory waits, which is a fault of this function.
pub fn fuzz_client_replies(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let contexts = vec![MetaContext { id: 1, name: "base:allocation".to_owned() }, MetaContext { id: 7, name: "other".to_owned() }];
    let facts = Negotiated { structured: choice & 1 != 0, contexts, ..Negotiated::default() };
    let shared = Shared::new(&facts);
    let bytes = Arc::new(Semaphore::new(64));
    let waiting = [
        (command::READ, Expect::Data { offset: 0, length: 512 }),
        (command::READ, Expect::Data { offset: 4096, length: 70_000 }),
        (command::READ, Expect::Data { offset: u64::MAX >> 2, length: 1 }),
        (command::BLOCK_STATUS, Expect::Status { length: 65536 }),
        (command::WRITE, Expect::Done),
        (command::FLUSH, Expect::Done),
    ];
    let mut answers = Vec::new();
    for (command, expect) in waiting {
        let Ok(permit) = Arc::clone(&bytes).try_acquire_owned() else { return };
        let (reply, answer) = oneshot::channel();
        answers.push(answer);
        let hold = Hold { _permit: permit, load: Arc::new(AtomicU64::new(1)), weight: 1, write: None };
        let (offset, length) = if let Expect::Data { offset, length } = expect { (offset, length) } else { (0, 65536) };
        let order = Order {
            command,
            flags: 0,
            offset,
            length,
            payload: Bytes::new(),
            expect,
            assembly: Assembly::new(expect),
            reply: Some(reply),
            operation: "be fuzzed",
            hold,
        };
        let _ = shared.table().add(order);
    }
    let mut reader = Reader::new(Box::new(Cursor::new(rest.to_vec())));
    let run = pin!(reader.run(&shared));
    let Poll::Ready(fault) = run.poll(&mut Context::from_waker(Waker::noop())) else {
        unreachable!("reading from memory waits");
    };
    let _ = fault.to_string();
    for mut answer in answers {
        let _ = answer.try_recv();
    }
}
