//! The verbs that work on the catalog: credentials, the catalog itself, its key.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
    /// Take over a SQLite catalog that was moved here from another host for good
    Adopt,
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
