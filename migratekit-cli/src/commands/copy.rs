//! `migratekit copy`: one disk.

use std::path::Path;

use migratekit_core::block::{Extent, ExtentMap};
use migratekit_core::copy::{DiskCopy, DiskCopyReport, Verify};
use migratekit_core::task::CancellationToken;
use migratekit_core::units::{ByteSize, MAX_OFFSET};
use migratekit_core::{Error, ErrorKind, Result};

use crate::args::{self, CopyArgs, Global};
use crate::{endpoint, output};

pub(crate) async fn run(global: &Global, args: CopyArgs, cancel: CancellationToken) -> Result<()> {
    let (source, target) = endpoint::both(&args.source, &args.target, &args.tunnel).await?;
    let mut copy = DiskCopy::new(source, target);
    copy.resume = args.resume;
    copy.connections = args.connections;
    copy.in_flight = args.in_flight.map(|b| b.0);
    copy.request_size = args.request_size.map(request_size).transpose()?;
    copy.throttle.set(args.bandwidth.map(bandwidth).transpose()?);
    copy.target_is_zero = args.target_is_zero;
    copy.ledger = args.ledger;
    copy.extents = args.extents.as_deref().map(read_extents).transpose()?;
    copy.verify = args.verify.map(|how| match how {
        args::Verify::Full => Verify::Full,
        args::Verify::Sample => Verify::Sample,
    });
    copy.cancel = cancel;
    if let Some(path) = &args.report {
        copy.check_own_file("write the report", path)?;
    }
    let open = copy.open().await?;
    if let Some(why) = open.notice() {
        eprintln!("copying from the start: {why}");
    }
    let bar = output::Bar::start(global, open.progress(), "copying");
    let report = open.run().await;
    drop(bar);
    let report = report?;
    if let Some(path) = &args.report {
        let text = output::json(&report)?;
        std::fs::write(path, text + "\n").map_err(|e| Error::from_io("write the report", e).with("path", path.display()))?;
    }
    if global.quiet && global.output == crate::args::Output::Table {
        return Ok(());
    }
    output::result(global, &report, table)
}

/// The extents file; whether they lie within the source is seen when that is open.
fn read_extents(path: &Path) -> Result<Vec<Extent>> {
    let text = std::fs::read(path).map_err(|e| Error::from_io("read the extents", e).with("path", path.display()))?;
    let map = ExtentMap::from_json(&text, MAX_OFFSET).map_err(|e| e.with("path", path.display()))?;
    Ok(map.iter().map(|(range, kind)| Extent { range, kind: *kind }).collect())
}

/// Slower than this, a copy could not be told from one that stands still.
const SLOWEST: ByteSize = ByteSize(64 * 1024);

fn bandwidth(rate: ByteSize) -> Result<u64> {
    if rate.0 < SLOWEST.0 {
        return Err(
            Error::new(ErrorKind::InvalidInput, "read the bandwidth", "it must be at least 64K (bytes per second)").with("bandwidth", rate)
        );
    }
    Ok(rate.0)
}

fn request_size(size: ByteSize) -> Result<u32> {
    u32::try_from(size.0)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "read the request size", "it is larger than any server takes").with("size", size))
}

fn table(report: &DiskCopyReport) -> String {
    let counts = &report.copy.counts;
    let mut lines = vec![format!(
        "copied {} in {:.2} s ({}/s)",
        ByteSize(counts.bytes_done),
        report.copy.seconds,
        ByteSize(counts.bytes_done.checked_mul(1000).map_or(0, |b| b / millis(report.copy.seconds)))
    )];
    for (what, bytes) in [
        ("read", counts.bytes_read),
        ("written", counts.bytes_written),
        ("zeroed", counts.bytes_zeroed),
        ("zero already", counts.bytes_skipped),
        ("proven before", counts.bytes_resumed),
    ] {
        if bytes > 0 {
            lines.push(format!("  {what:<14}{}", ByteSize(bytes)));
        }
    }
    if let Some(proof) = &report.verified {
        let how = if proof.full { "all" } else { "a sample" };
        lines.push(format!("  {:<14}{how}, {} compared by digests: equal", "verified", ByteSize(proof.bytes_compared)));
    }
    if counts.retries > 0 {
        lines.push(format!("  {:<14}{}", "retries", counts.retries));
    }
    if !report.copy.durable {
        lines.push("  note          the target cannot flush: what it stored may be lost when its host fails".to_owned());
    }
    lines.join("\n")
}

/// Whole milliseconds, at least one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn millis(seconds: f64) -> u64 {
    ((seconds * 1000.0) as u64).max(1)
}
