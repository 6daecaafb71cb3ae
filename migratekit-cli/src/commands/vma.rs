//! `migratekit vma`: the administrator's side of the trust in VMAs. The VMA's side is in `vma_enroll` and `vma_rotate`.

use migratekit_core::clock::Timestamp;
use migratekit_core::model::{AuditEntry, ConnectionAudit, Enrollment};
use migratekit_core::task::CancellationToken;
use migratekit_core::tunnels::Fingerprint;
use migratekit_core::vmas::{Cut, TrustedVma, limits};
use migratekit_core::{Engine, Result};
use serde::Serialize;

use crate::args::{Global, VmaArgs, VmaCommand};
use crate::commands::{vma_enroll, vma_rotate};
use crate::table::{Table, dash, facts, plain, when, when_or_dash};
use crate::{output, place};

/// Who did it, for the audit: whoever may write the catalog from this host.
const BY: &str = "cli";

pub(crate) async fn run(global: &Global, args: VmaArgs, cancel: &CancellationToken) -> Result<()> {
    match args.command {
        VmaCommand::Limits => output::result(global, &all_limits(), |all| limit_table(all)),
        VmaCommand::Enroll(args) => vma_enroll::run(global, args, cancel).await,
        VmaCommand::RotateKey { key } => vma_rotate::run(global, &key, cancel).await,
        command => {
            let engine = place::open(global, &args.place, cancel).await?;
            administer(global, &engine, command).await
        }
    }
}

async fn administer(global: &Global, engine: &Engine, command: VmaCommand) -> Result<()> {
    let vmas = engine.vmas();
    match command {
        VmaCommand::PairingCode => {
            let new = vmas.pairing_code(BY).await?;
            let shown = ShownCode { pairing_code: new.code.shown().expose().clone(), expires_at: new.expires_at };
            output::result(global, &shown, |shown| {
                format!("{}\nholds until {} (UTC), for one use", shown.pairing_code, when(shown.expires_at))
            })
        }
        VmaCommand::Pending => output::result(global, &vmas.pending().await?, |all| pending(all)),
        VmaCommand::Approve { vma, fingerprint } => {
            let compared: Fingerprint = fingerprint.parse()?;
            let found = vmas.find(&vma).await?;
            output::result(global, &vmas.approve(&found.id, &compared, BY).await?, |vma| described("trusted", vma))
        }
        VmaCommand::Reject { vma } => {
            let found = vmas.find(&vma).await?;
            output::result(global, &vmas.reject(&found.id, BY).await?, |vma| described("refused", vma))
        }
        VmaCommand::Revoke { vma } => {
            let found = vmas.find(&vma).await?;
            let cut = vmas.revoke(&found.id, BY, None).await?;
            output::result(global, &Revoked { enrollment: found.id.to_string(), name: found.name, cut }, revoked)
        }
        VmaCommand::Active => output::result(global, &vmas.active().await?, |all| active(all)),
        VmaCommand::Audit { refused: true, .. } => output::result(global, &vmas.refused().await?, |all| refused(all)),
        VmaCommand::Audit { fingerprint, refused: false } => {
            let fingerprint: Option<Fingerprint> = fingerprint.map(|text| text.parse()).transpose()?;
            output::result(global, &vmas.history(fingerprint.as_ref()).await?, |all| history(all))
        }
        VmaCommand::Limits | VmaCommand::Enroll(_) | VmaCommand::RotateKey { .. } => Ok(()),
    }
}

/// A pairing code, as it is printed: here and nowhere else.
#[derive(Serialize)]
struct ShownCode {
    pairing_code: String,
    expires_at: Timestamp,
}

/// A revocation, as it is printed.
#[derive(Serialize)]
struct Revoked {
    enrollment: String,
    name: String,
    cut: Cut,
}

/// A bound, as it is printed.
#[derive(Serialize)]
struct Limit {
    name: &'static str,
    value: u64,
    unit: &'static str,
}

fn all_limits() -> Vec<Limit> {
    limits::all().into_iter().map(|(name, value, unit)| Limit { name, value, unit }).collect()
}

fn limit_table(all: &[Limit]) -> String {
    let mut table = Table::new(["LIMIT", "VALUE", "UNIT"]);
    for limit in all {
        table.row([limit.name.to_owned(), limit.value.to_string(), limit.unit.to_owned()]);
    }
    table.text("there are none")
}

fn pending(all: &[Enrollment]) -> String {
    let mut table = Table::new(["NAME", "STATUS", "FINGERPRINT", "FROM", "UNTIL (UTC)", "ID"]);
    for vma in all {
        table.row([
            vma.name.clone(),
            vma.status.to_string(),
            vma.fingerprint.clone(),
            vma.ip_address.clone().unwrap_or_else(dash),
            when(vma.expires_at),
            vma.id.to_string(),
        ]);
    }
    table.text("no VMA waits: `migratekit vma pairing-code` makes a code for one")
}

fn described(what: &'static str, vma: &Enrollment) -> String {
    facts([
        (what, Some(vma.name.clone())),
        ("id", Some(vma.id.to_string())),
        ("fingerprint", Some(vma.fingerprint.clone())),
        ("reverse port", vma.reverse_port.map(|port| port.to_string())),
    ])
}

fn revoked(done: &Revoked) -> String {
    let how = match done.cut {
        Cut::ByServer => "what was connected has ended",
        Cut::NothingServed => "no process serves the tunnel",
    };
    format!("revoked  {} ({}): {how}", plain(&done.name), done.enrollment)
}

fn active(all: &[TrustedVma]) -> String {
    let mut table = Table::new(["NAME", "CONNECTION", "LAST SEEN (UTC)", "PORT", "FINGERPRINT", "ID"]);
    for TrustedVma { enrollment, connection } in all {
        table.row([
            enrollment.name.clone(),
            connection.as_ref().map_or_else(dash, |c| c.status.to_string()),
            when_or_dash(connection.as_ref().and_then(|c| c.last_seen_at)),
            enrollment.reverse_port.map_or_else(dash, |port| port.to_string()),
            enrollment.fingerprint.clone(),
            enrollment.id.to_string(),
        ]);
    }
    table.text("no VMA is trusted")
}

fn history(all: &[ConnectionAudit]) -> String {
    let mut table = Table::new(["WHEN (UTC)", "EVENT", "FINGERPRINT", "FROM", "BY", "MORE"]);
    for line in all {
        table.row([
            when(line.created_at),
            line.event.to_string(),
            line.fingerprint.clone().unwrap_or_else(dash),
            line.source_ip.clone().unwrap_or_else(dash),
            line.approved_by.clone().unwrap_or_else(dash),
            line.details.as_ref().map_or_else(dash, ToString::to_string),
        ]);
    }
    table.text("nothing happened yet")
}

fn refused(all: &[AuditEntry]) -> String {
    let mut table = Table::new(["WHEN (UTC)", "REQUEST", "FROM", "MORE"]);
    for line in all {
        table.row([
            when(line.created_at),
            line.action.clone(),
            line.source_ip.clone().unwrap_or_else(dash),
            line.details.as_ref().map_or_else(dash, ToString::to_string),
        ]);
    }
    table.text("nothing was refused")
}
