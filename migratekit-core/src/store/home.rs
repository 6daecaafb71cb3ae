//! Where a SQLite catalog may lie: in a folder of this host, on a file system of this host, and on the host it belongs to.
//!
//! SQLite's locks hold between the processes of one host. Two hosts that open one file over a network destroy it, so network file systems
//! are refused, and a file that was made on another host is not used before somebody says that it moved.
//!
//! Two hosts made from one image call themselves the same. What they cannot have in common is the boot: a host has one after the other,
//! each with an id of the kernel's. The catalog keeps the boots that used it, the last one first:
//!
//! - ours is the last: nothing is new;
//! - ours is there, and another came after it: only another host can have, and the file is refused;
//! - ours is not there: this host was started anew, or it is another one. A host that works gives signs of life (the runners' heartbeats); while
//!   such a sign is seen that no process of ours gives, the file is refused. Nothing is judged by a wall clock.
//!
//! What this does not see: a copy of the file (that is another catalog), and a machine that was cloned while it ran.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Store, StoreOptions, Tx, migrate};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RunnerId;
use crate::task;

/// What an open does first, for errors.
pub(super) const OPEN: &str = "open the catalog";
/// File systems that several hosts can reach at once, by the number that statfs tells.
const NETWORK: &[(u64, &str)] = &[
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x7375_7245, "coda"),
    (0x786f_4256, "vboxsf"),
];
/// The fact that names the host a SQLite file belongs to.
const HOME: &str = "home_host";
/// The fact that names the boots of hosts that used it, the last one first.
const BOOTS: &str = "home_boots";
/// Facts that are true of one file only.
pub(super) const OWN_FACTS: &[&str] = &[HOME, BOOTS];
/// So many boots are remembered: two hosts that share a file are seen at their first change of turns.
const BOOTS_KEPT: usize = 16;
/// How long a runner is watched for a sign of life: two of its heartbeats, which come every 5 s, and a little more.
const WATCH: Duration = Duration::from_secs(11);
/// The pause between two looks at it.
const LOOK: Duration = Duration::from_millis(250);

/// What a host is known by.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) machine: Option<String>,
    pub(super) boot: Option<String>,
    pub(super) watch: Duration,
}

impl Default for Identity {
    fn default() -> Self {
        Identity { machine: None, boot: None, watch: WATCH }
    }
}

impl Identity {
    /// With what the system tells where nothing was given. Blocking.
    fn complete(mut self) -> Self {
        self.machine = self.machine.or_else(|| digest_of_id("/etc/machine-id", "migratekit home"));
        self.boot = self.boot.or_else(|| digest_of_id("/proc/sys/kernel/random/boot_id", "migratekit boot"));
        self
    }
}

/// What a change of boots means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Boots {
    /// Ours is the last that used the file, or the first ever.
    Ours,
    /// Ours used it, and then another one did.
    Shared,
    /// Ours never used it.
    New,
}

fn judge(boots: &[&str], ours: &str) -> Boots {
    match boots.iter().position(|boot| *boot == ours) {
        Some(0) => Boots::Ours,
        Some(_) => Boots::Shared,
        None => Boots::New,
    }
}

impl Store {
    /// Writes down where a SQLite file lives, or refuses one that lives elsewhere.
    pub(super) async fn live_here(&self, options: StoreOptions) -> Result<()> {
        let (adopt, identity) = (options.adopt, options.identity);
        let here = task::blocking(move || identity.complete()).await?;
        // A schema that is not complete yet may lack the place; the next open writes it down.
        if !self.read(OPEN, |tx| async move { migrate::table_names(&tx).await }).await?.iter().any(|name| name == "store_facts") {
            return Ok(());
        }
        let (home, boots) = self.read(OPEN, |tx| async move { places(&tx).await }).await?;
        let named = |error: Error| error.with("catalog", self.url());
        if let (Some(home), Some(machine), false) = (&home, &here.machine, adopt)
            && home != machine
        {
            return Err(named(elsewhere()));
        }
        let settled = match &here.boot {
            Some(boot) => {
                let known: Vec<&str> = boots.split_whitespace().collect();
                match judge(&known, boot) {
                    Boots::Ours => true,
                    Boots::Shared if !adopt => return Err(named(shared())),
                    Boots::New if !adopt && !known.is_empty() => self.nobody_else(boot, here.watch).await.map_err(named)?,
                    Boots::Shared | Boots::New => false,
                }
            }
            None => true,
        };
        if settled && (home == here.machine || here.machine.is_none()) {
            return Ok(());
        }
        let here = &here;
        self.write(OPEN, |tx| async move { move_in(&tx, here, adopt).await }).await.map_err(named)
    }

    /// Watches the runners that did not end in order, and refuses when one of them lives: no process of this host can be one of them. Those
    /// that stood still are written down as ended, so that the next start need not wait. Tells whether another process of this boot
    /// settled all of it meanwhile.
    async fn nobody_else(&self, ours: &str, watch: Duration) -> Result<bool> {
        let before = self.read(OPEN, |tx| async move { signs(&tx).await }).await?;
        if before.is_empty() {
            return Ok(false);
        }
        tracing::info!(runners = before.len(), "this host is new to the catalog; looking whether another one works on it");
        let end = clock::now() + watch;
        while clock::now() < end {
            clock::sleep(LOOK.min(watch)).await;
            let (now, (_, boots)) = self.read(OPEN, |tx| async move { Ok((signs(&tx).await?, places(&tx).await?)) }).await?;
            if boots.split_whitespace().next() == Some(ours) {
                return Ok(true);
            }
            if now.iter().any(|sign| !before.contains(sign)) {
                return Err(works_elsewhere());
            }
        }
        let before = &before;
        self.write(OPEN, |tx| async move {
            for (runner, _) in before {
                tx.runners().stopped(runner).await?;
            }
            Ok(())
        })
        .await?;
        Ok(false)
    }
}

/// Which host and which boots the catalog names.
async fn places(tx: &Tx) -> Result<(Option<String>, String)> {
    Ok((tx.facts().get(HOME).await?, tx.facts().get(BOOTS).await?.unwrap_or_default()))
}

/// What each runner that did not end in order last gave.
async fn signs(tx: &Tx) -> Result<Vec<(RunnerId, u64)>> {
    Ok(tx.runners().running().await?.into_iter().map(|runner| (runner.id, runner.heartbeats)).collect())
}

/// From now on the file lives here.
async fn move_in(tx: &Tx, here: &Identity, adopt: bool) -> Result<()> {
    let (home, boots) = places(tx).await?;
    if let Some(machine) = &here.machine {
        if !adopt && home.is_some_and(|home| home != *machine) {
            return Err(elsewhere());
        }
        tx.facts().set(HOME, machine).await?;
    }
    if let Some(boot) = &here.boot {
        if !adopt && judge(&boots.split_whitespace().collect::<Vec<_>>(), boot) == Boots::Shared {
            return Err(shared());
        }
        // Others stay in the list, behind: whichever of them comes again is refused.
        let others = boots.split_whitespace().filter(|other| other != boot);
        let boots: Vec<&str> = std::iter::once(boot.as_str()).chain(others).take(BOOTS_KEPT).collect();
        tx.facts().set(BOOTS, &boots.join(" ")).await?;
    }
    Ok(())
}

/// Checks the place, and makes an empty file with mode 0600 where there is none. Blocking. Tells whether the file was new or empty.
pub(super) fn prepare(path: &Path, create: bool) -> Result<bool> {
    let fail = |e| Error::from_io(OPEN, e).with("path", path.display());
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        return Err(
            Error::new(ErrorKind::NotFound, OPEN, "the folder that is to hold the file does not exist").with("path", path.display())
        );
    }
    let kind = rustix::fs::statfs(&folder).map_err(|e| fail(e.into()))?.f_type;
    if let Some(name) = network_file_system(kind.try_into().unwrap_or(0)) {
        let message = "the file lies on a network file system, where two hosts could destroy it; use a local disk, or MariaDB";
        return Err(Error::new(ErrorKind::Unsupported, OPEN, message).with("path", path.display()).with("file_system", name));
    }
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(Error::new(ErrorKind::InvalidInput, OPEN, "it is no plain file").with("path", path.display())),
        Ok(found) => {
            fs::OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
            Ok(found.size() == 0)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && create => {
            fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(fail)?;
            Ok(true)
        }
        Err(e) => Err(fail(e)),
    }
}

fn network_file_system(kind: u64) -> Option<&'static str> {
    NETWORK.iter().find(|(number, _)| *number == kind & 0xffff_ffff).map(|(_, name)| *name)
}

/// A digest of the id in a file of the system, for one use: the id itself is meant to stay on the host. Blocking.
fn digest_of_id(path: &str, purpose: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| blake3::hash(format!("{purpose} {text}").as_bytes()).to_hex().chars().take(32).collect())
}

/// The refusal of a file whose home is another host.
fn elsewhere() -> Error {
    Error::new(ErrorKind::Denied, OPEN, "the file belongs to another host; if it was moved here for good, say so once by adopting it")
}

/// The refusal of a file that another host used after this one.
fn shared() -> Error {
    let message = "another host with the same machine id used the file after this one; end what runs there, give each host a machine id and a \
                   catalog of its own, and adopt the file on the one that keeps it";
    Error::new(ErrorKind::Denied, OPEN, message)
}

/// The refusal of a file on which another host works at this moment.
fn works_elsewhere() -> Error {
    let message = "another host with the same machine id works on the file at this moment; two hosts would destroy it: end what runs there \
                   first, or use MariaDB";
    Error::new(ErrorKind::Busy, OPEN, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_whatever_the_width_of_the_number() {
        assert_eq!(network_file_system(0x6969), Some("nfs"));
        assert_eq!(network_file_system(0xffff_ffff_ff53_4d42), Some("cifs"));
        assert_eq!(network_file_system(0xef53), None);
    }

    #[test]
    fn boots_of_one_host_come_one_after_the_other() {
        for (boots, judged) in
            [(&[][..], Boots::New), (&["b", "a"], Boots::New), (&["ours", "a"], Boots::Ours), (&["b", "ours", "a"], Boots::Shared)]
        {
            assert_eq!(judge(boots, "ours"), judged, "{boots:?}");
        }
    }
}
