//! The grammar of `migratekit tunnel`, and of the options by which a copy enters one.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use migratekit_core::tunnels::{API_PORT, Compression, NBD_PORT, USER};

use super::PlaceArgs;

/// `migratekit tunnel ..`
#[derive(Debug, Subcommand)]
pub(crate) enum TunnelCommand {
    /// Listen for VMAs, and serve exports to them through SSH
    Serve(TunnelServeArgs),
    /// Keep the VMA's side of the tunnel up: forwards in both directions, until it is ended
    Connect(TunnelConnectArgs),
    /// Print what an OpenSSH server must be told to stand in the place of `tunnel serve`
    SshdConfig(TunnelSshdConfigArgs),
}

/// Whether disks are compressed on their way through a tunnel. Both ends must want it; a server that knows nothing of it does not.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum CompressionArg {
    /// Where the data shrinks and the processor is much faster than the line, which is measured all the time
    #[default]
    Auto,
    /// Never
    Off,
    /// Whatever shrinks
    Always,
}

impl From<CompressionArg> for Compression {
    fn from(arg: CompressionArg) -> Self {
        match arg {
            CompressionArg::Auto => Compression::Auto,
            CompressionArg::Off => Compression::Off,
            CompressionArg::Always => Compression::Always,
        }
    }
}

/// `migratekit tunnel sshd-config`
#[derive(Debug, Args)]
pub(crate) struct TunnelSshdConfigArgs {
    /// The user by whose name VMAs log in
    #[arg(long, value_name = "NAME", default_value = USER)]
    pub(crate) user: String,
    /// A port of the loopback that VMAs may reach; may be given several times
    #[arg(long = "open", value_name = "PORT", default_values_t = [NBD_PORT, API_PORT])]
    pub(crate) open: Vec<u16>,
    /// A VMA's public key (Ed25519); may be given several times
    #[arg(long = "key", value_name = "FILE")]
    pub(crate) keys: Vec<PathBuf>,
    /// The port of the loopback at which the VMA of each --key may listen, in their order [default: 9081 and up]
    #[arg(long = "listen", value_name = "PORT", requires = "keys")]
    pub(crate) listen: Vec<u16>,
    /// The file of keys that sshd is to read for this user; best one that the user cannot write [default: as sshd does]
    #[arg(long, value_name = "FILE")]
    pub(crate) authorized_keys: Option<PathBuf>,
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
    /// Serve this file or block device under NAME to one VMA, for which no other export exists; may be given several times. VMA is
    /// its name (in a file of keys the remark behind its key); it may be left out while only one VMA is known. A NAME with @ in it
    /// needs it
    #[arg(long = "export", value_name = "NAME[@VMA]=PATH")]
    pub(crate) exports: Vec<String>,
    /// Refuse writes
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Compress what is sent of exports to clients that can read that; off: in neither direction
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) compression: CompressionArg,
    /// End when standard input, which must be a pipe, ends: for a program that starts this one
    #[arg(long)]
    pub(crate) end_with_stdin: bool,
    /// Let VMAs reach what another process serves at this port of the loopback, such as 127.0.0.1:8082; may be given several times
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) permit_open: Vec<String>,
    /// Let the VMA of this name, or each that has no other, listen at this port of the loopback, where other processes reach it; may be
    /// given several times
    #[arg(long, value_name = "[VMA=]ADDR:PORT")]
    pub(crate) permit_listen: Vec<String>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// `migratekit tunnel connect`
#[derive(Debug, Args)]
pub(crate) struct TunnelConnectArgs {
    /// The server
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: String,
    /// The private key by which to come in (Ed25519, readable by its owner only)
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// The fingerprint of the server's key, as it prints it
    #[arg(long, value_name = "SHA256:..")]
    pub(crate) host_key_fingerprint: String,
    /// The name by which to log in
    #[arg(long, value_name = "NAME", default_value = USER)]
    pub(crate) user: String,
    /// Listen here for a port of the server's loopback, as 127.0.0.1:10808:127.0.0.1:10809; may be given several times. Each connection
    /// has a connection of its own to the server; those to port 8082 share one
    #[arg(short = 'L', value_name = "[ADDR:]PORT:HOST:PORT")]
    pub(crate) local: Vec<String>,
    /// Let the server reach this service, as 127.0.0.1:9081:127.0.0.1:8081; without the first address at the port that the server tells
    #[arg(short = 'R', value_name = "[ADDR:PORT:]HOST:PORT")]
    pub(crate) reverse: Option<String>,
    /// Compress what goes through the connections of -L that are not shared, where the server can read that
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) compression: CompressionArg,
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
    /// For ssh://: compress the disk on its way, where the server can read that
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) compression: CompressionArg,
}
