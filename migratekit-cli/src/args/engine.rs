//! The verbs that work on the catalog: credentials, VMs, replications, jobs, the catalog itself, its key.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use migratekit_core::id::JobId;
use migratekit_core::model::JobStatus;

/// Where the catalog and its key are. Options of every verb that works on them.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PlaceArgs {
    /// The catalog: sqlite://PATH, or mysql://USER@HOST[:PORT][,HOST..]/DB [default: sqlite in $XDG_DATA_HOME/migratekit]
    #[arg(long, value_name = "URL", env = "MIGRATEKIT_STORE", hide_env_values = true, global = true, help_heading = "Catalog")]
    pub(crate) store: Option<String>,
    /// The file with the catalog's password (0600); a password never stands in the URL
    #[arg(
        long,
        value_name = "FILE",
        env = "MIGRATEKIT_STORE_PASSWORD_FILE",
        hide_env_values = true,
        global = true,
        help_heading = "Catalog"
    )]
    pub(crate) store_password_file: Option<PathBuf>,
    /// The key file (0600, made on first use); MIGRATEKIT_CRED_ENCRYPTION_KEY, if it is set, wins [default: $XDG_DATA_HOME/migratekit/key]
    #[arg(long, value_name = "FILE", env = "MIGRATEKIT_KEY_FILE", hide_env_values = true, global = true, help_heading = "Catalog")]
    pub(crate) key_file: Option<PathBuf>,
}

/// `migratekit credential`
#[derive(Debug, Args)]
pub(crate) struct CredentialArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(subcommand)]
    pub(crate) command: CredentialCommand,
}

/// What is done with saved credentials.
#[derive(Debug, Subcommand)]
pub(crate) enum CredentialCommand {
    /// Save one; its secrets are sealed before they are stored
    #[command(subcommand)]
    Add(CredentialAdd),
    /// List all of them, without secrets
    List,
    /// Show one, without secrets
    Show {
        /// Its name
        name: String,
    },
    /// Change what is given; the rest stays
    Update(CredentialUpdate),
    /// Remove one that nothing uses any more
    Remove {
        /// Its name
        name: String,
    },
    /// Make it the one that is used when none is named
    SetDefault {
        /// Its name
        name: String,
    },
    /// Try it: does its secret open, is what it names there
    Test {
        /// Its name
        name: String,
    },
}

/// `migratekit credential add`
#[derive(Debug, Subcommand)]
pub(crate) enum CredentialAdd {
    /// A vCenter
    Vmware {
        /// A name of your choice
        name: String,
        /// The vCenter's host name
        #[arg(long, value_name = "HOST")]
        host: String,
        /// Who signs in
        #[arg(long, value_name = "USER")]
        username: String,
        /// The file with the password; - or no option: the first line of standard input
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// The datacenter, when it is always the same
        #[arg(long, value_name = "NAME")]
        datacenter: Option<String>,
    },
    /// A CloudStack
    Cloudstack {
        /// A name of your choice
        name: String,
        /// The address of the API: https://HOST:PORT/client/api
        #[arg(long, value_name = "URL")]
        url: String,
        /// The file with the API key and the secret key, a line each; - or no option: standard input
        #[arg(long, value_name = "FILE")]
        keys_file: Option<PathBuf>,
        /// The domain
        #[arg(long, value_name = "NAME")]
        domain: Option<String>,
        /// The zone
        #[arg(long, value_name = "NAME")]
        zone: Option<String>,
    },
    /// A folder of machines and volumes on this host
    Local {
        /// A name of your choice
        name: String,
        /// The folder, with `machines` and `volumes` in it; an empty one becomes a site
        #[arg(long, value_name = "DIR")]
        path: PathBuf,
        /// Another folder for the volumes
        #[arg(long, value_name = "DIR")]
        volumes: Option<PathBuf>,
    },
}

/// `migratekit credential update`
#[derive(Debug, Args)]
pub(crate) struct CredentialUpdate {
    /// Its name
    pub(crate) name: String,
    /// Another name
    #[arg(long, value_name = "NAME")]
    pub(crate) rename: Option<String>,
    /// The vCenter's host name
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Who signs in to the vCenter
    #[arg(long, value_name = "USER")]
    pub(crate) username: Option<String>,
    /// The file with the vCenter's new password; -: the first line of standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// The vCenter's datacenter
    #[arg(long, value_name = "NAME")]
    pub(crate) datacenter: Option<String>,
    /// The address of the cloud's API
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The file with the cloud's new API key and secret key, a line each; -: standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) keys_file: Option<PathBuf>,
    /// The cloud's domain
    #[arg(long, value_name = "NAME")]
    pub(crate) domain: Option<String>,
    /// The cloud's zone
    #[arg(long, value_name = "NAME")]
    pub(crate) zone: Option<String>,
    /// The folder of a local site, when it was moved
    #[arg(long, value_name = "DIR")]
    pub(crate) path: Option<PathBuf>,
    /// The folder of a local site's volumes, when it was moved
    #[arg(long, value_name = "DIR")]
    pub(crate) volumes: Option<PathBuf>,
}

/// `migratekit vm`
#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(subcommand)]
    pub(crate) command: VmCommand,
}

/// What is done with VMs.
#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// List the machines of a site, each marked new or managed; nothing is saved
    Discover {
        /// The site's name, as saved by `credential add`
        site: String,
        /// Only machines of this name; * stands for any text
        #[arg(long, value_name = "PATTERN", default_value = "*")]
        name: String,
    },
    /// Take machines of a site under management; what is managed already is skipped, and said
    #[command(group = ArgGroup::new("which").required(true).args(["vms", "all"]))]
    Add {
        /// The site's name
        site: String,
        /// The machines, by name
        #[arg(value_name = "VM")]
        vms: Vec<String>,
        /// All machines of the site
        #[arg(long)]
        all: bool,
    },
    /// List the VMs under management
    List {
        /// At most this many, 1 to 500
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Go on behind this cursor, as the last list printed it
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
    },
    /// Show one: its source, its disks, its last point, its last operation
    Show {
        /// Its name or id
        vm: String,
    },
    /// Show its disks, the volumes that hold their replicas, and what each last held
    Disks {
        /// Its name or id
        vm: String,
    },
    /// Remove from its source what interrupted passes left there; the next pass would do it too
    Sweep {
        /// Its name or id
        vm: String,
    },
    /// End its management; the record of it is removed, its jobs stay. Refused while volumes of it exist, unless they are removed with it
    Remove {
        /// Its name or id
        vm: String,
        /// Remove its volumes first: the replica is lost. Called again after an interruption, it goes on
        #[arg(long)]
        with_volumes: bool,
    },
}

/// `migratekit replicate`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct ReplicateArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) start: ReplicateStart,
    #[command(subcommand)]
    pub(crate) command: Option<ReplicateCommand>,
}

/// A replication to be begun.
#[derive(Debug, Args)]
pub(crate) struct ReplicateStart {
    /// The VM's name or id
    #[arg(required = true)]
    pub(crate) vm: Option<String>,
    /// All blocks [default: what changed, where that is known, disk by disk]
    #[arg(long, conflicts_with = "incremental")]
    pub(crate) full: bool,
    /// Only what changed; refused where that is not known
    #[arg(long)]
    pub(crate) incremental: bool,
    /// Print every event as it happens, instead of a bar
    #[arg(long)]
    pub(crate) watch: bool,
}

/// What is done with replications.
#[derive(Debug, Subcommand)]
pub(crate) enum ReplicateCommand {
    /// List replications, the newest first
    List {
        /// Only those of this VM
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
        /// At most this many, 1 to 500
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Go on behind this cursor, as the last list printed it
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
    },
    /// Show the last replication of a VM, or one by its job's id
    Show {
        /// The VM's name or id, or a job's id
        vm: String,
    },
    /// Ask for the end of a VM's running replication; the last point stays as it was
    Cancel {
        /// The VM's name or id
        vm: String,
    },
    /// Continue a replication that was interrupted, from where it was
    Resume {
        /// The VM's name or id
        vm: String,
        /// Print every event as it happens, instead of a bar
        #[arg(long)]
        watch: bool,
    },
}

/// `migratekit job`
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(subcommand)]
    pub(crate) command: JobCommand,
}

/// What is done with jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List jobs, the newest first
    List {
        /// Only those of this VM
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
        /// Only those that hold their VM
        #[arg(long, conflicts_with = "status")]
        active: bool,
        /// Only those with this status
        #[arg(long, value_name = "STATUS")]
        status: Option<JobStatus>,
        /// At most this many, 1 to 500
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Go on behind this cursor, as the last list printed it
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
    },
    /// Show one with its steps
    Show {
        /// Its id
        job: JobId,
    },
    /// Follow one until it ends, also from another process; a line for each event
    Watch {
        /// Its id
        job: JobId,
    },
    /// Ask for its end; what it made is undone by the process that runs it
    Cancel {
        /// Its id
        job: JobId,
    },
    /// Print what it wrote about itself
    Log {
        /// Its id
        job: JobId,
        /// At most this many lines, the last ones
        #[arg(long, value_name = "N", default_value_t = 200)]
        lines: u32,
    },
}

/// `migratekit db`
#[derive(Debug, Args)]
pub(crate) struct DbArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(subcommand)]
    pub(crate) command: DbCommand,
}

/// What is done with the catalog.
#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Bring the schema to this program's version; may be repeated
    Migrate,
    /// Show the schema's version, what is in it, and whether the key is right
    Status,
    /// Write the catalog to a new file (mode 0600) that either database reads; secrets stay sealed
    Export {
        /// The file; it appears when it is whole, and never in the place of another one
        file: PathBuf,
        /// Only a part of it [default: everything]
        #[arg(long, value_enum, value_name = "PART")]
        only: Option<Part>,
    },
    /// Put a file that `db export` wrote into a new, empty catalog: all of it or nothing
    Import {
        /// The file
        file: PathBuf,
    },
    /// Take over a SQLite catalog that was moved here from another host for good
    Adopt,
}

/// How much of the catalog is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// How platforms are reached and what is scheduled: credentials, clouds, sites, agents, users, schedules, groups
    Configuration,
    /// The tables and their columns, without any row
    Schema,
}

/// `migratekit key`
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

/// What is done with the key.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make the key file, print its path and the key's fingerprint; an existing one is never overwritten
    Generate,
    /// Seal every secret with a new key, then drop the old one; may be interrupted and repeated
    Rotate {
        /// The catalog's key is lost: take the one at hand from now on; what the lost one sealed is listed, to be entered again
        #[arg(long)]
        old_key_lost: bool,
    },
}
