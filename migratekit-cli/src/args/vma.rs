//! The grammar of `migratekit vma`: how a VMA becomes trusted, and stops being so.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::PlaceArgs;

/// `migratekit vma`
#[derive(Debug, Args)]
pub(crate) struct VmaArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(subcommand)]
    pub(crate) command: VmaCommand,
}

/// What is done about VMAs.
#[derive(Debug, Subcommand)]
pub(crate) enum VmaCommand {
    /// Make a pairing code to be typed at a VMA: one use, ten minutes; it is shown once
    PairingCode,
    /// List the VMAs that wait, with the fingerprints of their keys
    Pending,
    /// Trust a VMA that waits: compare the fingerprint with the one that the VMA shows, and give it here
    Approve {
        /// Its enrollment's id, or its name
        vma: String,
        /// The fingerprint as the VMA shows it
        #[arg(long, value_name = "SHA256:..")]
        fingerprint: String,
    },
    /// Refuse a VMA that waits
    Reject {
        /// Its enrollment's id, or its name
        vma: String,
    },
    /// End the trust in a VMA: its connections are cut, its key does not come in any more
    Revoke {
        /// Its enrollment's id, or its name
        vma: String,
    },
    /// List the VMAs that are trusted
    Active,
    /// What happened to the trust in VMAs, newest first
    Audit {
        /// Only of this key
        #[arg(long, value_name = "SHA256:..", conflicts_with = "refused")]
        fingerprint: Option<String>,
        /// What was refused: wrong, used and old codes, wrong proofs; keys, wishes and exports in the tunnel, crowds and broken packets
        #[arg(long)]
        refused: bool,
    },
    /// The bounds of enrollment
    Limits,
    /// On the VMA: enroll at an OMA by a pairing code, and wait for the approval
    Enroll(EnrollArgs),
    /// On the VMA: make another key, have the OMA take it instead of this one, and come in by it
    RotateKey {
        /// The VMA's private key; beside it FILE.oma, which `vma enroll` wrote
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

/// `migratekit vma enroll`
#[derive(Debug, Args)]
pub(crate) struct EnrollArgs {
    /// The OMA: HOST or HOST:PORT [default port: 443]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: String,
    /// The VMA's private key (Ed25519, made if absent; readable by its owner only). What is to be known of the OMA goes into FILE.oma
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// The name by which the OMA knows the VMA, unique there
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// The file with the pairing code; - or no option: the first line of standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) code_file: Option<PathBuf>,
    /// Do not wait for the approval
    #[arg(long)]
    pub(crate) no_wait: bool,
}
