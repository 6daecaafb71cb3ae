//! The key file: made once, refused when others may touch it, whole at every moment.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::credentials::{Key, KeyFile, KeyPlace, MAX_KEY_FILE, Vault, WhenMissing};
use crate::error::{Error, ErrorKind};
use crate::task::Scope;

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data").join("migratekit").join("key");
        Place { _dir: dir, path }
    }

    fn file(&self) -> KeyFile {
        KeyFile::at(&self.path)
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap()
    }

    fn names(&self) -> Vec<String> {
        fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    async fn load(&self, when_missing: WhenMissing) -> Result<Vault, Error> {
        Vault::load(KeyPlace::File(self.file()), when_missing).await
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn the_first_use_makes_it_for_its_owner_alone() {
    let place = Place::new();
    let vault = place.load(WhenMissing::Make).await.unwrap();
    assert_eq!((mode(&place.path), mode(place.folder()), mode(place.folder().parent().unwrap())), (0o600, 0o700, 0o700));
    assert_eq!(place.names(), ["key"]);
    assert_eq!(place.load(WhenMissing::Make).await.unwrap().fingerprint(), vault.fingerprint());
    assert_eq!(place.load(WhenMissing::Refuse).await.unwrap().fingerprint(), vault.fingerprint());
    let error = place.file().make().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!((place.file().read().await.unwrap().current().fingerprint(), place.names()), (vault.fingerprint(), vec!["key".to_owned()]));
}

#[tokio::test]
async fn a_lost_key_is_refused_with_the_way_out_and_nothing_is_made() {
    let place = Place::new();
    fs::create_dir_all(place.folder()).unwrap();
    let error = place.load(WhenMissing::Refuse).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("restore it from a backup") && error.message().contains("enter every secret again"), "{error}");
    assert!(place.names().is_empty());
}

#[tokio::test]
async fn what_others_may_touch_is_refused_with_the_command_that_mends_it() {
    let place = Place::new();
    let file = place.file();
    file.make().await.unwrap();
    for bad in [0o640, 0o604, 0o660, 0o601, 0o620] {
        fs::set_permissions(&place.path, fs::Permissions::from_mode(bad)).unwrap();
        let error = file.read().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.message().contains(&format!("`chmod 600 {}`", place.path.display())), "{error}");
        assert_eq!(file.read_or_make().await.unwrap_err().kind(), ErrorKind::Denied);
    }
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o400)).unwrap();
    file.read().await.unwrap();
    for (bad, good) in [(0o770, false), (0o702, false), (0o755, true), (0o1777, true)] {
        fs::set_permissions(place.folder(), fs::Permissions::from_mode(bad)).unwrap();
        let found = file.read().await;
        assert_eq!(found.is_ok(), good, "{bad:o}");
        assert!(found.err().is_none_or(|e| e.message().contains("`chmod go-w ")));
    }
}

#[tokio::test]
async fn links_foreign_files_and_what_is_no_file_are_refused() {
    let place = Place::new();
    let file = place.file();
    file.make().await.unwrap();
    let link = KeyFile::at(place.folder().join("link"));
    symlink(&place.path, link.path()).unwrap();
    for error in [link.read().await.unwrap_err(), link.read_or_make().await.unwrap_err()] {
        assert!(error.kind() == ErrorKind::Denied && error.message().contains("symbolic link"), "{error}");
    }
    // A link into the void is not followed either, to make a file where it points.
    symlink(place.folder().join("void"), place.folder().join("dangling")).unwrap();
    assert!(KeyFile::at(place.folder().join("dangling")).read_or_make().await.is_err());
    assert_eq!(KeyFile::at(place.folder().join("dangling")).make().await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(!place.folder().join("void").exists());
    assert!(KeyFile::at(place.folder()).read().await.unwrap_err().message().contains("not a regular file"));
    // Only root can give a file away, and see how that is refused.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&place.path, Some(12345), None).unwrap();
        let error = file.read().await.unwrap_err();
        assert!(error.kind() == ErrorKind::Denied && error.message().contains("`chown 0 "), "{error}");
        std::os::unix::fs::chown(&place.path, Some(0), None).unwrap();
        std::os::unix::fs::chown(place.folder(), Some(12345), None).unwrap();
        assert!(file.read().await.unwrap_err().message().contains("folder belongs to another user"));
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused_for_its_own_reason_and_kept() {
    let place = Place::new();
    let file = place.file();
    file.make().await.unwrap();
    let good = fs::read(&place.path).unwrap();
    let cases: [(&[u8], &str); 5] = [
        (b"", "it is empty"),
        (&good[..20], "it is damaged or cut off"),
        (b"# nothing\n", "it is damaged or cut off"),
        (b"\xff\xfe", "it is not text"),
        (&[b'#'; MAX_KEY_FILE as usize + 1], "it is too long"),
    ];
    for (bytes, why) in cases {
        fs::write(&place.path, bytes).unwrap();
        for error in [file.read().await.unwrap_err(), file.read_or_make().await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.message().contains(why) && error.message().contains("restore it from a backup"), "{error}");
        }
        assert_eq!(fs::read(&place.path).unwrap(), bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_make_it_at_once_all_have_the_same_key() {
    for _ in 0..20 {
        let place = Place::new();
        let found = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut scope = Scope::new();
        for _ in 0..8 {
            let (file, found) = (place.file(), found.clone());
            scope.spawn(async move {
                let keys = file.read_or_make().await.unwrap();
                found.lock().unwrap().push(keys);
            });
        }
        scope.join().await.unwrap();
        let found = found.lock().unwrap();
        assert!(found.len() == 8 && found.iter().all(|keys| *keys == found[0]));
        assert_eq!(place.names(), ["key"]);
    }
}

#[tokio::test]
async fn what_a_crash_left_is_taken_over() {
    let place = Place::new();
    fs::create_dir_all(place.folder()).unwrap();
    let left = place.folder().join("key.new");
    fs::write(&left, "half a k").unwrap();
    fs::set_permissions(&left, fs::Permissions::from_mode(0o666)).unwrap();
    place.file().make().await.unwrap();
    assert_eq!((mode(&place.path), place.names()), (0o600, vec!["key".to_owned()]));
    // Something planted there is not written through.
    let (victim, planted) = (place.folder().join("victim"), place.folder().join("other.new"));
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, planted).unwrap();
    assert!(KeyFile::at(place.folder().join("other")).make().await.is_err());
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}

#[tokio::test]
async fn a_rotation_begins_once_and_ends_once() {
    let place = Place::new();
    let file = place.file();
    let old = file.make().await.unwrap();
    let both = file.begin_rotation().await.unwrap();
    assert_eq!(both.older(), [old.current().clone()]);
    assert_eq!(file.begin_rotation().await.unwrap(), both, "begun already");
    assert_eq!(file.read().await.unwrap(), both);
    let error = file.end_rotation(Key::generate().unwrap().fingerprint()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed);
    let current = both.current().fingerprint();
    for _ in 0..2 {
        let keys = file.end_rotation(current).await.unwrap();
        assert_eq!((keys.current().fingerprint(), keys.older().len()), (current, 0));
    }
    assert_eq!((mode(&place.path), place.names()), (0o600, vec!["key".to_owned()]));
}

#[tokio::test]
async fn another_process_sees_a_rotation_when_it_looks_again() {
    let place = Place::new();
    let (vault, file) = (place.load(WhenMissing::Make).await.unwrap(), place.file());
    assert!(!vault.refresh().await.unwrap());
    let (old, both) = (vault.fingerprint(), file.begin_rotation().await.unwrap());
    assert!(vault.refresh().await.unwrap());
    assert!(vault.fingerprint() == both.current().fingerprint() && vault.holds(old));
    fs::remove_file(&place.path).unwrap();
    assert!(vault.refresh().await.is_err() && vault.holds(old), "what it has, it keeps");
}
