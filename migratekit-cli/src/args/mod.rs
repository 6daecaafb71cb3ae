//! What may be typed: the grammar of the command line, as clap reads it. No decision is made here.

// The comments are the text of `--help`, where a bracket is a bracket.
#![allow(rustdoc::broken_intra_doc_links)]

use std::path::PathBuf;

use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use migratekit_core::units::ByteSize;

mod engine;
#[cfg(test)]
mod tests;
mod tunnel;
mod vma;

pub(crate) use engine::*;
pub(crate) use tunnel::*;
pub(crate) use vma::*;

use crate::exit;

/// MigrateKit moves disks and virtual machines, and proves that nothing was lost.
#[derive(Debug, Parser)]
#[command(name = "migratekit", version, after_help = exit::table(), max_term_width = 110, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// What was typed; a wrong command line, `--help` and `--version` end the program here.
    pub(crate) fn read() -> Self {
        Cli::from_arg_matches(&grammar().get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// The grammar, with each option that holds for many commands shown where it is defined and accepted everywhere below.
pub(crate) fn grammar() -> clap::Command {
    shown_once(Cli::command(), "migratekit", &[], &[])
}

/// Gives `command` the options that it inherits, hidden, instead of the visible copies that clap would make, and says where they are told.
fn shown_once(command: clap::Command, path: &str, inherited: &[Arg], told: &[String]) -> clap::Command {
    let mut told = told.to_vec();
    if command.get_arguments().any(Arg::is_global_set) {
        told.push(format!("`{path} --help`"));
    }
    let mut command = command.args(inherited.iter().cloned().map(|arg| arg.hide(true)));
    if !inherited.is_empty() {
        let others = told.iter().filter(|place| **place != format!("`{path} --help`")).cloned().collect::<Vec<_>>().join(", ");
        command = command.after_help(format!("More options: {others}"));
    }
    let below: Vec<Arg> = command.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let path = format!("{path} {name}");
        command = command.mut_subcommand(name, |sub| shown_once(sub, &path, &below, &told));
    }
    command
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// How results are printed on stdout: for people, or one JSON document
    #[arg(long, value_enum, default_value_t = Output::Table, global = true, value_name = "FORM")]
    pub(crate) output: Output,
    /// No progress or remarks on stderr, and no summary of a copy on stdout (JSON is still printed)
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Log on stderr; may be given twice for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// One JSON document
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Copy one disk
    Copy(CopyArgs),
    /// Compare two disks by digests; print what differs as extents
    Diff(DiffArgs),
    /// Serve and examine NBD exports
    #[command(subcommand)]
    Nbd(NbdCommand),
    /// The tunnel between the VMware side and the cloud side
    #[command(subcommand)]
    Tunnel(TunnelCommand),
    /// How a VMA becomes trusted: codes, approval, revocation; on the VMA: enrollment
    Vma(VmaArgs),
    /// Save what is needed to reach a platform: vmware, cloudstack, local
    Credential(CredentialArgs),
    /// Find machines, take them under management, look at them
    Vm(VmArgs),
    /// Bring the replica of a VM up to date
    Replicate(ReplicateArgs),
    /// Look at jobs, follow them, end them
    Job(JobArgs),
    /// The catalog: its schema, its state, its export
    Db(DbArgs),
    /// The key that seals saved secrets
    Key(KeyArgs),
    /// Check this host, and say how to mend what is missing
    Doctor(DoctorArgs),
    /// The whole story on this machine: replicate a disk, change it, replicate the difference, prove it
    Demo(DemoArgs),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder (made if absent)
        dir: PathBuf,
    },
}

/// `migratekit nbd ..`
#[derive(Debug, Subcommand)]
pub(crate) enum NbdCommand {
    /// Serve files or block devices as NBD exports, each with a ledger of its own
    Serve(ServeArgs),
    /// Show what a server offers: size, flags, meta contexts
    Info(InfoArgs),
}

/// `migratekit copy`
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The source: PATH (raw file, block device, or qcow2/vmdk/vhdx/vdi image), nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbds://.., ssh://[USER@]HOST[:PORT]/EXPORT
    pub(crate) source: String,
    /// The target: PATH (raw file, made if absent, or block device), or an address of NBD or a tunnel
    pub(crate) target: String,
    /// Copy only these ranges: JSON [{"offset":0,"length":65536,"zero":false},..]
    #[arg(long, value_name = "FILE")]
    pub(crate) extents: Option<PathBuf>,
    /// Keep the block ledger of a target that keeps none itself in FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: Option<PathBuf>,
    /// Continue the interrupted copy that the ledger knows; the source must be the same and unchanged
    #[arg(long)]
    pub(crate) resume: bool,
    /// Read both sides again after the copy and compare digests: all, or a sample
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, default_missing_value = "full", require_equals = true)]
    pub(crate) verify: Option<Verify>,
    /// Connections to each NBD server that allows several, 1 to 16 [default: 2]
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<u32>,
    /// Bytes in flight, at most 256M [default: chosen by measurement, 1M to 16M]
    #[arg(long, value_name = "BYTES")]
    pub(crate) in_flight: Option<ByteSize>,
    /// Bytes in one request, a power of two [default: 256K]
    #[arg(long, value_name = "BYTES")]
    pub(crate) request_size: Option<ByteSize>,
    /// At most this many bytes in a second, 64K or more
    #[arg(long, value_name = "RATE")]
    pub(crate) bandwidth: Option<ByteSize>,
    /// The target is known to read as zero
    #[arg(long)]
    pub(crate) target_is_zero: bool,
    /// Write the report as JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tunnel: TunnelArgs,
}

/// How much is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verify {
    /// Every block
    Full,
    /// The first and last blocks and a random sample
    Sample,
}

/// `migratekit diff`
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// One side (see copy)
    pub(crate) source: String,
    /// The other side
    pub(crate) target: String,
    /// The grain of the extents that are printed, a power of two
    #[arg(long, value_name = "BYTES", default_value = "64K")]
    pub(crate) block: ByteSize,
    #[command(flatten)]
    pub(crate) tunnel: TunnelArgs,
}

/// `migratekit nbd serve`
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// NAME=PATH: the export's name, and the file or block device it serves
    #[arg(required = true, value_name = "NAME=PATH")]
    pub(crate) exports: Vec<String>,
    /// Listen on this TCP address [default: 127.0.0.1:10809 unless --unix is given]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// Listen on this Unix socket
    #[arg(long, value_name = "PATH")]
    pub(crate) unix: Option<PathBuf>,
    /// Refuse writes
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Require TLS with the certificate server-cert.pem and key server-key.pem of DIR; clients need certificates of ca-cert.pem if it is there
    #[arg(long, value_name = "DIR")]
    pub(crate) tls_certs: Option<PathBuf>,
    /// Keep no ledger
    #[arg(long)]
    pub(crate) no_ledger: bool,
}

/// `migratekit nbd info`
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// The server's address; without an export's name the exports are listed
    #[arg(required_unless_present = "limits")]
    pub(crate) uri: Option<String>,
    /// Print our own bounds instead
    #[arg(long)]
    pub(crate) limits: bool,
}

/// `migratekit doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// `migratekit demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Take this raw disk image (it is copied, never changed) instead of making one
    #[arg(long, value_name = "PATH", env = "DISK")]
    pub(crate) disk: Option<PathBuf>,
    /// Work in this folder and keep it, instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}
