//! A volume that grows in a world that dies: the point is there, as large as it was committed, until the growth is recorded.

use std::sync::Arc;

use bytes::Bytes;
use migratekit_core::block::{BlockRead, Persist};
use migratekit_core::copy::{Decision, Point, Replica, ReplicaOptions};
use migratekit_core::testing::Rng;
use migratekit_core::testing::volatile::World;
use migratekit_core::units::ByteRange;
use migratekit_core::{CancellationToken, Result};

use crate::site::WorldSite;

const SMALL: u64 = 100_000;
/// What it shall grow to; when that was interrupted, it has grown again meanwhile.
const LARGE: [u64; 2] = [300_512, 1_400_000];

/// More steps than there are.
const NEVER: u64 = 1 << 40;

fn site(world: &World, size: u64) -> Arc<WorldSite> {
    Arc::new(WorldSite { world: world.clone(), number: 0, sizes: vec![size] })
}

fn options(size: u64, committed: Option<&Point>) -> ReplicaOptions {
    ReplicaOptions { identity: "uuid-0".to_owned(), size, committed: committed.cloned() }
}

/// Brings the small volume to a point; gives it, and what it holds.
async fn pass(world: &World, name: &str, committed: Option<&Point>, image: &mut [u8], rng: &mut Rng) -> Point {
    let replica = Replica::open(site(world, SMALL), options(SMALL, committed)).await.unwrap();
    let point = name.parse().unwrap();
    let pass = replica.begin(&point, SMALL).await.unwrap();
    let view = pass.view(name).await.unwrap();
    let half = image.len() / 2;
    let part = if committed.is_some() { &mut image[half..] } else { image };
    rng.fill(part);
    let at = SMALL - part.len() as u64;
    view.write(at, Bytes::copy_from_slice(part), Persist::Cached).await.unwrap();
    view.flush().await.unwrap();
    let done = pass.complete().await.unwrap();
    replica.settle(&Decision::Committed(point), &CancellationToken::new()).await.unwrap();
    replica.close().await.unwrap();
    done
}

async fn read(reader: &dyn BlockRead) -> Vec<u8> {
    reader.read(ByteRange::whole(reader.info().size).unwrap()).await.unwrap().to_vec()
}

/// One growth that dies at these steps, one after the other; tells how often it died.
async fn dies_at(steps: [u64; 2]) -> usize {
    let (mut world, mut rng) = (World::new(WorldSite::world_size(&LARGE[1..]), 5), Rng::new(steps[0] * 1000 + steps[1]));
    let mut image = vec![0; SMALL as usize];
    let first = pass(&world, "p0", None, &mut image, &mut rng).await;
    // Its spool lies where the volume will grow to: what is new there does not read as zero.
    let point = pass(&world, "p1", Some(&first), &mut image, &mut rng).await;
    let before = options(SMALL, Some(&point));
    let grow = async |world: &World, size: u64| -> Result<Point> { Replica::grow(site(world, size), &before, size).await };
    let mut deaths = 0;
    for (step, size) in steps.into_iter().zip(LARGE) {
        world.set_fuse(step);
        let grown = grow(&world, size).await;
        deaths += usize::from(world.is_dead());
        assert!(grown.is_ok() || world.is_dead(), "{steps:?}: {grown:?}");
        world.kill();
        world = world.reborn(rng.next_u64());
        let replica = Replica::open(site(&world, size), before.clone()).await;
        let replica = replica.unwrap_or_else(|e| panic!("{steps:?}: the point cannot be read: {e}"));
        assert!(read(&replica.reader(&point.name).await.unwrap()).await == image, "{steps:?}: a reader sees something else than the point");
    }
    let size = LARGE[1];
    let grown = grow(&world, size).await.unwrap();
    assert_eq!(grown.name, point.name);
    let replica = Replica::open(site(&world, size), options(size, Some(&grown))).await.unwrap();
    image.resize(size as usize, 0);
    assert!(read(&replica.reader(&grown.name).await.unwrap()).await == image, "{steps:?}: it did not grow by zeros");
    deaths
}

#[tokio::test]
async fn a_growth_that_dies_at_any_step_leaves_the_point_to_be_read() {
    let mut step = 1;
    while dies_at([step, NEVER]).await > 0 {
        // It dies again when it is repeated.
        assert!(dies_at([step, step.div_ceil(2)]).await > 0);
        step += 1;
    }
    assert!(step > 5, "a growth of {step} steps proves too little");
}
