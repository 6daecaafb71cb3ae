//! A channel over a session that is played: it takes a message when its window allows, and wakes one waiter at a time, as russh does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::*;
use crate::clock::within;
use crate::task::Scope;
use crate::tunnels::compression::Compression;
use crate::tunnels::limits::WINDOW;
use crate::tunnels::stream::TunnelStream;

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Data(usize),
    Credit(u32),
    Eof,
    Close,
}

#[derive(Default)]
struct Played {
    window: Mutex<usize>,
    grown: Notify,
    said: Mutex<Vec<Said>>,
    more: Notify,
    dead: AtomicBool,
    control: Arc<Control>,
    /// The socket takes nothing.
    full: AtomicBool,
}

impl Played {
    fn grow(&self, by: usize) {
        *self.window.lock().unwrap() += by;
        self.grown.notify_one();
    }

    async fn take(&self, bytes: usize, what: Said) -> io::Result<()> {
        loop {
            if self.dead.load(Ordering::SeqCst) {
                return Err(broken());
            }
            {
                let mut window = self.window.lock().unwrap();
                if *window >= bytes {
                    *window -= bytes;
                    self.grown.notify_one();
                    break;
                }
            }
            self.grown.notified().await;
        }
        self.say(what);
        Ok(())
    }

    fn say(&self, what: Said) {
        self.said.lock().unwrap().push(what);
        self.more.notify_one();
    }

    /// Waits until so many messages were taken.
    async fn heard(&self, count: usize) -> Vec<Said> {
        let waiting = async {
            while self.said.lock().unwrap().len() < count {
                self.more.notified().await;
            }
        };
        within(Duration::from_secs(30), waiting).await.unwrap_or_else(|| panic!("only {:?}", self.said.lock().unwrap()));
        std::mem::take(&mut *self.said.lock().unwrap())
    }
}

impl Outgoing for Arc<Played> {
    async fn data(&self, payload: Bytes) -> io::Result<()> {
        self.take(payload.len(), Said::Data(payload.len())).await?;
        if !self.full.load(Ordering::SeqCst) {
            self.control.batch_ended();
        }
        Ok(())
    }

    async fn credit(&self, amount: u32) -> io::Result<()> {
        self.take(4, Said::Credit(amount)).await
    }

    async fn eof(&self) -> io::Result<()> {
        self.say(Said::Eof);
        Ok(())
    }

    async fn close(&self) -> io::Result<()> {
        self.say(Said::Close);
        Ok(())
    }
}

struct Stage {
    session: Arc<Played>,
    flow: Arc<Flow>,
    stream: TunnelStream,
    pumping: Scope,
}

fn stage(window: usize) -> Stage {
    let session = Arc::new(Played::default());
    session.grow(window);
    let flow = Arc::new(Flow::new(true, Arc::clone(&session.control)));
    let mut pumping = Scope::new();
    let told = Arc::clone(&session);
    pumping.spawn(pump(Arc::clone(&flow), Arc::clone(&session), move || told.say(Said::Data(0))));
    let stream = TunnelStream::new(Arc::clone(&flow), None);
    Stage { session, flow, stream, pumping }
}

async fn ended(mut pumping: Scope) {
    within(Duration::from_secs(30), pumping.join()).await.expect("the pump ends").unwrap();
}

const PACKETS: usize = PACKET as usize;

#[tokio::test]
async fn credit_and_data_leave_though_nobody_asks_for_them_again() {
    let Stage { session, flow, stream, pumping } = stage(0);
    let (mut read, mut write) = stream.split();
    // A packet is accepted and cannot leave; then the user turns to reading, which owes the peer credit.
    write.write_all(&vec![1; PACKETS]).await.unwrap();
    tokio::task::yield_now().await;
    assert!(flow.arrived(&vec![2; WINDOW as usize / 2]));
    read.read_exact(&mut vec![0; WINDOW as usize / 2]).await.unwrap();
    tokio::task::yield_now().await;
    // One notice for all who wait, and the user polls nothing.
    session.grow(usize::try_from(WINDOW).unwrap());
    assert_eq!(session.heard(2).await, [Said::Data(PACKETS), Said::Credit(WINDOW / 2)]);
    drop((read, write));
    assert_eq!(session.heard(2).await, [Said::Data(0), Said::Close], "forgotten, then closed");
    ended(pumping).await;
}

#[tokio::test]
async fn a_session_whose_socket_is_full_is_given_little_and_hears_of_credit_all_the_same() {
    let Stage { session, flow, stream, pumping } = stage(10 << 20);
    session.full.store(true, Ordering::SeqCst);
    let (mut read, mut write) = stream.split();
    let mut writing = Scope::new();
    writing.spawn(async move {
        write.write_all(&vec![1; 6 * PACKETS]).await.unwrap();
        write.flush().await.unwrap();
    });
    let batch = usize::try_from(BATCH).unwrap() / PACKETS;
    for _ in 0..3 {
        let given = session.heard(batch).await;
        assert!(given.len() == batch && given.iter().all(|said| *said == Said::Data(PACKETS)), "{given:?}");
        assert!(flow.arrived(&vec![2; WINDOW as usize / 4]));
        read.read_exact(&mut vec![0; WINDOW as usize / 4]).await.unwrap();
        assert_eq!(session.heard(1).await, [Said::Credit(WINDOW / 4)], "and no data before the socket took what there is");
        session.control.batch_ended();
    }
    within(Duration::from_secs(30), writing.join()).await.expect("all was given").unwrap();
    drop(read);
    session.heard(2).await;
    ended(pumping).await;
}

#[tokio::test]
async fn what_is_flushed_was_taken_and_the_end_comes_last() {
    let Stage { session, flow, mut stream, pumping } = stage(10 << 20);
    stream.write_all(&vec![1; PACKETS + 5]).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(session.heard(2).await, [Said::Data(PACKETS), Said::Data(5)]);
    stream.write_all(b"the rest").await.unwrap();
    stream.shutdown().await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(session.heard(2).await, [Said::Data(8), Said::Eof], "once");
    flow.eof();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    drop(stream);
    session.heard(2).await;
    ended(pumping).await;
}

#[tokio::test]
async fn a_writer_waits_for_credit_and_not_for_ever_for_a_channel_that_ends() {
    let Stage { session, flow, mut stream, pumping } = stage(10 << 20);
    let all = vec![1; WINDOW as usize];
    stream.write_all(&all).await.unwrap();
    stream.flush().await.unwrap();
    assert!(within(Duration::from_millis(50), async { stream.write_all(&all).await.unwrap() }).await.is_none(), "no credit is left");
    assert!(flow.credited(WINDOW / 2));
    within(Duration::from_secs(30), stream.write_all(&all[..WINDOW as usize / 4])).await.expect("there is credit again").unwrap();
    let (wrote, ()) = tokio::join!(stream.write_all(&all), async {
        tokio::task::yield_now().await;
        flow.closed();
    });
    assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    drop(stream);
    within(Duration::from_secs(30), async { while session.heard(1).await.last() != Some(&Said::Close) {} }).await.expect("it is closed");
    ended(pumping).await;
}

#[tokio::test]
async fn what_the_session_does_not_take_any_more_is_an_error_and_no_success() {
    for end in ["closed", "broken", "dead"] {
        let Stage { session, flow, mut stream, pumping } = stage(0);
        stream.write_all(b"stuck").await.unwrap();
        let (flushed, ()) = tokio::join!(stream.flush(), async {
            tokio::task::yield_now().await;
            match end {
                "closed" => flow.closed(),
                "broken" => flow.broken(),
                _ => {
                    session.dead.store(true, Ordering::SeqCst);
                    session.grow(0);
                }
            }
        });
        let kind = if end == "closed" { io::ErrorKind::BrokenPipe } else { io::ErrorKind::ConnectionReset };
        assert_eq!(flushed.unwrap_err().kind(), kind, "{end}");
        assert_eq!(stream.flush().await.unwrap_err().kind(), kind, "{end}: again");
        assert_eq!(stream.shutdown().await.unwrap_err().kind(), kind, "{end}");
        drop(stream);
        ended(pumping).await;
    }
}

#[tokio::test]
async fn users_that_leave_do_not_wait_for_a_session_that_takes_nothing() {
    let Stage { session, stream, pumping, .. } = stage(0);
    let (read, mut write) = stream.split();
    write.write_all(&vec![1; 2 * PACKETS]).await.unwrap();
    tokio::task::yield_now().await;
    drop((read, write));
    assert_eq!(session.heard(2).await, [Said::Data(0), Said::Close]);
    ended(pumping).await;
}

#[tokio::test]
async fn frames_come_through_and_wrong_ones_are_errors() {
    let Stage { session, flow, stream, pumping } = stage(10 << 20);
    let (mut read, mut write) = stream.in_frames(Compression::Always).split();
    let plain = vec![7; 3 * PACKETS];
    write.write_all(&plain).await.unwrap();
    write.flush().await.unwrap();
    let said: usize = session.heard(3).await.iter().map(|said| if let Said::Data(n) = said { *n } else { 0 }).sum();
    assert!(said < 1000, "{said} bytes for {}", plain.len());

    assert!(flow.arrived(b"\0\0\0\x05hello\0\0\0\x02"));
    let mut got = [0; 7];
    read.read_exact(&mut got[..5]).await.unwrap();
    assert!(within(Duration::from_millis(20), read.read(&mut got[5..])).await.is_none(), "the next frame has only begun");
    assert!(flow.arrived(b"!?"));
    read.read_exact(&mut got[5..]).await.unwrap();
    assert_eq!(&got, b"hello!?");
    assert!(flow.arrived(b"\x01\0\0\x04junk"));
    for _ in 0..2 {
        assert_eq!(read.read(&mut got).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
    drop((read, write));
    session.heard(2).await;
    ended(pumping).await;

    for (sent, whole) in [(&b"\0\0\0\x02ok"[..], true), (b"\0\0\0\x03ok", false), (b"\0\0", false)] {
        let Stage { session, flow, stream, pumping } = stage(0);
        let (mut read, write) = stream.in_frames(Compression::Auto).split();
        assert!(flow.arrived(sent));
        flow.eof();
        let end = read.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.is_ok(), whole, "{end:?}");
        assert!(whole || end.unwrap_err().kind() == io::ErrorKind::UnexpectedEof);
        drop((read, write));
        session.heard(2).await;
        ended(pumping).await;
    }
}

#[tokio::test]
async fn what_nobody_reads_counts_as_taken() {
    let Stage { session, flow, stream, pumping } = stage(1 << 20);
    let (read, write) = stream.split();
    assert!(flow.arrived(&vec![1; WINDOW as usize / 4]));
    drop(read);
    assert_eq!(session.heard(1).await, [Said::Credit(WINDOW / 4)]);
    for _ in 0..16 {
        assert!(flow.arrived(&vec![1; WINDOW as usize / 4]));
    }
    drop(write);
    session.heard(2).await;
    ended(pumping).await;
}
