//! What is not served, and how much is borne.

use migratekit_core::ErrorKind;
use migratekit_core::tunnels::PrivateKey;
use migratekit_core::vmas::Code;
use migratekit_core::vmas::limits::MAX_GUESSES_PER_SOURCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Rig, http, soon};

fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_four_routes_are_there() {
    let rig = Rig::new().await;
    let enroll = "/api/v1/vma/enroll";
    let huge = format!("{{\"name\":\"{}\"}}", "x".repeat(9000));
    for (method, path, body, expected) in [
        ("GET", "/health", "", 200),
        ("POST", enroll, "{}", 400),
        ("POST", enroll, "not json", 400),
        ("POST", enroll, huge.as_str(), 400),
        ("POST", "/api/v1/vma/enroll/verify", "{}", 400),
        ("GET", "/api/v1/vma/enroll/result", "", 400),
        ("GET", "/api/v1/vma/enroll/result?id=enr-x", "", 404),
        ("GET", "/api/v1/vma/enroll/result?id=job-x", "", 400),
        ("GET", enroll, "", 405),
        ("DELETE", "/api/v1/vma/enroll/result", "", 405),
        ("GET", "/", "", 404),
        ("GET", "/api/v1/vms", "", 404),
        ("POST", "/api/v1/admin/vma/pairing-code", "{}", 404),
        ("GET", "/api/v1/admin/vma/pending", "", 404),
        ("GET", "/metrics", "", 404),
    ] {
        let (status, answer) = http(rig.address, &request(method, path, body)).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
    }
    assert!(rig.refusals().await.is_empty(), "what is no request is no guess");
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_some_wrong_codes_a_source_is_refused() {
    let rig = Rig::new().await;
    let key = PrivateKey::generate().unwrap();
    for _ in 0..MAX_GUESSES_PER_SOURCE {
        let wrong = soon("the answer", rig.oma().enroll(&key, &Code::generate().unwrap(), "vma", "1")).await.unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Denied);
    }
    let code = rig.code().await;
    let refused = soon("the answer", rig.oma().enroll(&key, &code, "vma", "1")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_of_both_kinds_count_together_and_do_not_stop_the_others() {
    let rig = Rig::with(|options| options.bounds.handshakes_per_source = 4).await;
    let mut held = Vec::new();
    for n in 0..4 {
        let mut socket = TcpStream::connect(rig.address).await.unwrap();
        // Half of them begin with TLS and stop, half with SSH.
        socket.write_all(if n % 2 == 0 { b"\x16\x03\x01" } else { b"SSH" }).await.unwrap();
        held.push(socket);
    }
    let mut fifth = TcpStream::connect(rig.address).await.unwrap();
    let end = soon("the end of the fifth", fifth.read(&mut [0; 1])).await;
    assert!(!matches!(end, Ok(n) if n > 0), "{end:?}");
    drop(held);
    // When they are gone there is room again: for TLS, and for SSH.
    let code = rig.code().await;
    let come = async {
        loop {
            match rig.oma().enroll(&PrivateKey::generate().unwrap(), &code, "vma", "1").await {
                Ok(_) => break,
                Err(error) => assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Protocol), "{error}"),
            }
        }
    };
    soon("room again", come).await;
    let key = rig.trusted("vma-1").await;
    rig.echo(&key, &rig.host_key).await.unwrap();
    rig.close().await;
}
