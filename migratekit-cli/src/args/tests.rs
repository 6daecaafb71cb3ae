//! What people are told to type must be what this program takes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind as Wrong;
use migratekit_core::ErrorKind;
use migratekit_core::credentials::KEY_VARIABLE;
use migratekit_core::id::JobId;
use migratekit_core::model::messages::{Action, Target};

use super::{Cli, grammar};
use crate::exit;
use clap::CommandFactory;

/// The words of a command as people are told it, with what stands for theirs filled in.
fn typed(command: &str) -> Vec<String> {
    let job = JobId::generate().to_string();
    let word = |word: &str| match word {
        "JOB" | "{}" => job.clone(),
        "VM" | "NAME" | "SITE" => "web-01".to_owned(),
        "FILE" | "SRC" | "DST" => "file".to_owned(),
        "URI" => "nbd://host/export".to_owned(),
        other => other.to_owned(),
    };
    command.split_whitespace().map(word).collect()
}

/// Why the grammar does not take it.
fn refusal(command: &str) -> Option<Wrong> {
    match grammar().try_get_matches_from(typed(command)) {
        Ok(_) => None,
        Err(error) if matches!(error.kind(), Wrong::DisplayHelp | Wrong::DisplayVersion) => None,
        Err(error) => Some(error.kind()),
    }
}

/// The commands in a text: what stands in backticks and begins with our name.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').filter(|part| part.starts_with("migratekit ") && !part.contains(['\n', '<', '[', '|']))
}

/// Every environment variable that the program reads as a setting.
fn settings(command: &clap::Command, found: &mut BTreeSet<String>) {
    found.extend(command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())));
    command.get_subcommands().for_each(|sub| settings(sub, found));
}

#[test]
fn every_action_is_a_command_a_setting_or_a_page_that_there_is() {
    let mut known = BTreeSet::from([KEY_VARIABLE.to_owned()]);
    settings(&Cli::command(), &mut known);
    for action in Action::ALL {
        match action.target() {
            Target::Command(command) => {
                assert!(command.starts_with("migratekit "), "{action}: {command}");
                assert_eq!(refusal(command), None, "{action}: {command}");
            }
            Target::Setting(name) => assert!(known.contains(name), "{action}: nothing reads {name}; there are {known:?}"),
            Target::Page(page) => assert!(page.starts_with('/') && page.len() > 1, "{action}: {page}"),
        }
    }
    assert_eq!(refusal("migratekit vm vanish VM"), Some(Wrong::InvalidSubcommand), "what there is not is seen");
}

#[test]
fn every_hint_names_commands_that_there_are() {
    let hints = exit::Area::ALL.iter().flat_map(|area| ErrorKind::ALL.iter().map(|kind| exit::hint(*kind, *area)));
    let told: BTreeSet<String> = hints.flat_map(|hint| commands(hint).map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(told.len() > 10, "{told:?}");
    for command in told {
        assert_eq!(refusal(&command), None, "{command}");
    }
}

/// Source files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("args/tests.rs") {
            found.push(path);
        }
    }
}

/// Whatever names one of our commands, in a text or a comment, names one that there is; what follows the verb may be left out.
#[test]
fn no_text_of_ours_names_a_command_that_there_is_not() {
    let (mut files, mut seen) = (Vec::new(), 0);
    for folder in ["src", "../migratekit-core/src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // A string that goes on in the next line is one text.
        let text = text.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
        for command in commands(&text) {
            seen += 1;
            let wrong = refusal(command.trim_end_matches(" .."));
            let missing = [Wrong::MissingRequiredArgument, Wrong::MissingSubcommand, Wrong::DisplayHelpOnMissingArgumentOrSubcommand];
            assert!(wrong.is_none_or(|wrong| missing.contains(&wrong)), "{}: `{command}`: {wrong:?}", file.display());
        }
    }
    assert!(seen > 30, "{seen}");
}
