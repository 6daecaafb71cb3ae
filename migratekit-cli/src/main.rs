//! The command line of MigrateKit: parse, one call into the library, print.
//!
//! - [`args`]: the grammar
//! - [`commands`]: one file for each verb
//! - [`exit`]: exit codes and hints by error kind
//! - [`output`], [`table`]: JSON, tables, progress
//! - [`place`]: the catalog and its key
//! - [`told`]: what people read of a job that did not come to a good end
//! - [`endpoint`]: the two ends of a copy
//! - [`ending`]: how signals end it
//!
//! Ctrl-C (SIGINT), SIGTERM and SIGHUP end the running command in order; a second one leaves at once with code 130.

mod args;
mod commands;
mod ending;
mod endpoint;
mod exit;
mod follow;
mod log;
mod output;
mod place;
mod secret_input;
mod table;
mod told;

use std::process::ExitCode;

use migratekit_core::{Error, Result};

use crate::args::{Cli, Command};
use crate::ending::Ending;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::read();
    let verbose = cli.global.verbose;
    log::begin(verbose);
    let area = exit::Area::of(&cli.command);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", exit::explain(&error, area, verbose > 0));
            ExitCode::from(exit::code(error.kind()))
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| Error::from_io("start the async runtime", e))?;
    let result = runtime.block_on(async {
        let ending = Ending::default();
        tokio::spawn(ending.clone().listen());
        let done = dispatch(cli, ending).await;
        place::close_all().await;
        done
    });
    // Work that was cancelled may still wait for a disk; it must not hold up the end of the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

async fn dispatch(cli: Cli, ending: Ending) -> Result<()> {
    let (global, cancel) = (cli.global, ending.token().clone());
    match cli.command {
        Command::Copy(args) => commands::copy::run(&global, args, cancel).await,
        Command::Diff(args) => commands::diff::run(&global, args, cancel).await,
        Command::Nbd(args::NbdCommand::Serve(args)) => commands::nbd_serve::run(&global, args, cancel).await,
        Command::Nbd(args::NbdCommand::Info(args)) => commands::nbd_info::run(&global, args).await,
        Command::Tunnel(args::TunnelCommand::Serve(args)) => commands::tunnel_serve::run(&global, args, cancel).await,
        Command::Tunnel(args::TunnelCommand::Connect(args)) => commands::tunnel_connect::run(&global, args, cancel).await,
        Command::Tunnel(args::TunnelCommand::SshdConfig(args)) => commands::tunnel_sshd_config::run(&global, &args).await,
        Command::Doctor(args) => commands::doctor::run(&global, args).await,
        Command::Demo(args) => commands::demo::run(&global, args, cancel).await,
        Command::Vma(args) => commands::vma::run(&global, args, ending.token()).await,
        Command::Credential(args) => commands::credential::run(&global, args, ending.token()).await,
        Command::Vm(args) => commands::vm::run(&global, args, ending.token()).await,
        Command::Replicate(args) => commands::replicate::run(&global, args, ending).await,
        Command::Job(args) => commands::job::run(&global, args, ending).await,
        Command::Db(args) => commands::db::run(&global, args, ending.token()).await,
        Command::Key(args) => commands::key::run(&global, args, ending.token()).await,
        Command::Completions { shell } => commands::generate::completions(shell),
        Command::Man { dir } => commands::generate::man(&dir),
    }
}
