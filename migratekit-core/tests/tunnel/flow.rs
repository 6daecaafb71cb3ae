//! The two hazards of russh, and what a rekey does: nothing stands still but the stream whose consumer does.

use std::sync::Arc;
use std::time::Duration;

use migratekit_core::clock::{now, within};
use migratekit_core::tunnels::{API_PORT, Client, NBD_PORT, limits};
use migratekit_core::units::MIB;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::rig::{Echo, Rig, Stopped, StoppedHandler, soon, there_and_back};

/// A listener whose sockets hold very little, so that both sides find them full at once.
fn small_listener() -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(32 * 1024).unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(16).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_full_at_once_never_wait_for_each_other() {
    let rig = Rig::on(small_listener(), vec![(NBD_PORT, Arc::new(Echo))], |_| {}).await;
    let link = rig.client().connect().await.unwrap();
    // Several channels, each with more on its way in both directions than sockets and windows hold.
    let streams = [link.open(NBD_PORT).await.unwrap(), link.open(NBD_PORT).await.unwrap(), link.open(NBD_PORT).await.unwrap()];
    let [a, b, c] = streams.map(|stream| there_and_back(stream, 6 * MIB as usize));
    tokio::join!(a, b, c);
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_consumer_stops_its_own_stream_and_no_other() {
    let stopped = Stopped::new();
    let rig = Rig::with(vec![(NBD_PORT, Arc::new(StoppedHandler(Arc::clone(&stopped)))), (API_PORT, Arc::new(Echo))], |options| {
        options.keepalive = Duration::from_millis(200);
    })
    .await;
    let mut options = rig.options(&rig.key);
    options.keepalive = Duration::from_millis(200);
    let link = Client::new(options).connect().await.unwrap();
    let total = 8 * MIB;
    let mut stuck = link.open(NBD_PORT).await.unwrap();
    let bytes = vec![5; total as usize];
    let mut writing = Box::pin(stuck.write_all(&bytes));
    assert!(within(Duration::from_millis(300), &mut writing).await.is_none(), "nobody takes it");
    // It took its credit and no more: the server holds at most a window.
    let (_, written) = link.moved();
    assert!(written <= u64::from(limits::WINDOW) + 64 * 1024, "{written} bytes were sent to a consumer that takes none");

    // Beside it, on the same connection: new channels open, data flows in both directions, pings are answered, keepalives hold for many
    // times their limit.
    let began = now();
    let mut rounds = 0;
    while began.elapsed() < Duration::from_millis(200) * (limits::KEEPALIVE_MISSES as u32 + 3) {
        there_and_back(soon("a channel beside it", link.open(API_PORT)).await.unwrap(), 3 * MIB as usize).await;
        link.ping(Duration::from_secs(1)).await.unwrap();
        rounds += 1;
    }
    assert!(rounds > 0 && !link.is_closed());
    // When the consumer goes on, all of it arrives.
    stopped.go();
    soon("the rest", &mut writing).await.unwrap();
    drop(writing);
    soon("the end", stuck.shutdown()).await.unwrap();
    let counted = soon("the count", async { stopped.ended.lock().await.recv().await }).await;
    assert_eq!(counted, Some(total));
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_ours_that_stops_does_not_stop_the_client_either() {
    let rig = Rig::new(vec![(NBD_PORT, Arc::new(Echo)), (API_PORT, Arc::new(Echo))]).await;
    let link = rig.client().connect().await.unwrap();
    // An echo that nobody reads: it comes back until the credit is used, then the server's handler waits, then our write.
    let (stuck_read, mut stuck_write) = link.open(NBD_PORT).await.unwrap().split();
    assert!(within(Duration::from_millis(300), stuck_write.write_all(&vec![1; 16 << 20])).await.is_none());
    there_and_back(link.open(API_PORT).await.unwrap(), 8 * MIB as usize).await;
    drop((stuck_read, stuck_write));
    there_and_back(link.open(NBD_PORT).await.unwrap(), MIB as usize).await;
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_exchanged_anew_under_load_in_both_directions() {
    // Each side asks for it after a MiB, also while a consumer stands still.
    let stopped = Stopped::new();
    let rig = Rig::with(vec![(NBD_PORT, Arc::new(Echo)), (API_PORT, Arc::new(StoppedHandler(Arc::clone(&stopped))))], |options| {
        options.rekey_bytes = MIB as usize;
    })
    .await;
    let mut options = rig.options(&rig.key);
    options.rekey_bytes = MIB as usize;
    let link = Client::new(options).connect().await.unwrap();
    let mut stuck = link.open(API_PORT).await.unwrap();
    assert!(within(Duration::from_millis(200), stuck.write_all(&vec![1; 4 << 20])).await.is_none());
    there_and_back(link.open(NBD_PORT).await.unwrap(), 16 * MIB as usize).await;
    assert!(!link.is_closed());
    rig.close().await;
}
