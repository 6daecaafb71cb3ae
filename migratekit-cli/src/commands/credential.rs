//! `migratekit credential`: what is needed to reach a platform. No secret is ever printed.

use migratekit_core::engine::{Credential, CredentialChange, NewCredential, Tested};
use migratekit_core::task::CancellationToken;
use migratekit_core::{Error, Result};
use serde::Serialize;

use crate::args::{CredentialAdd, CredentialArgs, CredentialCommand, CredentialUpdate, Global};
use crate::table::{Table, facts, plain, when, when_or_dash};
use crate::{output, place, secret_input};

pub(crate) async fn run(global: &Global, args: CredentialArgs, cancel: &CancellationToken) -> Result<()> {
    let credentials = async || Ok::<_, Error>(place::open(global, &args.place, cancel).await?.credentials());
    // Secrets are read before the catalog is opened: nothing waits for a person with a lock in hand.
    match args.command {
        CredentialCommand::Add(add) => {
            let new = new_credential(add)?;
            output::result(global, &credentials().await?.add(new).await?, shown)
        }
        CredentialCommand::Update(update) => {
            let (name, change) = change(update)?;
            output::result(global, &credentials().await?.update(&name, change).await?, shown)
        }
        CredentialCommand::List => output::result(global, &credentials().await?.list().await?, |all| listed(all)),
        CredentialCommand::Show { name } => output::result(global, &credentials().await?.get(&name).await?, shown),
        CredentialCommand::Remove { name } => {
            let removed = Removed { removed: credentials().await?.remove(&name).await? };
            output::result(global, &removed, |r| format!("removed {} {}", r.removed.kind(), r.removed.name()))
        }
        CredentialCommand::SetDefault { name } => output::result(global, &credentials().await?.set_default(&name).await?, shown),
        CredentialCommand::Test { name } => output::result(global, &credentials().await?.test(&name).await?, tested),
    }
}

#[derive(Serialize)]
struct Removed {
    removed: Credential,
}

fn new_credential(add: CredentialAdd) -> Result<NewCredential> {
    Ok(match add {
        CredentialAdd::Vmware { name, host, username, password_file, datacenter } => {
            let [password] = secret_input::read(password_file.as_deref(), ["password"])?;
            NewCredential::Vmware { name, host, username, password, datacenter }
        }
        CredentialAdd::Cloudstack { name, url, keys_file, domain, zone } => {
            let [api_key, secret_key] = secret_input::read(keys_file.as_deref(), ["API key", "secret key"])?;
            NewCredential::Cloudstack { name, url, api_key, secret_key, domain, zone }
        }
        CredentialAdd::Local { name, path, volumes } => NewCredential::Local { name, path, volumes },
    })
}

fn change(update: CredentialUpdate) -> Result<(String, CredentialChange)> {
    let password = match &update.password_file {
        Some(file) => {
            let [password] = secret_input::read(Some(file), ["password"])?;
            Some(password)
        }
        None => None,
    };
    let keys = match &update.keys_file {
        Some(file) => {
            let [api_key, secret_key] = secret_input::read(Some(file), ["API key", "secret key"])?;
            Some((api_key, secret_key))
        }
        None => None,
    };
    let change = CredentialChange {
        name: update.rename,
        host: update.host,
        username: update.username,
        password,
        datacenter: update.datacenter,
        url: update.url,
        keys,
        domain: update.domain,
        zone: update.zone,
        path: update.path,
        volumes: update.volumes,
    };
    Ok((update.name, change))
}

fn listed(all: &[Credential]) -> String {
    let mut table = Table::new(["NAME", "KIND", "PLACE", "DEFAULT", "CHANGED (UTC)"]);
    for one in all {
        let default = if one.is_default() { "yes" } else { "" };
        table.row([one.name(), one.kind(), &one.place(), default, &when(one.updated_at())]);
    }
    table.text("no credentials yet: `migratekit credential add --help` shows how to save one")
}

fn shown(one: &Credential) -> String {
    let mut lines = vec![("name", Some(one.name().to_owned())), ("kind", Some(one.kind().to_owned()))];
    match one {
        Credential::Vmware { host, username, datacenter, is_default, last_used, .. } => lines.extend([
            ("host", Some(host.clone())),
            ("username", Some(username.clone())),
            ("password", Some("sealed".to_owned())),
            ("datacenter", datacenter.clone()),
            ("default", is_default.then(|| "yes".to_owned())),
            ("last used", Some(when_or_dash(*last_used))),
        ]),
        Credential::Cloudstack { url, domain, zone, is_default, .. } => lines.extend([
            ("url", Some(url.clone())),
            ("keys", Some("sealed".to_owned())),
            ("domain", domain.clone()),
            ("zone", zone.clone()),
            ("default", is_default.then(|| "yes".to_owned())),
        ]),
        Credential::Local { machines, volumes, .. } => {
            lines.extend([("machines", Some(machines.display().to_string())), ("volumes", Some(volumes.display().to_string()))]);
        }
        _ => {}
    }
    lines.push(("changed", Some(when(one.updated_at()))));
    facts(lines)
}

fn tested(report: &Tested) -> String {
    let lines = |head: &'static str, texts: &[String]| texts.iter().map(|text| format!("{head:<9}  {}", plain(text))).collect::<Vec<_>>();
    let mut all = [lines("ok", &report.passed), lines("problem", &report.problems), lines("not tried", &report.not_tried)].concat();
    if !report.reached {
        all.push("whether it works there is not known".to_owned());
    }
    all.join("\n")
}
