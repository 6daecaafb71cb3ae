//! Compressed streams: what they move is counted on the line, never timed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migratekit_core::copy::{DiskCopy, Endpoint, TunnelledExport};
use migratekit_core::testing::Rng;
use migratekit_core::testing::line::{Line, LineOptions};
use migratekit_core::tunnels::{Client, ClientOptions, Compression, NBD_PORT, PrivateKey};
use migratekit_core::units::{KIB, MIB};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::far_rig::{Far, client_by, copied, noise};
use crate::rig::{Echo, Rig, soon, there_and_back};

const DISK: u64 = 16 * MIB;

/// So narrow that each sender waits for it.
const NARROW: LineOptions = LineOptions { delay: Duration::from_millis(2), rate: Some(4_000_000) };

/// Words of a made-up language.
fn text(bytes: u64) -> Bytes {
    let mut rng = Rng::new(11);
    let words: Vec<Vec<u8>> = (0..2000)
        .map(|_| {
            let length = 2 + rng.below(9);
            (0..length).map(|_| b'a' + rng.below(26) as u8).chain([b' ']).collect()
        })
        .collect();
    let mut text = Vec::new();
    while (text.len() as u64) < bytes {
        text.extend_from_slice(&words[(rng.below(2000) * rng.below(2000) / 2000) as usize]);
    }
    text.truncate(bytes as usize);
    text.into()
}

fn export(far: &Far, compression: Compression) -> Endpoint {
    let options = ClientOptions { compression, ..client_by(&far.line, &far.rig).options().clone() };
    Endpoint::Tunnel(TunnelledExport::new(Client::new(options), "disk"))
}

/// Copies the disk to the far end and back; tells the bytes that entered the line in each direction.
async fn there_and_back_again(far: &Far, compression: Compression) -> (u64, u64) {
    let before = far.line.counted();
    // As many connections each time: their number is otherwise measured, and each has its login.
    copied(240, DiskCopy { connections: Some(4), ..DiskCopy::new(far.near(), export(far, compression)) }).await;
    far.assert_equal().await;
    let between = far.line.counted();
    let folder = tempfile::tempdir().unwrap();
    let back = folder.path().join("back");
    let home = DiskCopy::new(export(far, compression), back.display().to_string().parse().unwrap());
    copied(240, DiskCopy { connections: Some(4), ..home }).await;
    assert!(std::fs::read(&back).unwrap() == *far.noise, "what came back is right");
    (between.up - before.up, far.line.counted().down - between.down)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_takes_far_less_of_a_narrow_line_in_both_directions() {
    let far = Far::of(text(DISK), NARROW).await;
    let (up, down) = there_and_back_again(&far, Compression::Auto).await;
    assert!(up < DISK * 7 / 10 && down < DISK * 7 / 10, "{} and {} KiB of {}", up / KIB, down / KIB, DISK / KIB);
    far.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_takes_hardly_more_than_without() {
    let far = Far::new(DISK, NARROW).await;
    let (up, down) = there_and_back_again(&far, Compression::Off).await;
    for compression in [Compression::Auto, Compression::Always] {
        let with = there_and_back_again(&far, compression).await;
        // Keepalives and answers that come in other packets beside.
        let most = |without: u64| without + DISK / 1000 + 16 * KIB;
        assert!(with.0 <= most(up) && with.1 <= most(down), "{compression}: {with:?} against {up}, {down}");
    }
    far.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_copy_goes_on_over_a_line_that_is_cut() {
    let far = Far::of(text(DISK), NARROW).await;
    let copy = DiskCopy { in_flight: Some(2 * MIB), ..DiskCopy::new(far.near(), export(&far, Compression::Always)) };
    let copy = tokio::spawn(copied(240, copy));
    for n in 1..=2 {
        far.carried(n * MIB).await;
        assert!(!copy.is_finished() && far.line.cut() > 0, "it is cut while the copy runs");
    }
    let report = copy.await.unwrap();
    assert!(report.copy.durable && far.line.counted().connections > 3, "{report:?}");
    far.assert_equal().await;
    far.close().await;
}

/// The first line of the server.
async fn first_line(rig: &Rig) -> String {
    let mut line = String::new();
    let mut socket = BufReader::new(TcpStream::connect(rig.address).await.unwrap());
    soon("the first line", socket.read_line(&mut line)).await.unwrap();
    line.trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_without_the_feature_gets_plain_bytes() {
    use Compression::{Always, Off};
    // Off is how the version before spoke: it says so in its first line, and asks for nothing.
    for (here, there, version) in [(Always, Always, 2), (Off, Always, 2), (Always, Off, 1), (Off, Off, 1)] {
        let rig = Rig::with(vec![(NBD_PORT, Arc::new(Echo))], |options| options.compression = there).await;
        assert_eq!(first_line(&rig).await, format!("SSH-2.0-MigrateKit_{version}"));
        let line = Line::start(rig.address, LineOptions::default()).await;
        let client = Client::new(ClientOptions { compression: here, ..client_by(&line, &rig).options().clone() });
        // The bytes repeat themselves every 249.
        there_and_back(client.bulk(NBD_PORT).await.unwrap(), 4 * MIB as usize).await;
        let counted = line.counted();
        let packed = here == Always && there == Always;
        assert!((counted.up < MIB) == packed && (counted.down < MIB) == packed, "{here} and {there}: {counted:?}");
        // A stream of the control connection is plain in any case.
        let link = client.connect().await.unwrap();
        there_and_back(link.open(NBD_PORT).await.unwrap(), 100_000).await;
        line.close().await;
        rig.close().await;
    }
}

/// Tells how the reading of its stream ended, and how much had come.
struct Reads(mpsc::UnboundedSender<(usize, std::io::Result<usize>)>);

impl migratekit_core::tunnels::StreamHandler for Reads {
    fn serve(
        &self,
        stream: migratekit_core::tunnels::TunnelStream,
        _: migratekit_core::tunnels::Peer,
        _: migratekit_core::task::CancellationToken,
    ) -> migratekit_core::block::BoxFuture<'static, ()> {
        let tell = self.0.clone();
        Box::pin(async move {
            let ((mut read, _write), mut all) = (stream.split(), Vec::new());
            let end = read.read_to_end(&mut all).await;
            let _ = tell.send((all.len(), end));
        })
    }
}

/// A client that believes any server and speaks by itself.
struct Stranger;

impl russh::client::Handler for Stranger {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_frames_end_their_stream_with_the_cause_and_nothing_else() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let rig = Rig::new(vec![(NBD_PORT, Arc::new(Reads(tell))), (8082, Arc::new(Echo))]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let (key, _) = PrivateKey::read_or_make(&file).await.unwrap();
    rig.keys.allow(&key, "vma-2", None);
    let key = Arc::new(russh::keys::load_secret_key(&file, None).unwrap());
    let mut session = russh::client::connect(Arc::default(), rig.address, Stranger).await.unwrap();
    let key = russh::keys::PrivateKeyWithHashAlg::new(key, None);
    assert!(session.authenticate_publickey("vma_tunnel", key).await.unwrap().success());

    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 19).unwrap();
    let packed = |kind: u8, length: usize, body: &[u8]| {
        let head = u32::try_from(length).unwrap().to_be_bytes();
        [&[kind, head[1], head[2], head[3]], body].concat()
    };
    let hello = packed(0, 5, b"hello");
    for (what, bytes, cause) in [
        ("a bomb", packed(1, bomb.len(), &bomb), "does not unpack"),
        ("no zstd", packed(1, 4, b"junk"), "does not unpack"),
        ("too long", packed(0, 65_533, b""), "1 to 65532"),
        ("nothing", packed(1, 0, b""), "1 to 65532"),
        ("a kind that does not exist", packed(9, 1, b"x"), "the kind 9"),
        ("cut off", packed(0, 6, b"hello"), "in the middle of a frame"),
    ] {
        let channel = session.channel_open_direct_tcpip("127.0.0.1", NBD_PORT.into(), "migratekit-frames", 0).await.unwrap();
        channel.data_bytes([hello.clone(), bytes].concat()).await.unwrap();
        channel.eof().await.unwrap();
        let (before, end) = soon(what, told.recv()).await.unwrap();
        let error = end.expect_err(what);
        assert!(error.to_string().contains(cause) && (5..=10).contains(&before), "{what}: {before} bytes, {error}");
        // The connection itself goes on.
        let channel = session.channel_open_direct_tcpip("127.0.0.1", 8082, "127.0.0.1", 0).await.unwrap();
        let mut echo = channel.into_stream();
        echo.write_all(b"still there").await.unwrap();
        soon("the echo", echo.read_exact(&mut [0; 11])).await.unwrap();
    }
    rig.close().await;
}

#[test]
fn the_noise_and_the_text_of_these_tests_are_what_they_are_called() {
    let left = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap().len() * 100 / bytes.len();
    let (text, noise) = (left(&text(MIB)[..65_532]), left(&noise(MIB, 7)[..65_532]));
    assert!(text < 60 && noise >= 100, "{text} and {noise} percent are left");
}
