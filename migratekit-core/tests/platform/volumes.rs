//! Volumes of a site: what is left of interrupted calls, copies of volumes, files that were tampered with.

use migratekit_core::ErrorKind;
use migratekit_core::id::{ContextId, DiskKey};
use migratekit_core::platform::{Target, Volume, VolumeTag};
use migratekit_core::units::MIB;

use crate::site::Site;

fn tag() -> VolumeTag {
    VolumeTag { context: ContextId::generate(), disk: DiskKey::new(2000) }
}

fn folder(site: &Site, volume: &Volume) -> std::path::PathBuf {
    site.folder.path().join("volumes").join(volume.id.as_str())
}

#[tokio::test]
async fn what_an_interrupted_call_left_is_no_volume_and_is_swept() {
    let site = Site::new().await;
    let half = site.site.create_volume(&tag(), MIB).await.unwrap();
    std::fs::remove_file(folder(&site, &half).join("volume.json")).unwrap();
    std::fs::create_dir(site.folder.path().join("volumes/not-ours")).unwrap();
    assert!(site.site.volumes().await.unwrap().is_empty());
    assert!(site.site.find_volume(&half.tag).await.unwrap().is_none());
    let made = site.site.create_volume(&half.tag, MIB).await.unwrap();
    assert_ne!(made.id, half.id);
    assert!(!folder(&site, &half).exists());
    assert!(site.folder.path().join("volumes/not-ours").exists());
}

#[tokio::test]
async fn a_copied_volume_is_told_and_not_taken_for_the_first() {
    let site = Site::new().await;
    let made = site.site.create_volume(&tag(), MIB).await.unwrap();
    let copy = site.folder.path().join("volumes/vol-copy");
    std::fs::create_dir(&copy).unwrap();
    for file in ["volume.json", "disk.img"] {
        std::fs::copy(folder(&site, &made).join(file), copy.join(file)).unwrap();
    }
    let listed = site.site.volumes().await.unwrap();
    let wrong: Vec<_> = listed.iter().filter_map(|l| l.volume.as_ref().err()).map(ToString::to_string).collect();
    assert!(wrong.len() == 1 && wrong[0].contains("copied or renamed"), "{wrong:?}");
    assert_eq!(site.site.find_volume(&made.tag).await.unwrap(), Some(made.clone()));

    let text = std::fs::read_to_string(copy.join("volume.json")).unwrap().replace(made.id.as_str(), "vol-copy");
    std::fs::write(copy.join("volume.json"), text).unwrap();
    let error = site.site.find_volume(&made.tag).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains("two volumes carry this tag"), "{error}");
}

#[tokio::test]
async fn files_that_are_not_as_recorded_are_refused() {
    let site = Site::new().await;
    let made = site.site.create_volume(&tag(), MIB).await.unwrap();
    let image = folder(&site, &made).join("disk.img");
    std::fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(MIB - 1).unwrap();
    assert!(site.site.open_volume(&made).await.unwrap_err().to_string().contains("shorter"));
    std::fs::remove_file(&image).unwrap();
    assert!(site.site.open_volume(&made).await.unwrap_err().to_string().contains("is gone"));
    std::fs::write(folder(&site, &made).join("volume.json"), "{}").unwrap();
    assert!(site.site.open_volume(&made).await.unwrap_err().to_string().contains("cannot be understood"));
    let wrong = "6f1b9a30-8f0e-4c8e-9a39-4f2f6a1f0001".parse().unwrap();
    assert_eq!(site.site.remove_volume(&wrong).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_resize_that_was_interrupted_is_done_again() {
    let site = Site::new().await;
    let made = site.site.create_volume(&tag(), MIB).await.unwrap();
    let image = folder(&site, &made).join("disk.img");
    // The file grew, and somebody wrote beyond the end; the record did not follow.
    std::fs::write(&image, vec![7; 2 * MIB as usize]).unwrap();
    assert_eq!(site.site.open_volume(&made).await.unwrap().volume.size_bytes, MIB);
    assert_eq!(std::fs::metadata(&image).unwrap().len(), MIB);
    std::fs::write(&image, vec![7; 2 * MIB as usize]).unwrap();
    let larger = site.site.resize_volume(&made.id, 2 * MIB).await.unwrap();
    assert_eq!(larger.size_bytes, 2 * MIB);
    let bytes = std::fs::read(&image).unwrap();
    assert!(bytes[..MIB as usize].iter().all(|b| *b == 7) && bytes[MIB as usize..].iter().all(|b| *b == 0));
}

#[tokio::test]
async fn two_at_once_make_one_volume() {
    let site = Site::new().await;
    let tag = tag();
    let (a, b) = tokio::join!(site.site.create_volume(&tag, MIB), site.site.create_volume(&tag, MIB));
    let kinds: Vec<_> = [a, b].into_iter().filter_map(|r| r.err().map(|e| e.kind())).collect();
    assert_eq!(kinds, [ErrorKind::AlreadyExists]);
    assert_eq!(site.site.volumes().await.unwrap().len(), 1);
}
