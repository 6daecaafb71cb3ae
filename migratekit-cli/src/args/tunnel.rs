//! The grammar of `migratekit tunnel`, and of the options by which a copy enters one.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::PlaceArgs;

/// `migratekit tunnel ..`
#[derive(Debug, Subcommand)]
pub(crate) enum TunnelCommand {
    /// Listen for VMAs, and serve exports to them through SSH
    Serve(TunnelServeArgs),
}

/// `migratekit tunnel serve`
#[derive(Debug, Args)]
pub(crate) struct TunnelServeArgs {
    /// Listen on this TCP address; [::]:443 takes IPv4 and IPv6
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:443")]
    pub(crate) listen: String,
    /// The host key (Ed25519, made if absent; readable by its owner only)
    #[arg(long, value_name = "FILE")]
    pub(crate) host_key: PathBuf,
    /// The keys that may come in, one in a line, as OpenSSH writes them; a line added or removed counts at once [default: those of the
    /// VMAs that the catalog trusts, and VMAs enroll at the same port]
    #[arg(long, value_name = "FILE")]
    pub(crate) authorized_keys: Option<PathBuf>,
    /// The TLS certificate of enrollment with its key (made if absent; readable by its owner only) [default: the host key's file and .tls]
    #[arg(long, value_name = "FILE", conflicts_with = "authorized_keys")]
    pub(crate) tls: Option<PathBuf>,
    /// Serve this file or block device under NAME to whoever comes in; may be given several times
    #[arg(long = "export", value_name = "NAME=PATH")]
    pub(crate) exports: Vec<String>,
    /// Refuse writes
    #[arg(long)]
    pub(crate) read_only: bool,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// How a copy enters a tunnel (ssh://).
#[derive(Debug, Args)]
pub(crate) struct TunnelArgs {
    /// For ssh://: the private key by which to come in (Ed25519)
    #[arg(long, value_name = "FILE", requires = "ssh_host_key")]
    pub(crate) ssh_key: Option<PathBuf>,
    /// For ssh://: the fingerprint of the server's key, as it prints it
    #[arg(long, value_name = "SHA256:..", requires = "ssh_key")]
    pub(crate) ssh_host_key: Option<String>,
}
