//! Follows a copy while it runs, then proves it: `cargo run --example copy_disk -- SOURCE TARGET`. Each is a path or an NBD
//! address; without arguments it copies a disk of 64 MiB that it makes in a temporary folder.

use std::path::Path;
use std::time::Duration;

use migratekit_core::units::{ByteSize, MIB};
use migratekit_core::{BlockWrite, DiskCopy, Endpoint, Error, FileDisk, OpenOptions, Persist, Result, Verify, clock};

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::from_io("make a temporary folder", e))?;
    let mut words = std::env::args().skip(1);
    let (source, target): (Endpoint, Endpoint) = match (words.next(), words.next()) {
        (Some(source), Some(target)) => (source.parse()?, target.parse()?),
        _ => {
            let disk = folder.path().join("disk.img");
            make_disk(&disk).await?;
            (Endpoint::Path(disk), Endpoint::Path(folder.path().join("replica.img")))
        }
    };

    // Opening checks both sides, and makes the target if it is missing; no byte has moved yet.
    let copy = DiskCopy { verify: Some(Verify::Full), ..DiskCopy::new(source, target) }.open().await?;
    let progress = copy.progress();
    let mut run = Box::pin(copy.run());
    let report = loop {
        tokio::select! {
            ended = &mut run => break ended?,
            () = clock::sleep(Duration::from_millis(200)) => {
                let now = progress.snapshot();
                eprintln!("{} of {}", ByteSize(now.bytes_done), ByteSize(now.bytes_total));
            }
        }
    };

    let counts = report.copy.counts;
    println!("read {}, written {}, zeroed {}", ByteSize(counts.bytes_read), ByteSize(counts.bytes_written), ByteSize(counts.bytes_zeroed));
    if let Some(verified) = report.verified {
        println!("equal: {} compared", ByteSize(verified.bytes_compared));
    }
    Ok(())
}

/// A disk with every eighth MiB in use.
async fn make_disk(path: &Path) -> Result<()> {
    let disk = FileDisk::open(path, OpenOptions { create_size: Some(64 * MIB), ..OpenOptions::default() }).await?;
    for at in (0..64).step_by(8) {
        disk.write(at * MIB, vec![0xA5; 1024 * 1024].into(), Persist::Cached).await?;
    }
    disk.flush().await
}
