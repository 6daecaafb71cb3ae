//! Rotations: over rows in memory, with a crash after every step.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::row;
use crate::credentials::{Fingerprint, Key, KeyFile, KeyPlace, Keys, Rotation, RowIdentity, Sealed, SealedRow, SealedRows};
use crate::credentials::{SecretString, Vault, WhenMissing, rotate};
use crate::error::{Error, ErrorKind, Result};
use crate::task::CancellationToken;

/// A store in memory. It counts its steps and fails for ever from a chosen one on, before or after its effect.
#[derive(Default)]
struct Rows {
    table: Mutex<BTreeMap<RowIdentity, String>>,
    check: Mutex<Option<Sealed>>,
    steps: AtomicUsize,
    /// The step that fails, and whether what it does happens nevertheless.
    crash: Option<(usize, bool)>,
    /// Somebody else's writes: before the step of this number, the row gets this text.
    meddling: Mutex<Vec<(usize, RowIdentity, Option<String>)>>,
}

impl Rows {
    fn filled(vault: &Vault, count: usize) -> Self {
        let rows = Rows::default();
        for i in 0..count {
            rows.put(&row(&i.to_string()), &sealed(vault, i));
        }
        rows
    }

    fn put(&self, row: &RowIdentity, text: &str) {
        self.table.lock().unwrap().insert(row.clone(), text.to_owned());
    }

    /// True: the effect takes place; an error: the answer is lost.
    fn step<T>(&self, effect: impl FnOnce() -> T) -> Result<T> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        let mut meddling = self.meddling.lock().unwrap();
        for (_, row, text) in meddling.extract_if(.., |(at, ..)| *at == step) {
            let mut table = self.table.lock().unwrap();
            match text {
                Some(text) => table.insert(row, text),
                None => table.remove(&row),
            };
        }
        let died = || Error::new(ErrorKind::Unreachable, "use the store", "the process was killed");
        match self.crash {
            Some((at, after)) if step >= at => {
                if after && step == at {
                    effect();
                }
                Err(died())
            }
            _ => Ok(effect()),
        }
    }

    /// Every row opens with this vault and holds what it should.
    fn assert_whole(&self, vault: &Vault, count: usize, context: &str) {
        let table = self.table.lock().unwrap();
        assert_eq!(table.len(), count, "{context}");
        for (i, (row, text)) in (0..count).map(|i| (i, row(&i.to_string()))).map(|(i, row)| (i, (row.clone(), table[&row].clone()))) {
            let plain = vault.open_text(&row, &text.parse().unwrap()).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(plain.expose(), &format!("secret {i}"), "{context}");
        }
        if let Some(check) = &*self.check.lock().unwrap() {
            vault.verify(check).unwrap();
        }
    }

    fn under(&self, key: Fingerprint) -> usize {
        self.table.lock().unwrap().values().filter(|text| text.starts_with(&Sealed::prefix(key))).count()
    }
}

impl SealedRows for Rows {
    async fn announce(&self, check: &Sealed) -> Result<()> {
        self.step(|| *self.check.lock().unwrap() = Some(check.clone()))
    }

    async fn next_batch(&self, after: Option<&RowIdentity>, not_sealed_with: Fingerprint, limit: usize) -> Result<Vec<SealedRow>> {
        self.step(|| {
            let prefix = Sealed::prefix(not_sealed_with);
            let table = self.table.lock().unwrap();
            let behind = table.iter().filter(|(row, text)| after.is_none_or(|after| *row > after) && !text.starts_with(&prefix));
            // Small batches, so that few rows make several.
            behind.take(limit.min(3)).map(|(row, sealed)| SealedRow { row: row.clone(), sealed: sealed.clone() }).collect()
        })
    }

    async fn replace(&self, row: &RowIdentity, expected: &str, new: &Sealed) -> Result<bool> {
        self.step(|| {
            let mut table = self.table.lock().unwrap();
            let found = table.get_mut(row).filter(|text| *text == expected);
            found.map(|text| *text = new.to_string()).is_some()
        })
    }
}

fn sealed(vault: &Vault, i: usize) -> String {
    vault.seal(&row(&i.to_string()), &SecretString::from(format!("secret {i}"))).unwrap().to_string()
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> KeyFile {
        KeyFile::at(self.dir.path().join("key"))
    }

    /// As a process that starts.
    async fn vault(&self) -> Vault {
        Vault::load(KeyPlace::File(self.file()), WhenMissing::Make).await.unwrap()
    }
}

async fn run(vault: &Vault, rows: &Rows) -> Result<Rotation> {
    rotate(vault, rows, &CancellationToken::new()).await
}

#[tokio::test]
async fn everything_moves_and_the_old_key_goes() {
    let place = Place::new();
    let vault = place.vault().await;
    let old = vault.fingerprint();
    let rows = Rows::filled(&vault, 10);
    let done = run(&vault, &rows).await.unwrap();
    assert_eq!((done.moved, done.unopened, done.dropped.as_slice()), (10, 0, &[old][..]));
    assert!(done.current == vault.fingerprint() && done.current != old && !vault.holds(old));
    assert_eq!((rows.under(done.current), rows.under(old)), (10, 0));
    rows.assert_whole(&place.vault().await, 10, "a new process");
    assert_eq!(place.file().read().await.unwrap().older().len(), 0);
}

#[tokio::test]
async fn killed_after_every_step_it_is_repeated() {
    const COUNT: usize = 7;
    let mut crashes = 0;
    for at in 0.. {
        let mut ended = false;
        for after in [false, true] {
            let place = Place::new();
            let vault = place.vault().await;
            let rows = Rows { crash: Some((at, after)), ..Rows::filled(&vault, COUNT) };
            let context = format!("crash at step {at}, after its effect: {after}");
            ended = run(&vault, &rows).await.is_ok();
            crashes += usize::from(!ended);
            // The process is gone; what it held in memory too. Whoever comes next can read everything, and rotate.
            let next = place.vault().await;
            rows.assert_whole(&next, COUNT, &context);
            let keys = place.file().read().await.unwrap();
            assert_eq!(keys.older().is_empty(), ended, "{context}");
            let rows = Rows { crash: None, ..rows };
            let done = run(&next, &rows).await.unwrap();
            assert_eq!(done.current == keys.current().fingerprint(), !ended, "{context}: the rotation that began is the one that ends");
            rows.assert_whole(&place.vault().await, COUNT, &context);
            assert_eq!(rows.under(done.current), COUNT, "{context}");
            assert_eq!(place.file().read().await.unwrap().older().len(), 0, "{context}");
        }
        if ended {
            break;
        }
    }
    // Announce, 3 batches and the empty one, 7 rows, the empty scan: each before and after.
    assert_eq!(crashes, 2 * (1 + 4 + COUNT + 1));
}

#[tokio::test]
async fn a_row_that_changes_meanwhile_is_not_overwritten() {
    let place = Place::new();
    let vault = place.vault().await;
    let old = vault.fingerprint();
    let rows = Rows::filled(&vault, 3);
    // Step 2 replaces row 0: just before it somebody restores another text for it; before step 3 row 1 disappears.
    let newer = sealed(&vault, 0);
    *rows.meddling.lock().unwrap() = vec![(2, row("0"), Some(newer)), (3, row("1"), None)];
    let done = run(&vault, &rows).await.unwrap();
    assert_eq!((done.moved, done.unopened), (2, 0));
    assert_eq!((rows.under(done.current), rows.under(old)), (2, 0));
}

#[tokio::test]
async fn a_row_that_no_key_opens_is_named_and_keeps_the_old_key() {
    let place = Place::new();
    let vault = place.vault().await;
    let old = vault.fingerprint();
    let rows = Rows::filled(&vault, 5);
    let lost = super::vault();
    let bad = [
        ("a", sealed(&vault, 1), "made for another row"),
        ("b", "hunter2".to_owned(), "is no sealed secret"),
        ("c", sealed(&lost, 1), "another key sealed it"),
    ];
    for (key, text, _) in &bad {
        rows.put(&row(key), text);
    }
    for moved in [5, 0] {
        let done = run(&vault, &rows).await.unwrap();
        assert_eq!((done.moved, done.unopened, done.dropped.len()), (moved, 3, 0));
        for ((key, _, why), left) in bad.iter().zip(&done.unopened_rows) {
            assert!(left.row == row(key) && left.error.message().contains(why), "{left:?}");
        }
        assert!(!format!("{done:?}").contains("hunter2") && vault.holds(old));
    }
    for (key, text, _) in &bad {
        assert_eq!(&rows.table.lock().unwrap()[&row(key)], text, "it is left as it is");
    }
    // Mended, the next run ends what began.
    for (key, ..) in &bad {
        rows.table.lock().unwrap().remove(&row(key));
    }
    assert_eq!(run(&vault, &rows).await.unwrap().dropped, [old]);
    rows.assert_whole(&place.vault().await, 5, "mended");
}

#[tokio::test]
async fn rows_that_always_come_back_end_it() {
    struct Restless(Rows, String);
    impl SealedRows for Restless {
        async fn announce(&self, check: &Sealed) -> Result<()> {
            self.0.announce(check).await
        }
        async fn next_batch(&self, after: Option<&RowIdentity>, key: Fingerprint, limit: usize) -> Result<Vec<SealedRow>> {
            self.0.put(&row("0"), &self.1);
            self.0.next_batch(after, key, limit).await
        }
        async fn replace(&self, row: &RowIdentity, expected: &str, new: &Sealed) -> Result<bool> {
            self.0.replace(row, expected, new).await
        }
    }
    let place = Place::new();
    let vault = place.vault().await;
    let rows = Restless(Rows::default(), sealed(&vault, 0));
    let error = rotate(&vault, &rows, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(place.file().read().await.unwrap().older().len(), 1, "the old key is kept");
}

#[tokio::test]
async fn cancelled_it_continues_later() {
    let place = Place::new();
    let vault = place.vault().await;
    let rows = Rows::filled(&vault, 3);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = rotate(&vault, &rows, &cancel).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let begun = place.file().read().await.unwrap();
    assert_eq!(run(&vault, &rows).await.unwrap().current, begun.current().fingerprint());
}

#[tokio::test]
async fn two_at_once_agree() {
    let place = Place::new();
    let (one, other) = (place.vault().await, place.vault().await);
    let rows = Rows::filled(&one, 20);
    let (a, b) = tokio::join!(run(&one, &rows), run(&other, &rows));
    // The second may find the first one's work done, and then begins a rotation of its own; either way all is readable.
    assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
    let next = place.vault().await;
    rows.assert_whole(&next, 20, "two at once");
    assert_eq!(next.keys().older().len(), 0);
}

#[tokio::test]
async fn a_key_of_the_environment_is_rotated_by_putting_the_new_one_before_it() {
    let (old, new) = (Key::generate().unwrap(), Key::generate().unwrap());
    let at_first = Vault::new(Keys::new(old.clone()));
    let rows = Rows::filled(&at_first, 4);
    let text = |keys: &[&Key]| keys.iter().map(|key| key.to_text().expose().clone()).collect::<Vec<_>>().join(",");
    let load = async |text: String| Vault::load(KeyPlace::Environment(text.into()), WhenMissing::Refuse).await.unwrap();
    let error = run(&load(text(&[&old])).await, &rows).await.unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidInput && error.message().contains("NEW,OLD"), "{error}");
    let done = run(&load(text(&[&new, &old])).await, &rows).await.unwrap();
    assert_eq!((done.moved, done.dropped), (4, vec![old.fingerprint()]));
    rows.assert_whole(&load(text(&[&new])).await, 4, "without the old one");
}
