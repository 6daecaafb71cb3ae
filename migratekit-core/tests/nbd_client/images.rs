//! Disk images through `qemu-nbd`: each format tells the bytes of the raw disk it was made from.

use std::path::{Path, PathBuf};
use std::process::Command;

use migratekit_core::block::BlockRead;
use migratekit_core::copy::{ImageDisk, ImageFormat, ImageOptions};
use migratekit_core::error::ErrorKind;
use migratekit_core::testing::peer::program;
use migratekit_core::units::{ByteRange, MIB};

use crate::servers::bytes;

fn qemu_img(args: &[&str]) {
    let output = Command::new(program("qemu-img")).args(args).output().unwrap();
    assert!(output.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A raw disk of 24 MiB with data at both ends and in the middle.
fn raw(dir: &Path) -> (PathBuf, Vec<u8>) {
    let mut disk = vec![0; 24 << 20];
    for (n, at) in [0, 5 << 20, (11 << 20) + 4096, (24 << 20) - 70_000].into_iter().enumerate() {
        disk[at..at + 70_000].copy_from_slice(&bytes(n as u64, 70_000));
    }
    let path = dir.join("disk.raw");
    std::fs::write(&path, &disk).unwrap();
    (path, disk)
}

fn convert(raw: &Path, to: &Path, format: &str, more: &[&str]) {
    let mut args = vec!["convert", "-f", "raw", "-O", format];
    args.extend_from_slice(more);
    args.extend([raw.to_str().unwrap(), to.to_str().unwrap()]);
    qemu_img(&args);
}

async fn try_read(disk: &ImageDisk) -> migratekit_core::Result<Vec<u8>> {
    let mut all = Vec::new();
    for piece in ByteRange::whole(disk.info().size)?.pieces(MIB) {
        all.extend_from_slice(&disk.read(piece).await?);
    }
    Ok(all)
}

async fn read_all(disk: &ImageDisk) -> Vec<u8> {
    try_read(disk).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_format_tells_the_bytes_of_the_raw_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, want) = raw(dir.path());
    assert_eq!(ImageFormat::detect(&raw).unwrap(), None);
    let cases: [(&str, &[&str], ImageFormat); 6] = [
        ("qcow2", &[], ImageFormat::Qcow2),
        ("qcow2", &["-c"], ImageFormat::Qcow2),
        ("vmdk", &[], ImageFormat::Vmdk),
        ("vmdk", &["-o", "subformat=streamOptimized"], ImageFormat::Vmdk),
        ("vhdx", &[], ImageFormat::Vhdx),
        ("vdi", &[], ImageFormat::Vdi),
    ];
    for (n, (format, more, detected)) in cases.into_iter().enumerate() {
        let path = dir.path().join(format!("disk-{n}.{format}"));
        convert(&raw, &path, format, more);
        assert_eq!(ImageFormat::detect(&path).unwrap(), Some(detected), "{format} {more:?}");
        let disk = ImageDisk::open(&path, &ImageOptions::default()).await.unwrap();
        assert!(disk.info().read_only && disk.info().name.ends_with(format));
        assert!(read_all(&disk).await == want, "{format} {more:?}");
        let extents = disk.extents(ByteRange::whole(disk.info().size).unwrap()).await.unwrap();
        // A block of vhdx is larger than our holes.
        assert_eq!(extents.iter().any(|e| e.kind.reads_zero()), format != "vhdx", "{format} {more:?}");
        disk.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_and_damaged_images_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, want) = raw(dir.path());
    for (n, (format, more)) in
        [("qcow2", &[][..]), ("vmdk", &[]), ("vmdk", &["-o", "subformat=streamOptimized"]), ("vhdx", &[]), ("vdi", &[])]
            .into_iter()
            .enumerate()
    {
        let path = dir.path().join(format!("cut-{n}.{format}"));
        convert(&raw, &path, format, more);
        let whole = std::fs::metadata(&path).unwrap().len();
        for length in [600, whole / 2, whole - 4096] {
            let cut = dir.path().join(format!("cut-{n}-{length}.{format}"));
            std::fs::copy(&path, &cut).unwrap();
            std::fs::File::options().write(true).open(&cut).unwrap().set_len(length).unwrap();
            let error = match ImageDisk::open(&cut, &ImageOptions::default()).await {
                Err(error) => error,
                // Only where the data is compressed: what is cut off then cannot be unpacked.
                Ok(disk) => {
                    assert!(
                        more.contains(&"subformat=streamOptimized"),
                        "{format} {more:?} cut from {whole} to {length} bytes is accepted"
                    );
                    match try_read(&disk).await {
                        Ok(got) => assert!(got == want, "{format} cut from {whole} to {length} bytes reads wrong"),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{error}"),
                    }
                    continue;
                }
            };
            assert_eq!(error.kind(), ErrorKind::Io, "{format} {length}: {error}");
            assert!(error.message().contains("cut off") && error.context_value("path").is_some(), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_name_other_files_are_refused_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, want) = raw(dir.path());
    let (over, flat) = (dir.path().join("over.qcow2"), dir.path().join("flat.vmdk"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", raw.to_str().unwrap(), "-F", "raw", over.to_str().unwrap()]);
    convert(&raw, &flat, "vmdk", &["-o", "subformat=monolithicFlat"]);
    assert_eq!(ImageFormat::detect(&flat).unwrap(), Some(ImageFormat::VmdkDescriptor));
    let data = dir.path().join("data.qcow2");
    let data_file = format!("data_file={}", dir.path().join("data.raw").display());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data_file, data.to_str().unwrap(), "24M"]);
    let mut texts = std::collections::BTreeSet::new();
    for path in [&over, &flat, &data] {
        let error = ImageDisk::open(path, &ImageOptions::default()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(texts.insert(error.message().to_owned()), "{error}");
    }
    for path in [&over, &flat] {
        let disk = ImageDisk::open(path, &ImageOptions { allow_other_files: true }).await.unwrap();
        assert!(read_all(&disk).await == want);
    }
    assert_eq!(ImageDisk::open(&raw, &ImageOptions::default()).await.err().unwrap().kind(), ErrorKind::InvalidInput);
    let gone = dir.path().join("gone");
    assert_eq!(ImageDisk::open(&gone, &ImageOptions::default()).await.err().unwrap().kind(), ErrorKind::NotFound);
}

/// Dropping the disk, with no word of farewell, ends its server too.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_disk_takes_its_server_along() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, _) = raw(dir.path());
    let path = dir.path().join("dropped.qcow2");
    convert(&raw, &path, "qcow2", &[]);
    let serving = || {
        std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(|p| {
            let line = std::fs::read(p.path().join("cmdline")).unwrap_or_default();
            line.windows(14).any(|w| w == b"dropped.qcow2\0")
        })
    };
    let disk = ImageDisk::open(&path, &ImageOptions::default()).await.unwrap();
    assert!(serving());
    drop(disk);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while serving() {
        assert!(std::time::Instant::now() < end, "qemu-nbd outlives its disk");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
