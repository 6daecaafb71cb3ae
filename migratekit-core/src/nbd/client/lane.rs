//! One of a client's connections over its whole life: it serves, breaks, is made again, serves on.
//!
//! ```text
//!            order                    broken                    made again, the same export
//!  serving <------- queue   serving ---------> (idle: wait for an order) -> reconnecting ----> serving, unacknowledged first
//!                                                                              |-> gave up, or the export changed: client fails
//! ```

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::connection::{End, serve};
use super::core::Core;
use super::dial::Opened;
use super::order::{Order, copy_of};
use crate::clock;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::nbd::handshake::facts::Negotiated;
use crate::task::CancellationToken;

const OPERATION: &str = "connect to the NBD server again";

/// Runs lane `index` of the client until the client ends.
pub(crate) async fn run(core: Arc<Core>, index: usize, opened: Opened, mut queue: UnboundedReceiver<Order>, token: CancellationToken) {
    let mut opened = opened;
    let mut resend = Vec::new();
    loop {
        let (end, left) = serve(opened.halves, &opened.facts, core.options.timeouts.stall, &mut queue, resend, &token).await;
        let fault = match end {
            End::Closed => return,
            End::Broken(fault) => fault,
        };
        core.broke(index);
        tracing::debug!(server = %core.name, connection = index, %fault, "an NBD connection broke");
        resend = left.into_iter().filter(|o| !o.is_abandoned()).map(Order::renewed).collect();
        if !may_be_made_again(&fault) || core.options.reconnect.attempts == 0 || !core.origin.can_repeat() {
            return fail(&core, fault, resend, queue);
        }
        if resend.is_empty() {
            // Nobody waits: the connection is made again when somebody does.
            tokio::select! {
                order = queue.recv() => match order {
                    Some(order) => resend.push(order),
                    None => return,
                },
                () = token.cancelled() => return,
            }
        }
        let again = tokio::select! {
            again = reconnect(&core, fault) => again,
            () = token.cancelled() => return,
        };
        match again {
            Ok(again) => opened = again,
            Err(fault) => return fail(&core, fault, resend, queue),
        }
        core.is_up(index);
    }
}

/// Whether a connection that broke so is worth another attempt. A server that broke the protocol is not.
fn may_be_made_again(fault: &Error) -> bool {
    match fault.kind() {
        ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Busy => true,
        // A socket path that is gone while the server starts anew; an export that is unknown is final.
        ErrorKind::NotFound => fault.context_value("socket").is_some(),
        _ => false,
    }
}

/// Makes the connection again within the policy, and proves that it is the same export.
async fn reconnect(core: &Core, first: Error) -> Result<Opened> {
    let policy = core.options.reconnect;
    let end = clock::now() + policy.total;
    let mut last = first;
    for attempt in 0..policy.attempts {
        match core.origin.again(core.plan.clone(), core.options.timeouts).await {
            Ok(opened) => {
                same_export(&core.facts, &opened.facts)?;
                return Ok(opened);
            }
            Err(e) if may_be_made_again(&e) => last = e,
            Err(e) => return Err(e),
        }
        let pause = policy.pause(attempt, core.random());
        if clock::now() + pause >= end {
            break;
        }
        clock::sleep(pause).await;
    }
    Err(Error::new(ErrorKind::Unreachable, OPERATION, "the connection broke, and could not be made again within the time allowed")
        .with("seconds-allowed", policy.total.as_secs_f64())
        .with_retry(Retry::Exhausted)
        .with_source(last))
}

/// Refuses an export that is not the one that was opened first.
pub(crate) fn same_export(first: &Negotiated, now: &Negotiated) -> Result<()> {
    let changed = |text: String| Err(Error::new(ErrorKind::Changed, OPERATION, text));
    if first.size != now.size {
        return changed(format!("the export changed its size from {} to {} bytes", first.size, now.size));
    }
    if first.flags != now.flags {
        return changed(format!(
            "the export changed its abilities from [{}] to [{}]",
            first.flag_names().join(" "),
            now.flag_names().join(" ")
        ));
    }
    if first.block_sizes != now.block_sizes {
        return changed("the export changed its block sizes".to_owned());
    }
    if first.structured != now.structured || names(first) != names(now) {
        return changed(format!("the server changed its meta contexts from [{}] to [{}]", names(first).join(" "), names(now).join(" ")));
    }
    Ok(())
}

fn names(facts: &Negotiated) -> Vec<&str> {
    let mut names: Vec<_> = facts.contexts.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    names
}

/// Ends the client: all orders, here and later, fail with `fault`.
fn fail(core: &Core, fault: Error, resend: Vec<Order>, mut queue: UnboundedReceiver<Order>) {
    let fault = core.fail(fault);
    queue.close();
    for order in resend {
        order.answer(Err(copy_of(fault)));
    }
    while let Ok(order) = queue.try_recv() {
        order.answer(Err(copy_of(fault)));
    }
}
