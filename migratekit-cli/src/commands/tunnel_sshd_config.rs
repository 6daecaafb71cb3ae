//! `migratekit tunnel sshd-config`: what an OpenSSH server must be told to stand in the OMA's place.

use migratekit_core::tunnels::AuthorizedKeys;
use migratekit_core::tunnels::limits::FIRST_REVERSE_PORT;
use migratekit_core::tunnels::openssh::{SshdConfig, SshdVma};
use migratekit_core::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::args::{Global, TunnelSshdConfigArgs};
use crate::output;

/// The texts.
#[derive(Debug, Serialize)]
struct Printed {
    /// For `sshd_config`.
    block: String,
    /// For the file of keys.
    authorized_keys: Vec<String>,
}

pub(crate) async fn run(global: &Global, args: &TunnelSshdConfigArgs) -> Result<()> {
    let refuse = |message: &'static str| Error::new(ErrorKind::InvalidInput, "write sshd's configuration", message);
    if !args.listen.is_empty() && args.listen.len() != args.keys.len() {
        return Err(refuse("give as many --listen as --key, or none").with("keys", args.keys.len()).with("listen", args.listen.len()));
    }
    let mut vmas = Vec::new();
    for (listen, path) in ports(&args.listen).zip(&args.keys) {
        let found = AuthorizedKeys::at(path).await?.entries().await?;
        let [(key, vma)] = found.as_slice() else {
            return Err(refuse("the file holds not one key").with("path", path.display()).with("keys", found.len()));
        };
        vmas.push(SshdVma { key: key.clone(), name: vma.name.clone(), listen });
    }
    let config = SshdConfig { user: args.user.clone(), open: args.open.clone(), authorized_keys: args.authorized_keys.clone(), vmas };
    let authorized_keys = config.vmas.iter().map(|vma| config.key_line(vma)).collect::<Result<_>>()?;
    output::result(global, &Printed { block: config.block()?, authorized_keys }, table)
}

/// The ports of the VMAs, in their order.
fn ports(given: &[u16]) -> impl Iterator<Item = u16> {
    given.iter().copied().chain((FIRST_REVERSE_PORT..).skip(given.len()))
}

fn table(printed: &Printed) -> String {
    let keys = match printed.authorized_keys.as_slice() {
        [] => "# (give the public key of a VMA by --key to see its line)".to_owned(),
        lines => lines.join("\n"),
    };
    format!("{}\n# The keys of the VMAs, one in a line of the user's authorized_keys:\n{keys}", printed.block)
}
