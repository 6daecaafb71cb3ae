//! `migratekit diff`: what differs, as extents that `copy --extents` takes.

use migratekit_core::block::ExtentMap;
use migratekit_core::copy::{CompareOptions, DiskCompare};
use migratekit_core::task::CancellationToken;
use migratekit_core::units::ByteSize;
use migratekit_core::{Error, ErrorKind, Result};

use crate::args::{DiffArgs, Global};
use crate::{endpoint, output};

pub(crate) async fn run(global: &Global, args: DiffArgs, cancel: CancellationToken) -> Result<()> {
    let exact = u32::try_from(args.block.0).ok().filter(|b| b.is_power_of_two()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "read the block size", "it must be a power of two below 4G").with("block", args.block)
    })?;
    let (source, target) = endpoint::both(&args.source, &args.target, &args.tunnel).await?;
    let mut compare = DiskCompare::new(source, target);
    compare.options = CompareOptions { exact: Some(exact), cancel, ..CompareOptions::default() };
    let report = compare.run().await?;
    if report.truncated {
        return Err(Error::new(ErrorKind::Unsupported, "list the differences", "there are too many; compare with a larger --block")
            .with("differing bytes", report.bytes_differing));
    }
    output::line(&ExtentMap::from_extents(&report.differing).to_json())?;
    if !global.quiet {
        eprintln!(
            "{} of {} differ, {} moved",
            ByteSize(report.bytes_differing),
            ByteSize(report.bytes_compared),
            ByteSize(report.bytes_moved)
        );
    }
    Ok(())
}
