//! From a code to a tunnel and out again, all over one port.

use migratekit_core::ErrorKind;
use migratekit_core::model::ConnectionEvent as Did;
use migratekit_core::task::CancellationToken;
use migratekit_core::tunnels::{NBD_PORT, PrivateKey};
use migratekit_core::vmas::{Code, Cut, Rotating, take_over};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Rig, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vma_enrolls_is_approved_and_comes_in_by_its_key() {
    let rig = Rig::new().await;
    let key = PrivateKey::generate().unwrap();
    let pinned = rig.enroll(&key, "vma-1").await;
    assert_eq!(pinned.host_key, rig.host_key, "what is pinned is the tunnel's host key");
    let early = rig.echo(&key, &pinned.host_key).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Denied, "not before the approval");

    // It waits while an administrator compares and approves.
    let (cancel, print) = (CancellationToken::new(), key.public().fingerprint());
    let (port, approved) = tokio::join!(soon("the approval", pinned.approved(&cancel)), async {
        let waiting = rig.vmas.pending().await.unwrap();
        assert_eq!((waiting.len(), waiting[0].fingerprint.as_str()), (1, print.to_string().as_str()));
        rig.vmas.approve(&waiting[0].id, &print, "ann").await.unwrap()
    });
    assert_eq!((port.unwrap(), approved.reverse_port), (Some(9081), Some(9081)));
    rig.echo(&key, &pinned.host_key).await.unwrap();

    // Another key, and the right key at another server, do not.
    let stranger = PrivateKey::generate().unwrap();
    assert_eq!(rig.echo(&stranger, &pinned.host_key).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(rig.echo(&key, &stranger.public()).await.unwrap_err().kind(), ErrorKind::Denied);
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_cuts_the_live_stream_and_is_told_after_that() {
    let rig = Rig::new().await;
    for by_another_process in [false, true] {
        let key = rig.trusted("vma-1").await;
        let mut stream = soon("a stream", rig.client(&key, &rig.host_key).bulk(NBD_PORT)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        soon("the echo", stream.read_u8()).await.unwrap();
        let id = rig.vmas.find("vma-1").await.unwrap().id;
        let server = (!by_another_process).then_some(&rig.server);
        assert_eq!(soon("the revocation", rig.vmas.revoke(&id, "ann", server)).await.unwrap(), Cut::ByServer);
        // When it returned nothing is connected, and the line is there.
        assert!(rig.server.connected().is_empty());
        let line = &rig.vmas.history(Some(&key.public().fingerprint())).await.unwrap()[0];
        assert_eq!((line.event, line.details.as_ref().unwrap()["by"].as_str()), (Did::Revocation, Some("ann")));
        let end = soon("the end of the stream", stream.read(&mut [0; 8])).await;
        assert!(!matches!(end, Ok(n) if n > 0), "{end:?}");
        assert_eq!(rig.echo(&key, &rig.host_key).await.unwrap_err().kind(), ErrorKind::Denied);
    }
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_a_used_and_a_refused_code_are_told_as_such() {
    let rig = Rig::new().await;
    let key = PrivateKey::generate().unwrap();
    let wrong = soon("the answer", rig.oma().enroll(&key, &Code::generate().unwrap(), "vma-1", "1.0")).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Denied);
    let code = rig.code().await;
    let pinned = soon("the answer", rig.oma().enroll(&key, &code, "vma-1", "1.0")).await.unwrap();
    let used = soon("the answer", rig.oma().enroll(&PrivateKey::generate().unwrap(), &code, "vma-2", "1.0")).await.unwrap_err();
    assert_eq!(used.kind(), ErrorKind::Denied);
    assert_eq!(rig.refusals().await.len(), 2);
    rig.vmas.reject(&pinned.enrollment, "ann").await.unwrap();
    let refused = soon("the refusal", pinned.approved(&CancellationToken::new())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert_eq!(rig.echo(&key, &rig.host_key).await.unwrap_err().kind(), ErrorKind::Denied);
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_rotated_over_the_same_port_and_a_stream_may_begin_at_any_moment_of_it() {
    let rig = Rig::new().await;
    let (old, new) = (rig.trusted("vma-1").await, PrivateKey::generate().unwrap());
    let id = rig.vmas.find("vma-1").await.unwrap().id;
    let rotating = Rotating { host_key: &rig.host_key, enrollment: &id, name: "vma-1", version: "2", old: &old, new: &new };
    soon("the rotation", rig.oma().rotate(&rotating)).await.unwrap();
    rig.echo(&old, &rig.host_key).await.unwrap();
    let (by_new, by_old) = (rig.client(&new, &rig.host_key), rig.client(&old, &rig.host_key));
    take_over(&by_new, &by_old).await.unwrap();
    rig.echo(&new, &rig.host_key).await.unwrap();
    assert_eq!(rig.echo(&old, &rig.host_key).await.unwrap_err().kind(), ErrorKind::Denied);
    let after = rig.vmas.find("vma-1").await.unwrap();
    assert_eq!((after.id, after.fingerprint, after.reverse_port), (id, new.public().fingerprint().to_string(), Some(9081)));
    let line = &rig.vmas.history(Some(&new.public().fingerprint())).await.unwrap()[0];
    assert_eq!(line.details.as_ref().unwrap()["old_fingerprint"], old.public().fingerprint().to_string());
    rig.close().await;
}
