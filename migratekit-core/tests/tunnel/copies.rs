//! Copies through the tunnel, in one process: our NBD client on a channel, our NBD server at its other end.

use std::sync::Arc;

use migratekit_core::block::{BlockRead as _, BlockWrite as _, MemoryDisk, Persist};
use migratekit_core::copy::{
    Assignments, DiskCompare, DiskCopy, Endpoint, LedgerPlace, ServedDisk, TunnelAccess, TunnelExports, TunnelledExport, Verify,
};
use migratekit_core::nbd::export::PlainExport;
use migratekit_core::nbd::{self, ServerConfig};
use migratekit_core::testing::Rng;
use migratekit_core::tunnels::{Compression, NBD_PORT};
use migratekit_core::units::{ByteRange, KIB, MIB};

use crate::rig::{Rig, soon};

/// A file of random runs and holes.
fn disk(path: &std::path::Path, size: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut rng = Rng::new(20_261_121);
    let mut at = 0;
    while at + 256 * KIB < size {
        let mut run = vec![0; (rng.below(192 * KIB) + 1) as usize];
        for byte in &mut run {
            *byte = rng.below(256) as u8;
        }
        file.write_all_at(&run, at).unwrap();
        at += run.len() as u64 + rng.below(MIB);
    }
}

/// A tunnel to the export `disk`, which is that of `vma-1`.
async fn tunnelled(server: &nbd::Server) -> Rig {
    let owners = Assignments::of("vma-1", &["disk"]);
    Rig::new(vec![(NBD_PORT, Arc::new(TunnelExports::new(server.clone(), Arc::new(owners))))]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_copied_through_the_tunnel_is_equal_and_proven_without_moving_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source.img"), folder.path().join("target.img"));
    let size = 24 * MIB + 5 * 512;
    disk(&source, size);
    std::fs::File::create(&target).unwrap().set_len(size).unwrap();
    let served = ServedDisk::writable(&target, &LedgerPlace::Beside).await.unwrap();
    let server = nbd::Server::new(ServerConfig::default());
    server.add("disk", served.export()).unwrap();
    let rig = tunnelled(&server).await;
    let far = Endpoint::Tunnel(TunnelledExport::new(rig.client(), "disk"));

    let mut copy = DiskCopy::new(Endpoint::Path(source.clone()), far.clone());
    copy.verify = Some(Verify::Full);
    let report = soon("the copy", async { copy.open().await.unwrap().run().await.unwrap() }).await;
    assert!(report.copy.durable && report.pass.is_some() && report.verified.is_some(), "{report:?}");
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&target).unwrap(), "target equals source");

    // The other way: the export is the source.
    let back = folder.path().join("back.img");
    let copy = DiskCopy::new(far.clone(), Endpoint::Path(back.clone()));
    soon("the copy back", async { copy.open().await.unwrap().run().await.unwrap() }).await;
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&back).unwrap(), "what came back equals the source");

    // A difference is found, by digests.
    let compared = DiskCompare::new(Endpoint::Path(source.clone()), far).run().await.unwrap();
    assert!(compared.demand_equal("the source", "the export").is_ok());
    server.shutdown().await;
    served.close().await.unwrap();
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_connection_of_nbd_has_a_connection_of_its_own_and_ends_with_it() {
    let server = nbd::Server::new(ServerConfig::default());
    server.add("disk", Arc::new(PlainExport::new(Arc::new(MemoryDisk::new("disk", 4 * MIB)), "a disk"))).unwrap();
    let rig = tunnelled(&server).await;
    let export = TunnelledExport::new(rig.client(), "disk");
    let client = soon("the client", export.connect(3)).await.unwrap();
    assert_eq!((client.connections(), rig.server.connected().len()), (3, 3));
    client.write(0, vec![7; MIB as usize].into(), Persist::Cached).await.unwrap();
    client.flush().await.unwrap();
    assert!(client.read(ByteRange::between(0, MIB)).await.unwrap().iter().all(|b| *b == 7));
    let client_names: Vec<String> = server.connections().into_iter().map(|c| c.client).collect();
    assert!(client_names.iter().all(|name| name.starts_with("vma-1 at 127.0.0.1:")), "{client_names:?}");
    client.close().await.unwrap();
    soon("no connection is left", async {
        while !rig.server.connected().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await;
    rig.close().await;
}

#[tokio::test]
async fn a_tunnel_that_cannot_be_entered_is_told_with_its_cause() {
    let rig = tunnelled(&nbd::Server::new(ServerConfig::default())).await;
    let access = TunnelAccess { key: rig.key.clone().into(), host_key: rig.key.public().fingerprint(), compression: Compression::Auto };
    let address = format!("ssh://127.0.0.1:{}/disk", rig.address.port());
    let wrong = Endpoint::parse(&address, Some(&access)).unwrap();
    let copy = DiskCopy::new(wrong, "/nowhere/target".parse().unwrap());
    let refused = soon("the refusal", copy.open()).await.err().unwrap();
    assert_eq!(refused.kind(), migratekit_core::ErrorKind::Denied);
    assert!(refused.message().contains("pinned") && refused.context_value("side") == Some("source"), "{refused}");
    rig.close().await;
}
