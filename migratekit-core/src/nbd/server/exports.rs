//! The list of exports, and who is admitted to them.
//!
//! The list changes while clients work. A connection is bound to the entry it was admitted to, not to a name: an export that was
//! removed and added again under its name is another one.
//!
//! Admission to a fenced export is one at a time (the entry's gate): a higher epoch is recorded durably, then every connection of
//! a lower one is closed, and **only when their last requests have ended** the newcomer is answered. This holds too when the
//! first newcomer gave up while it waited: each admission looks for older ones, not only the one that raised the epoch.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Force;
use super::readonly::ReadOnly;
use super::registry::{Binding, Record, Registry, close};
use crate::block::BlockWrite;
use crate::error::{Error, ErrorKind, Result};
use crate::nbd::epoch::{Claim, EpochKey, Token};
use crate::nbd::export::Export;
use crate::nbd::handshake::server::{Facts, Refusal};
use crate::nbd::wire::DIGEST_NAME_PREFIX;
use crate::planted::planted;

/// A refusal, for the reply: the kind, and the text for the client.
pub(super) type Denied = (Refusal, String);

/// One export.
pub(super) struct Entry {
    pub(super) name: String,
    export: Arc<dyn Export>,
    key: Option<EpochKey>,
    /// Admissions to a fenced export go one at a time.
    gate: tokio::sync::Mutex<()>,
    /// The highest epoch admitted since the export was added.
    highest: AtomicU64,
}

impl Entry {
    /// The highest epoch ever admitted.
    fn highest(&self) -> u64 {
        self.highest.load(Ordering::SeqCst).max(self.export.highest_epoch())
    }
}

/// An export as a client named it.
#[derive(Clone)]
pub(super) struct Found {
    entry: Arc<Entry>,
    /// As the client gave it.
    name: String,
    claim: Option<Claim>,
    /// The client asked for the digests of blocks of this many bytes.
    digest: Option<u32>,
}

/// An export a connection may use.
pub(super) struct Admitted {
    pub(super) export: Arc<dyn Export>,
    pub(super) disk: Arc<dyn BlockWrite>,
    /// The pass its writes belong to.
    pub(super) pass: Option<String>,
}

/// The list.
#[derive(Default)]
pub(super) struct Exports {
    entries: Mutex<BTreeMap<String, Arc<Entry>>>,
    pub(super) registry: Arc<Registry>,
}

impl Exports {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    pub(super) fn add(&self, name: &str, export: Arc<dyn Export>, key: Option<EpochKey>, longest: u32) -> Result<()> {
        let refuse = |kind, message: &'static str| Err(Error::new(kind, "add an export", message).with("export", name));
        if name.len() > usize::try_from(longest).unwrap_or(usize::MAX) {
            return refuse(ErrorKind::InvalidInput, "its name is longer than the protocol's limit");
        }
        if name.contains('\0') || name.starts_with("migratekit:") {
            return refuse(ErrorKind::InvalidInput, "its name holds a zero byte or begins with migratekit:, which is reserved");
        }
        let mut entries = self.lock();
        if entries.contains_key(name) {
            return refuse(ErrorKind::AlreadyExists, "an export of this name is served already");
        }
        let (gate, highest) = (tokio::sync::Mutex::new(()), AtomicU64::new(0));
        entries.insert(name.to_owned(), Arc::new(Entry { name: name.to_owned(), export, key, gate, highest }));
        Ok(())
    }

    /// See [`super::Server::remove`].
    pub(super) async fn remove(&self, name: &str, force: Force) -> Result<()> {
        let bound = {
            let mut entries = self.lock();
            let Some(entry) = entries.get(name).cloned() else {
                return Err(Error::new(ErrorKind::NotFound, "remove an export", "no export of this name is served").with("export", name));
            };
            let bound = self.registry.bound(&entry, |_| true);
            let writers: Vec<&str> =
                bound.iter().filter(|r| r.binding().as_ref().is_some_and(|b| b.writer)).map(|r| r.peer.as_str()).collect();
            if force == Force::No && !writers.is_empty() {
                return Err(Error::new(ErrorKind::Busy, "remove an export", "clients that may write it are connected")
                    .with("export", name)
                    .with("clients", writers.join(", ")));
            }
            entries.remove(name);
            bound
        };
        close(&bound).await;
        Ok(())
    }

    /// The names that a client is shown.
    pub(super) async fn shown_names(&self, record: &Record) -> Vec<String> {
        let names = self.names();
        let Some(view) = &record.view else { return names };
        let mut shown = Vec::new();
        for name in names {
            match view.shows(&name, None).await {
                Ok(true) => shown.push(name),
                Ok(false) => {}
                Err(error) => tracing::warn!(client = %record.peer, %error, "whose an export is cannot be told; it is not listed"),
            }
        }
        shown
    }

    /// Asks a client's view about the name it gave, before anything is looked up: what it is not shown does not exist for it.
    async fn ask_view(&self, name: &str, record: &Record) -> Result<(), Denied> {
        let Some(view) = &record.view else { return Ok(()) };
        let (_, plain) = without_digest(name)?;
        let (export, job) = match Token::parse(plain) {
            Some(token) if !self.lock().contains_key(plain) => (token.volume, Some(token.job)),
            _ => (plain, None),
        };
        match view.shows(export, job).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                if self.lock().contains_key(export) {
                    view.foreign(export);
                }
                Err(unknown())
            }
            Err(error) => Err(platform(export, &error)),
        }
    }

    /// See [`super::Server::review`].
    pub(super) async fn review(&self) {
        let mut ended = Vec::new();
        for record in self.registry.all() {
            let (Some(view), Some(binding)) = (record.view.clone(), record.binding().clone()) else { continue };
            let job = binding.claim.as_ref().map(|(_, job)| job.as_str());
            match view.shows(&binding.entry.name, job).await {
                Ok(true) => {}
                Ok(false) => ended.push(record),
                Err(error) => tracing::warn!(client = %record.peer, %error, "whose an export is cannot be told; its connection goes on"),
            }
        }
        close(&ended).await;
    }

    /// Finds what a client named, and checks its proof.
    pub(super) async fn find(&self, name: &str, record: &Record) -> Result<Found, Denied> {
        self.ask_view(name, record).await?;
        self.look_up(name)
    }

    fn look_up(&self, name: &str) -> Result<Found, Denied> {
        let (digest, plain) = without_digest(name)?;
        let found = |entry, claim| Found { entry, name: name.to_owned(), claim, digest };
        let entries = self.lock();
        if let Some(entry) = entries.get(plain) {
            if entry.key.is_some() {
                return Err((Refusal::Policy, "this export is fenced: its name must carry epoch, job and proof".to_owned()));
            }
            return Ok(found(Arc::clone(entry), None));
        }
        let token = Token::parse(plain).ok_or_else(unknown)?;
        let entry = entries.get(token.volume).cloned().ok_or_else(unknown)?;
        drop(entries);
        let claim = entry.key.as_ref().ok_or_else(unknown)?.check(&token);
        let claim = claim.ok_or_else(|| (Refusal::Policy, "the proof in the export's name is not right".to_owned()))?;
        not_fenced(&claim, entry.highest())?;
        Ok(found(entry, Some(claim)))
    }

    /// What INFO tells of it.
    pub(super) fn facts(found: &Found, max_payload: u32) -> Result<Facts, Denied> {
        let export = found.entry.export.as_ref();
        let info = match found.digest {
            None => export.disk().info().clone(),
            Some(size) => digests(export, size)?.info().clone(),
        };
        let mut facts = Facts::of(found.name.clone(), export, info, max_payload);
        facts.ledger &= found.digest.is_none();
        Ok(facts)
    }

    /// Admits a connection. `pass` is the one the client selected; by default it is the job of its claim. On a fenced export the
    /// answer waits until every writer of a lower epoch has ended.
    pub(super) async fn admit(&self, found: &Found, pass: Option<&str>, record: &Arc<Record>) -> Result<Admitted, Denied> {
        let entry = &found.entry;
        let export = Arc::clone(&entry.export);
        let _gate = match &found.claim {
            Some(_) => Some(entry.gate.lock().await),
            None => None,
        };
        if let Some(claim) = &found.claim {
            not_fenced(claim, entry.highest())?;
            if found.digest.is_none() && claim.epoch > entry.highest() {
                export.raise_epoch(claim.epoch).await.map_err(|e| platform(&entry.name, &e))?;
                entry.highest.fetch_max(claim.epoch, Ordering::SeqCst);
            }
        }
        let read_only = found.digest.is_some() || export.disk().info().read_only;
        let claim = found.claim.as_ref().map(|c| (c.epoch, c.job.clone()));
        self.bind(record, Binding { entry: Arc::clone(entry), writer: !read_only, claim })?;
        // Again: an assignment that ended before a review could see this binding.
        self.ask_view(&found.name, record).await?;
        if let (Some(claim), None) = (&found.claim, found.digest) {
            let older = self.registry.bound(entry, |b| b.claim.as_ref().is_some_and(|(epoch, _)| *epoch < claim.epoch));
            close(&older).await;
        }
        let pass = pass.map(str::to_owned).or_else(|| found.claim.as_ref().map(|c| c.job.clone()));
        let disk = match found.digest {
            Some(size) => digests(export.as_ref(), size)?,
            None => export.open(pass.as_deref()).await.map_err(|e| platform(&entry.name, &e))?,
        };
        Ok(Admitted { export, disk, pass })
    }

    /// Binds a connection, unless the export is gone meanwhile.
    fn bind(&self, record: &Record, binding: Binding) -> Result<(), Denied> {
        let entries = self.lock();
        if !entries.get(&binding.entry.name).is_some_and(|e| Arc::ptr_eq(e, &binding.entry)) {
            return Err((Refusal::Unknown, "the export was removed".to_owned()));
        }
        *record.binding() = Some(binding);
        Ok(())
    }
}

fn unknown() -> Denied {
    (Refusal::Unknown, "this server has no such export".to_owned())
}

/// The block size of the digests a name asks for, if it does, and the rest of the name.
fn without_digest(name: &str) -> Result<(Option<u32>, &str), Denied> {
    let Some(rest) = name.strip_prefix(DIGEST_NAME_PREFIX) else { return Ok((None, name)) };
    let (size, plain) = rest.split_once(':').ok_or_else(unknown)?;
    Ok((Some(size.parse().map_err(|_| unknown())?), plain))
}

fn not_fenced(claim: &Claim, highest: u64) -> Result<(), Denied> {
    if claim.epoch >= highest || planted("no-epoch-check") {
        return Ok(());
    }
    Err((Refusal::Policy, format!("fenced: epoch {} is over, epoch {highest} has the right to write", claim.epoch)))
}

fn digests(export: &dyn Export, block_size: u32) -> Result<Arc<dyn BlockWrite>, Denied> {
    let none = || (Refusal::Unknown, "this export has no digests of blocks of this size".to_owned());
    let disk = export.digests(block_size).filter(|_| block_size > 0).ok_or_else(none)?;
    Ok(Arc::new(ReadOnly::new(disk)))
}

/// A failure of ours: the client hears the cause in words, the log all of it (paths and names of this host are not for strangers).
fn platform(export: &str, error: &Error) -> Denied {
    tracing::warn!(export, %error, "an export cannot be used");
    (Refusal::Platform, error.message().to_owned())
}
