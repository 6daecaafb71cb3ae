//! The crash harness over the marker saga.

use migratekit_core::Store;
use migratekit_core::testing::catalog::{on_mariadb, on_sqlite};
use migratekit_core::testing::jobs::{CrashHarness, MarkerInput, MarkerTrial, MarkerWorld, Report, context};

/// Every place (or every `stride`-th), forward and back, once or twice in a row.
async fn everywhere(store: Store, stride: usize) -> (Report, Report, Report) {
    let folder = tempfile::tempdir().unwrap();
    let world = MarkerWorld::in_folder(folder.path());
    let harness = CrashHarness::new(store.clone(), world.sagas());
    let fresh = |fail: Option<&'static str>| {
        let (store, world) = (store.clone(), world.clone());
        async move || {
            let input = MarkerInput { fail: fail.map(str::to_owned), fails: 9, ..MarkerInput::default() };
            MarkerTrial { world: world.clone(), context: context(&store).await, input }
        }
    };
    let forward = harness.crash_at_each_place(fresh(None), stride, 2).await.unwrap();
    let back = harness.crash_at_each_place(fresh(Some("fill")), stride, 1).await.unwrap();
    let failing = if stride == 1 { harness.fail_at_each_place(fresh(None)).await.unwrap() } else { Report::default() };
    (forward, back, failing)
}

#[test]
fn on_sqlite_every_place_once_and_twice() {
    on_sqlite(|store| async {
        let (forward, back, failing) = everywhere(store, 1).await;
        println!("{forward:?}\n{back:?}\n{failing:?}");
        assert_eq!((forward.complaints, back.complaints, failing.complaints), (vec![], vec![], vec![]));
        assert!(
            forward.places > 40 && forward.crashes > forward.places && forward.completed == forward.places,
            "the harness saw too little"
        );
        assert!(back.places > 30 && back.crashes == back.places && back.undone == back.places, "the harness saw too little");
        assert!(failing.places > 20 && failing.crashes == failing.places && failing.undone > 5 && failing.completed > 5);
    });
}

#[test]
fn on_mariadb_some_places() {
    on_mariadb(|store| async {
        let (forward, back, _) = everywhere(store, 7).await;
        println!("{forward:?}\n{back:?}");
        assert_eq!((forward.complaints, back.complaints), (vec![], vec![]));
        assert!(forward.places > 5 && forward.completed == forward.places && back.undone == back.places, "the harness saw too little");
    });
}
