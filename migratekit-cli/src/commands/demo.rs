//! `migratekit demo`: the whole story on this machine, told as it happens.
//!
//! A real disk with a real file system becomes a machine of a local site. It is taken under management and replicated in full, changed from
//! outside, replicated by its changes alone, compared by digests, and read from the replica by programs that are not ours. All of that by the
//! engine, with a catalog and a key of its own in the demo's folder. Between, the disk goes through the tunnel to a second process ([`oma`]).

mod oma;

use std::path::{Path, PathBuf};

use migratekit_cli::demo::image::{self, Change, Disk};
use migratekit_core::copy::{DiskCompare, DiskCopy, Endpoint};
use migratekit_core::credentials::{KeyFile, KeyPlace};
use migratekit_core::engine::{AddOutcome, Engine, JobFilter, NewCredential, ReplicationReport, Which};
use migratekit_core::model::{JobStatus, ReplicationMode};
use migratekit_core::store::{Store, StoreOptions};
use migratekit_core::task::CancellationToken;
use migratekit_core::units::ByteSize;
use migratekit_core::{Error, ErrorKind, Result, task};

use self::oma::Oma;
use crate::args::{DemoArgs, Global};
use crate::{output, told};

/// The site, as it is saved.
const SITE: &str = "demo-site";
/// The machine, by the name of its folder.
const MACHINE: &str = "demo";
/// What it is. Its disk lies beside it.
const MACHINE_FILE: &str = r#"name = "demo"
uuid = "564d0e1c-0000-4000-8000-00000000de70"
cpus = 1
memory = "512M"
os = "linux"
power = "off"

[[disk]]
key = 2000
path = "disk.img"
"#;

pub(crate) async fn run(global: &Global, args: DemoArgs, cancel: CancellationToken) -> Result<()> {
    let temporary = match &args.keep {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(|e| Error::from_io("make a temporary folder", e))?),
    };
    let work = args.keep.clone().or_else(|| temporary.as_ref().map(|t| t.path().to_owned())).unwrap_or_default();
    let mut story = Story { global: global.clone(), chapter: 0 };
    story.tell(&args, &work, cancel).await?;
    match &args.keep {
        Some(dir) => {
            story.say("", &format!("Kept in {}: the site with machine and volume, the catalog and its key, the OMA's disk.", dir.display()))
        }
        None => story.say("", "The temporary folder is removed; --keep DIR keeps machine, replica and catalog."),
    }
}

struct Story {
    global: Global,
    chapter: u32,
}

impl Story {
    async fn tell(&mut self, args: &DemoArgs, work: &Path, cancel: CancellationToken) -> Result<()> {
        self.say("", "MigrateKit: a machine's disk moves, and is proven equal.")?;
        self.chapter("A machine with a disk")?;
        let disk = make(args, work).await?;
        let what = if disk.file_system.is_some() { "with an ext4 file system in a partition" } else { "of bytes" };
        self.say("disk", &format!("{} {what}", ByteSize(disk.size)))?;
        if let Some(why) = &disk.not_shown {
            self.say("not shown", why)?;
        }
        let engine = open(work).await?;
        self.manage(&engine, work).await?;
        let running = engine.start().await?;
        let told = self.two_passes(&engine, &disk, &cancel).await;
        running.stop().await?;
        let replica = told?;
        self.chapter("The same disk through the tunnel, to another process")?;
        self.through_the_tunnel(&disk, &work.join("oma"), &cancel).await?;
        self.chapter("Seen by others: the replica, read by programs that are not ours")?;
        let checked = task::blocking(move || image::check(&replica, &disk)).await??;
        for line in &checked.found {
            self.say("found", line)?;
        }
        self.say("by", &checked.tools.join(", "))?;
        self.chapter("What the catalog keeps of it")?;
        self.jobs(&engine).await
    }

    async fn manage(&self, engine: &Engine, work: &Path) -> Result<()> {
        let site = NewCredential::Local { name: SITE.to_owned(), path: work.join("site"), volumes: None };
        match engine.credentials().add(site).await {
            // A folder that an earlier demo kept.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            saved => drop(saved?),
        }
        for added in engine.contexts().add(SITE, Which::All).await? {
            match added.outcome {
                AddOutcome::Added { context } => self.say("managed", &format!("{} of {SITE}, as {context}", added.name))?,
                AddOutcome::Skipped { context } => self.say("managed", &format!("{} already, as {context}", added.name))?,
                AddOutcome::Refused { why } => {
                    return Err(Error::new(ErrorKind::Internal, "run the demo", "its machine was refused").with("why", why));
                }
            }
        }
        Ok(())
    }

    /// Both passes; gives the path of the replica.
    async fn two_passes(&mut self, engine: &Engine, disk: &Disk, cancel: &CancellationToken) -> Result<PathBuf> {
        self.chapter("First replication: all of it, into a volume with a ledger")?;
        self.replicate(engine, ReplicationMode::Full, cancel).await?;
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
        self.chapter("Second replication: what changed, and nothing else")?;
        self.replicate(engine, ReplicationMode::Incremental, cancel).await?;
        let replica = replica(engine).await?;
        self.prove(disk, Endpoint::Path(replica.clone())).await?;
        Ok(replica)
    }

    async fn prove(&self, disk: &Disk, replica: Endpoint) -> Result<()> {
        let proof = DiskCompare::new(Endpoint::Path(disk.path.clone()), replica).run().await?;
        if !proof.equal {
            let text = "the replica is not equal to the disk";
            return Err(Error::new(ErrorKind::Mismatch, "run the demo", text).with("bytes", proof.bytes_differing));
        }
        self.say("proven", &format!("equal, {} compared by digests", ByteSize(proof.bytes_compared)))
    }

    async fn through_the_tunnel(&self, disk: &Disk, folder: &Path, cancel: &CancellationToken) -> Result<()> {
        let oma = Oma::start(folder, disk.size).await?;
        self.say("oma", &format!("process {} listens at {}, SSH on one port", oma.pid(), oma.address))?;
        self.say("pinned", &oma.fingerprint.to_string())?;
        let mut copy = DiskCopy::new(Endpoint::Path(disk.path.clone()), oma.endpoint());
        copy.cancel = cancel.clone();
        let done = copy.open().await?.run().await?.copy;
        self.say("copied", &format!("{} of {} in {:.2} s", ByteSize(done.counts.bytes_done), ByteSize(done.size), done.seconds))?;
        self.prove(disk, oma.endpoint()).await?;
        oma.end().await
    }

    async fn replicate(&self, engine: &Engine, mode: ReplicationMode, cancel: &CancellationToken) -> Result<()> {
        let job = engine.replications().start(MACHINE, mode).await?.id().clone();
        let jobs = engine.jobs();
        tokio::select! {
            ended = jobs.wait(&job) => ended?,
            () = cancel.cancelled() => {
                jobs.cancel(&job).await?;
                jobs.wait(&job).await?
            }
        };
        told::verdict(&jobs.detail(&job).await?)?;
        self.report(&engine.replications().report(&job).await?)
    }

    fn report(&self, report: &ReplicationReport) -> Result<()> {
        let (written, total) = (ByteSize(report.bytes_transferred), ByteSize(report.capacity_bytes));
        self.say("written", &format!("{written} of {total} in {:.2} s, zeros included", report.seconds.unwrap_or_default()))?;
        match &report.point {
            Some(point) => self.say("point", &format!("{}, {}", point.id, point.status)),
            None => Err(Error::new(ErrorKind::Internal, "run the demo", "a replication completed without a point")),
        }
    }

    async fn jobs(&self, engine: &Engine) -> Result<()> {
        let detail = engine.contexts().detail(MACHINE).await?;
        self.say("vm", &format!("{}, {}", detail.context.vm_name, detail.context.status))?;
        let jobs = engine.jobs().feed(&JobFilter::default(), 10, None).await?;
        for job in jobs.items.iter().rev() {
            self.say("job", &format!("{}, {}, {}", job.job_id, job.display_name, job.status))?;
        }
        if jobs.items.iter().any(|job| job.status != JobStatus::Completed) {
            return Err(Error::new(ErrorKind::Internal, "run the demo", "a job of it did not complete"));
        }
        Ok(())
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

/// The machine's folder, with its disk and its file.
async fn make(args: &DemoArgs, work: &Path) -> Result<Disk> {
    let (folder, given) = (work.join("site").join("machines").join(MACHINE), args.disk.clone());
    task::blocking(move || {
        let disk = match given {
            Some(path) => image::take(&path, &folder),
            None => image::make(&folder, image::SIZE),
        }?;
        let file = folder.join("machine.toml");
        std::fs::write(&file, MACHINE_FILE).map_err(|e| Error::from_io("write the demo's machine", e).with("path", file.display()))?;
        Ok(disk)
    })
    .await?
}

/// An engine with a catalog and a key of the demo's own.
async fn open(work: &Path) -> Result<Engine> {
    let store = Store::open(&format!("sqlite://{}", work.join("catalog.db").display()), StoreOptions::new()).await?;
    let key = KeyPlace::File(KeyFile::at(work.join("key")));
    Engine::builder().store(store).key(key).build().await
}

/// The file that is the replica.
async fn replica(engine: &Engine) -> Result<PathBuf> {
    let detail = engine.contexts().detail(MACHINE).await?;
    let volume = detail.disks.into_iter().find_map(|disk| disk.volume).and_then(|volume| volume.path);
    volume.ok_or_else(|| Error::new(ErrorKind::Internal, "run the demo", "the machine's disk has no volume after a replication"))
}
