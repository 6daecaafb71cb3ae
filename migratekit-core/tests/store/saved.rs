//! What is saved to reach a platform: credentials, clouds, sites; and the walk of a key's rotation through the secrets in them.

use migratekit_core::id::{CloudConfigId, CredentialId, SiteId};
use migratekit_core::model::{CloudConfig, LocalSite, SealedText, VmwareCredential};
use migratekit_core::store::{NewCloudConfig, NewVmwareCredential, SealedColumn, Ways};
use migratekit_core::testing::catalog::change;
use migratekit_core::{ErrorKind, Store, on_both_catalogs};

use crate::rows::{add_vm, call, vm};

on_both_catalogs! {
    a_credential_is_saved_changed_and_used,
    one_cloud_is_in_use,
    a_site_is_saved_and_changed,
    every_sealed_column_is_walked_through,
    a_secret_that_changed_meanwhile_is_not_replaced,
}

fn sealed(text: &str) -> SealedText {
    SealedText::new(text.to_owned())
}

async fn credential(store: &Store, name: &str) -> CredentialId {
    let new = &NewVmwareCredential { name, vcenter_host: "vc", username: "ann", datacenter: Some("dc"), created_by: None };
    call!(store, |tx| tx.credentials().insert(new)).unwrap()
}

async fn a_credential_is_saved_changed_and_used(store: Store) {
    let (b, a) = (credential(&store, "b").await, credential(&store, "a").await);
    let twin = &NewVmwareCredential { name: "a", vcenter_host: "x", username: "x", datacenter: None, created_by: None };
    let taken = call!(store, |tx| tx.credentials().insert(twin)).unwrap_err();
    assert_eq!((taken.kind(), taken.context_value("unique")), (ErrorKind::AlreadyExists, Some("credential_name")));
    let password = &sealed("mk1.a");
    call!(store, |tx| tx.credentials().set_password(a, password)).unwrap();
    let row = call!(store, |tx| tx.credentials().get(a)).unwrap().unwrap();
    assert_eq!((row.name.as_str(), row.username.as_str(), &row.password, row.is_active), ("a", "ann", password, true));
    assert_eq!((row.is_default, row.usage_count, row.last_used), (false, 0, None));

    call!(store, |tx| tx.credentials().set_default(a)).unwrap();
    call!(store, |tx| tx.credentials().set_default(b)).unwrap();
    let all = call!(store, |tx| tx.credentials().all()).unwrap();
    assert_eq!(all.iter().map(|c| (c.name.as_str(), c.is_default)).collect::<Vec<_>>(), [("a", false), ("b", true)], "one default");
    call!(store, |tx| tx.credentials().used(b)).unwrap();
    call!(store, |tx| tx.credentials().used(b)).unwrap();
    let used = &call!(store, |tx| tx.credentials().by_name("b")).unwrap().unwrap();
    assert!(used.usage_count == 2 && used.last_used.is_some());

    let changed = &VmwareCredential {
        name: "c".into(),
        vcenter_host: "vc2".into(),
        username: "bob".into(),
        password: sealed("mk1.c"),
        datacenter: None,
        is_active: false,
        ..row.clone()
    };
    call!(store, |tx| tx.credentials().update(changed)).unwrap();
    let now = call!(store, |tx| tx.credentials().get(a)).unwrap().unwrap();
    assert!(now.updated_at >= changed.updated_at);
    assert_eq!(VmwareCredential { updated_at: changed.updated_at, ..now }, *changed);
    assert_eq!(call!(store, |tx| tx.credentials().by_name("a")).unwrap(), None);

    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let ways = Ways { credential: Some(b), enrollment: None, cloud_config: None };
    call!(store, |tx| tx.contexts().set_ways(&vm.id, ways)).unwrap();
    assert_eq!((call!(store, |tx| tx.credentials().uses(a)).unwrap(), call!(store, |tx| tx.credentials().uses(b)).unwrap()), (0, 1));
    call!(store, |tx| tx.credentials().remove(b)).unwrap();
    assert_eq!(call!(store, |tx| tx.contexts().get(&vm.id)).unwrap().credential, None, "its VMs stay, without it");
    let missing = [
        call!(store, |tx| tx.credentials().remove(b)),
        call!(store, |tx| tx.credentials().used(b)),
        call!(store, |tx| tx.credentials().set_password(b, password)),
        call!(store, |tx| tx.credentials().set_default(b)),
        call!(store, |tx| tx.credentials().update(used)),
    ];
    assert!(missing.iter().all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::NotFound), "{missing:?}");
}

async fn cloud(store: &Store, name: &str) -> CloudConfigId {
    let new = &NewCloudConfig { name, api_url: "https://cloud/client/api", domain: None, zone: Some("z") };
    call!(store, |tx| tx.cloud_configs().insert(new)).unwrap()
}

async fn one_cloud_is_in_use(store: Store) {
    let (b, a) = (cloud(&store, "b").await, cloud(&store, "a").await);
    let twin = &NewCloudConfig { name: "a", api_url: "u", domain: None, zone: None };
    assert_eq!(call!(store, |tx| tx.cloud_configs().insert(twin)).unwrap_err().kind(), ErrorKind::AlreadyExists);
    for id in [a, b] {
        call!(store, |tx| tx.cloud_configs().set_active(id)).unwrap();
    }
    let all = call!(store, |tx| tx.cloud_configs().all()).unwrap();
    assert_eq!(all.iter().map(|c| (c.name.as_str(), c.is_active)).collect::<Vec<_>>(), [("a", false), ("b", true)]);
    let keys = &(sealed("mk1.k"), sealed("mk1.s"));
    call!(store, |tx| tx.cloud_configs().set_keys(a, &keys.0, &keys.1)).unwrap();
    let row = call!(store, |tx| tx.cloud_configs().by_name("a")).unwrap().unwrap();
    assert_eq!((&row.api_key, &row.secret_key), (&keys.0, &keys.1));
    let changed = &CloudConfig {
        name: "c".into(),
        api_url: "https://other".into(),
        domain: Some("d".into()),
        zone: None,
        template_id: Some("t".into()),
        network_id: Some("n".into()),
        service_offering_id: Some("s".into()),
        disk_offering_id: Some("o".into()),
        oma_vm_id: Some("i-2-3-VM".into()),
        ..row.clone()
    };
    call!(store, |tx| tx.cloud_configs().update(changed)).unwrap();
    let now = call!(store, |tx| tx.cloud_configs().by_name("c")).unwrap().unwrap();
    assert_eq!(CloudConfig { updated_at: changed.updated_at, ..now }, *changed);

    let vm = &vm("web", "vm-1");
    add_vm(&store, vm).await.unwrap();
    let ways = Ways { credential: None, enrollment: None, cloud_config: Some(a) };
    call!(store, |tx| tx.contexts().set_ways(&vm.id, ways)).unwrap();
    assert_eq!(call!(store, |tx| tx.cloud_configs().uses(a)).unwrap(), 1);
    assert_eq!(call!(store, |tx| tx.cloud_configs().remove(a)).unwrap_err().kind(), ErrorKind::Busy, "a replica is there");
    call!(store, |tx| tx.cloud_configs().remove(b)).unwrap();
    let missing = [
        call!(store, |tx| tx.cloud_configs().remove(b)),
        call!(store, |tx| tx.cloud_configs().set_active(b)),
        call!(store, |tx| tx.cloud_configs().set_keys(b, &keys.0, &keys.1)),
    ];
    assert!(missing.iter().all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::NotFound), "{missing:?}");
    let all = call!(store, |tx| tx.cloud_configs().all()).unwrap();
    assert!(!all[0].is_active, "one that is not there took nothing from the others, and gave nothing: {all:?}");
}

async fn a_site_is_saved_and_changed(store: Store) {
    let b: SiteId = call!(store, |tx| tx.sites().insert("b", "/m", "/v")).unwrap();
    let a: SiteId = call!(store, |tx| tx.sites().insert("a", "/m ß", "/v")).unwrap();
    assert_eq!(call!(store, |tx| tx.sites().insert("a", "", "")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let row = call!(store, |tx| tx.sites().get(a)).unwrap().unwrap();
    assert_eq!((row.machines.as_str(), row.volumes.as_str()), ("/m ß", "/v"));
    assert_eq!(call!(store, |tx| tx.sites().all()).unwrap().iter().map(|s| s.id).collect::<Vec<_>>(), [a, b]);
    let changed = &LocalSite { name: "c".into(), machines: "/n".into(), volumes: "/w".into(), ..row.clone() };
    call!(store, |tx| tx.sites().update(changed)).unwrap();
    let now = call!(store, |tx| tx.sites().by_name("c")).unwrap().unwrap();
    assert_eq!(LocalSite { updated_at: row.updated_at, ..now }, *changed);
    let mut vm = vm("web", "vm-1");
    vm.site = Some(a);
    add_vm(&store, &vm).await.unwrap();
    assert_eq!((call!(store, |tx| tx.sites().uses(a)).unwrap(), call!(store, |tx| tx.sites().uses(b)).unwrap()), (1, 0));
    assert_eq!(call!(store, |tx| tx.sites().remove(a)).unwrap_err().kind(), ErrorKind::Busy, "a VM lives there");
    call!(store, |tx| tx.sites().remove(b)).unwrap();
    assert_eq!(call!(store, |tx| tx.sites().get(b)).unwrap(), None);
    assert_eq!(call!(store, |tx| tx.sites().remove(b)).unwrap_err().kind(), ErrorKind::NotFound);
    let gone = &LocalSite { id: b, ..changed.clone() };
    assert_eq!(call!(store, |tx| tx.sites().update(gone)).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Two rows in each column that holds secrets, all with the old key but one; some are empty.
async fn secrets(store: &Store) {
    for n in 0..2 {
        let id = credential(store, &format!("c{n}")).await;
        let text = &sealed(if n == 0 { "new.a" } else { "old.password" });
        call!(store, |tx| tx.credentials().set_password(id, text)).unwrap();
        let id = cloud(store, &format!("o{n}")).await;
        let keys = &(sealed(&format!("old.key{n}")), sealed(&format!("old.secret{n}")));
        call!(store, |tx| tx.cloud_configs().set_keys(id, &keys.0, &keys.1)).unwrap();
        change(store, &format!("INSERT INTO linstor_configs (name, api_url, api_key_encrypted, api_secret_encrypted, created_at, updated_at) VALUES ('l{n}', 'u', 'old.l{n}', {}, 1, 1)", if n == 0 { "NULL" } else { "''" })).await.unwrap();
    }
}

async fn every_sealed_column_is_walked_through(store: Store) {
    secrets(&store).await;
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let place = &after;
        let batch = call!(store, |tx| tx.sealed().next_batch(place.as_ref(), "new.", 2)).unwrap();
        assert!(batch.len() <= 2);
        let Some(last) = batch.last() else { break };
        after = Some(last.row.clone());
        seen.extend(batch.into_iter().map(|row| row.sealed));
    }
    assert_eq!(seen, ["old.password", "old.key0", "old.key1", "old.secret0", "old.secret1", "old.l0", "old.l1"]);
    assert_eq!(SealedColumn::ALL.len(), 5, "each has a row above, or is empty there");
}

async fn a_secret_that_changed_meanwhile_is_not_replaced(store: Store) {
    secrets(&store).await;
    let batch = call!(store, |tx| tx.sealed().next_batch(None, "new.", 100)).unwrap();
    for row in &batch {
        let new = &row.sealed.replace("old.", "new.");
        assert!(call!(store, |tx| tx.sealed().replace(&row.row, &row.sealed, new)).unwrap(), "{}", row.row);
        assert!(!call!(store, |tx| tx.sealed().replace(&row.row, &row.sealed, "late")).unwrap(), "{}", row.row);
    }
    assert!(call!(store, |tx| tx.sealed().next_batch(None, "new.", 100)).unwrap().is_empty());
    let gone = &SealedColumn::VmwarePassword.of_row(99);
    assert!(!call!(store, |tx| tx.sealed().replace(gone, "a", "b")).unwrap(), "a row that is not there");
    let foreign = &migratekit_core::credentials::RowIdentity::new("users", "password_hash", 1);
    assert_eq!(call!(store, |tx| tx.sealed().replace(foreign, "a", "b")).unwrap_err().kind(), ErrorKind::Internal);
}
