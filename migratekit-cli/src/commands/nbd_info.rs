//! `migratekit nbd info`: what a server offers, and our own bounds.

use migratekit_core::Result;
use migratekit_core::block::BlockInfo;
use migratekit_core::nbd::client::{ListedExport, Negotiated, Timeouts, list};
use migratekit_core::nbd::{Client, ConnectOptions, Uri, limits};
use migratekit_core::units::ByteSize;
use serde::Serialize;

use crate::args::{Global, InfoArgs};
use crate::output;

/// An export, as it is printed.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    disk: BlockInfo,
    flags: Vec<&'static str>,
    server: Negotiated,
}

pub(crate) async fn run(global: &Global, args: InfoArgs) -> Result<()> {
    let Some(uri) = &args.uri else { return output::result(global, &limits::ALL, |all| limits_table(all)) };
    let uri: Uri = uri.parse()?;
    if uri.export.is_empty()
        && let Ok(exports) = list(&uri, Timeouts::default()).await
        && !exports.iter().any(|e| e.name.is_empty())
    {
        return output::result(global, &exports, |all| list_table(&uri, all));
    }
    let client = Client::connect(ConnectOptions { want_ledger: true, list_contexts: true, ..ConnectOptions::glance(uri) }).await?;
    // The glance itself refuses to write; what is shown is what the server allows.
    let report = Report { disk: client.offer(), flags: client.facts().flag_names(), server: client.facts().clone() };
    client.close().await?;
    output::result(global, &report, table)
}

fn table(report: &Report) -> String {
    let (disk, server) = (&report.disk, &report.server);
    let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
    let mut rows = vec![
        ("export", disk.name.clone()),
        ("size", format!("{} ({} bytes)", ByteSize(disk.size), disk.size)),
        ("read-only", yes(disk.read_only)),
        (
            "blocks",
            format!(
                "smallest {}, preferred {}, largest request {}",
                disk.min_block,
                disk.preferred_block,
                ByteSize(disk.max_request.into())
            ),
        ),
        ("encrypted", yes(server.tls)),
        ("replies", if server.structured { "structured" } else { "simple" }.to_owned()),
        ("flags", report.flags.join(" ")),
    ];
    let contexts: Vec<&str> = if server.offered_contexts.is_empty() {
        server.contexts.iter().map(|c| c.name.as_str()).collect()
    } else {
        server.offered_contexts.iter().map(String::as_str).collect()
    };
    if !contexts.is_empty() {
        rows.push(("contexts", contexts.join(" ")));
    }
    if let Some(text) = server.description.as_ref().filter(|t| !t.is_empty()) {
        rows.push(("description", text.clone()));
    }
    rows.iter().map(|(name, value)| format!("{name:<12}{value}")).collect::<Vec<_>>().join("\n")
}

fn list_table(uri: &Uri, exports: &[ListedExport]) -> String {
    if exports.is_empty() {
        return format!("{uri} has no exports");
    }
    exports.iter().map(|e| format!("{:<32}{}", e.name, e.description).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn limits_table(all: &[limits::Limit]) -> String {
    all.iter().map(|l| format!("{:<24}{:>14} {:<18} beyond: {}", l.name, l.value, l.unit, l.beyond)).collect::<Vec<_>>().join("\n")
}
