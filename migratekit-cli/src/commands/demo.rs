//! `migratekit demo`: the whole story on this machine, told as it happens.
//!
//! A real disk with a real file system is served by NBD, replicated into a volume that our server keeps with its ledger, changed,
//! compared, brought up to date by its differences alone, compared again, and read from the replica by programs that are not ours.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use migratekit_cli::demo::image::{self, Change, Disk};
use migratekit_core::copy::{
    CompareOptions, CompareReport, DiskCompare, DiskCopy, DiskCopyReport, Endpoint, LedgerPlace, ServedDisk, Verify,
};
use migratekit_core::nbd::{Listener, Server, ServerConfig, Uri};
use migratekit_core::task::{CancellationToken, Scope};
use migratekit_core::units::ByteSize;
use migratekit_core::{Error, Result, task};

use crate::args::{DemoArgs, Global};
use crate::output;

/// The grain of the differences, in bytes: what changed-block tracking of a hypervisor has too.
const GRAIN: u32 = 64 * 1024;

pub(crate) async fn run(global: &Global, args: DemoArgs, cancel: CancellationToken) -> Result<()> {
    let temporary = match &args.keep {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(|e| Error::from_io("make a temporary folder", e))?),
    };
    let work = args.keep.clone().or_else(|| temporary.as_ref().map(|t| t.path().to_owned())).unwrap_or_default();
    let mut story = Story { global: global.clone(), chapter: 0 };
    story.tell(&args, &work, cancel).await?;
    match &args.keep {
        Some(dir) => story.say("", &format!("Kept in {}: disk.img, replica.img and the ledger beside it.", dir.display())),
        None => story.say("", "The temporary folder is removed; --keep DIR keeps disk and replica."),
    }
}

struct Story {
    global: Global,
    chapter: u32,
}

impl Story {
    async fn tell(&mut self, args: &DemoArgs, work: &Path, cancel: CancellationToken) -> Result<()> {
        self.say("", "MigrateKit: a disk moves, and is proven equal.")?;
        self.chapter("A disk")?;
        let disk = make(args, work).await?;
        let what = if disk.file_system.is_some() { "with an ext4 file system in a partition" } else { "of bytes" };
        self.say("disk", &format!("{} {what}", ByteSize(disk.size)))?;
        if let Some(why) = &disk.not_shown {
            self.say("not shown", why)?;
        }
        let replica = work.join("replica.img");
        let site = Site::open(&disk, &replica).await?;
        let told = self.two_passes(&site, &disk, cancel).await;
        site.close().await?;
        told?;
        self.chapter("Seen by others: the replica, read by programs that are not ours")?;
        let checked = task::blocking(move || image::check(&replica, &disk)).await??;
        for line in &checked.found {
            self.say("found", line)?;
        }
        self.say("by", &checked.tools.join(", "))
    }

    async fn two_passes(&mut self, site: &Site, disk: &Disk, cancel: CancellationToken) -> Result<()> {
        self.chapter("First pass: all of it, by NBD, into a volume with a ledger")?;
        let report = site.copy(None, &cancel).await?;
        self.pass(&report)?;
        self.chapter("The disk changes")?;
        let changing = disk.clone();
        match task::blocking(move || image::change(&changing)).await?? {
            Change::Files { planted, changed, deleted } => {
                for (verb, file) in [("planted", planted), ("changed", changed), ("deleted", deleted)] {
                    self.say(verb, &file)?;
                }
            }
            Change::Blocks { count, bytes } => self.say("changed", &format!("{count} blocks of {}", ByteSize(bytes)))?,
        }
        let found = site.compare(&cancel).await?;
        self.say(
            "differs",
            &format!(
                "{} in {} places; {} moved to find out",
                ByteSize(found.bytes_differing),
                found.differing.len(),
                ByteSize(found.bytes_moved)
            ),
        )?;
        self.chapter("Second pass: the difference alone")?;
        let report = site.copy(Some(&found), &cancel).await?;
        self.pass(&report)
    }

    fn pass(&self, report: &DiskCopyReport) -> Result<()> {
        let counts = &report.copy.counts;
        self.say(
            "copied",
            &format!(
                "{} in {:.2} s: {} read, {} holes and zeros not moved",
                ByteSize(counts.bytes_done),
                report.copy.seconds,
                ByteSize(counts.bytes_read),
                ByteSize(counts.bytes_zeroed + counts.bytes_skipped)
            ),
        )?;
        match &report.verified {
            Some(proof) => self.say(
                "proven",
                &format!(
                    "equal, {} compared by digests, {} moved; BLAKE3 {:.16}..",
                    ByteSize(proof.bytes_compared),
                    ByteSize(proof.bytes_moved),
                    proof.digest
                ),
            ),
            None => Ok(()),
        }
    }

    fn chapter(&mut self, title: &str) -> Result<()> {
        self.chapter += 1;
        self.say("", &format!("\n{}. {title}", self.chapter))
    }

    fn say(&self, what: &str, text: &str) -> Result<()> {
        if self.global.quiet {
            return Ok(());
        }
        if what.is_empty() { output::line(text) } else { output::line(&format!("   {what:<10} {text}")) }
    }
}

async fn make(args: &DemoArgs, work: &Path) -> Result<Disk> {
    let (work, given) = (work.to_owned(), args.disk.clone());
    task::blocking(move || match given {
        Some(path) => image::take(&path, &work),
        None => image::make(&work, image::SIZE),
    })
    .await?
}

/// Both ends of the demo, served by NBD on the loopback.
struct Site {
    scope: Scope,
    replica: ServedDisk,
    port: u16,
}

impl Site {
    async fn open(disk: &Disk, replica: &PathBuf) -> Result<Self> {
        std::fs::File::create(replica)
            .and_then(|f| f.set_len(disk.size))
            .map_err(|e| Error::from_io("make the replica's volume", e).with("path", replica.display()))?;
        let server = Server::new(ServerConfig::default());
        let source = ServedDisk::read_only(&disk.path).await?;
        let target = ServedDisk::writable(replica, &LedgerPlace::Beside).await?;
        server.add("source", source.export())?;
        server.add("replica", target.export())?;
        let listener = Listener::tcp(&format!("{}:0", Ipv4Addr::LOCALHOST)).await?;
        let port = listener.port().unwrap_or_default();
        let mut scope = Scope::new();
        let cancel = scope.token().clone();
        scope.spawn(async move {
            if let Err(error) = server.serve(listener, cancel).await {
                tracing::error!(%error, "the demo's server ended");
            }
        });
        Ok(Site { scope, replica: target, port })
    }

    fn end(&self, export: &str) -> Endpoint {
        Endpoint::Nbd(Uri::tcp(Ipv4Addr::LOCALHOST.to_string(), self.port, export))
    }

    async fn copy(&self, changes: Option<&CompareReport>, cancel: &CancellationToken) -> Result<DiskCopyReport> {
        let mut copy = DiskCopy::new(self.end("source"), self.end("replica"));
        copy.extents = changes.map(|found| found.differing.clone());
        copy.verify = Some(Verify::Full);
        copy.cancel = cancel.clone();
        copy.open().await?.run().await
    }

    async fn compare(&self, cancel: &CancellationToken) -> Result<CompareReport> {
        let mut compare = DiskCompare::new(self.end("source"), self.end("replica"));
        compare.options = CompareOptions { exact: Some(GRAIN), cancel: cancel.clone(), ..CompareOptions::default() };
        compare.run().await
    }

    async fn close(self) -> Result<()> {
        self.scope.close().await?;
        self.replica.close().await
    }
}
