//! What is made from the grammar: the reference of the command line, completions, manual pages.
//!
//! `docs/reference/cli.md` is a snapshot: it changes only together with the grammar, so that a change of either is seen in review.
//! `MIGRATEKIT_BLESS=1 cargo test -p migratekit-cli --test cli reference` writes it anew.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::run::MIGRATEKIT;

const HEAD: &str = "# The command line\n\n\
    Every command's `--help`, in one place. This file is generated; a test compares it with the program. To write it anew:\n\
    `MIGRATEKIT_BLESS=1 cargo test -p migratekit-cli --test cli reference`.\n";

fn output(args: &[&str]) -> String {
    // The width of a terminal and the caller's own settings are not part of the reference.
    let out = Command::new(MIGRATEKIT).args(args).env("COLUMNS", "100").env_remove("DISK").stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn help(command: &[String]) -> String {
    let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
    args.push("--help");
    output(&args)
}

/// The commands below one, from its help.
fn below(help: &str) -> Vec<String> {
    let section = help.lines().skip_while(|l| *l != "Commands:").skip(1);
    let names = section.take_while(|l| !l.is_empty()).filter(|l| l.starts_with("  ") && !l.starts_with("   "));
    names.filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "help").map(str::to_owned).collect()
}

/// Every command, each after the one it belongs to, with its help.
fn commands(command: &[String], found: &mut Vec<(String, String)>) {
    let text = help(command);
    let name = ["migratekit".to_owned()].iter().chain(command).cloned().collect::<Vec<_>>().join(" ");
    let names = below(&text);
    found.push((name, text));
    for name in names {
        commands(&[command, &[name]].concat(), found);
    }
}

#[test]
fn the_reference_is_that_of_this_program() {
    let mut found = Vec::new();
    commands(&[], &mut found);
    for needed in ["copy", "diff", "nbd serve", "nbd info", "doctor", "demo", "key generate", "completions", "man"] {
        assert!(found.iter().any(|(name, _)| *name == format!("migratekit {needed}")), "{needed} is not found");
    }
    let mut text = HEAD.to_owned();
    for (name, help) in &found {
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        write!(text, "\n## `{name}`\n\n```text\n{}\n```\n", help.join("\n").trim_end()).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
    if std::env::var_os("MIGRATEKIT_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs =
        committed.lines().zip(text.lines()).position(|(a, b)| a != b).unwrap_or(committed.lines().count().min(text.lines().count()));
    assert!(
        committed == text,
        "docs/reference/cli.md is not what the program says, first at line {}; write it anew:\n{}",
        differs + 1,
        "MIGRATEKIT_BLESS=1 cargo test -p migratekit-cli --test cli reference"
    );
}

/// The reference tells an option that many commands share where it is defined, and nowhere else; it is accepted in every place below.
#[test]
fn shared_options_are_told_once_and_accepted_everywhere() {
    let mut found = Vec::new();
    commands(&[], &mut found);
    let tell =
        |option: &str| -> Vec<&str> { found.iter().filter(|(_, help)| help.contains(option)).map(|(name, _)| name.as_str()).collect() };
    assert_eq!(tell("--output <FORM>"), ["migratekit"]);
    let verbs =
        ["tunnel serve", "vma", "credential", "vm", "replicate", "job", "db", "key", "doctor"].map(|verb| format!("migratekit {verb}"));
    for option in ["--store <URL>", "--store-password-file <FILE>", "--key-file <FILE>"] {
        assert_eq!(tell(option), verbs, "{option}");
    }
    for (name, help) in found.iter().filter(|(name, _)| name.starts_with("migratekit vm ")) {
        assert!(help.contains("More options: `migratekit --help`, `migratekit vm --help`"), "{name}: {help}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (url, key) = (format!("sqlite://{}", dir.path().join("catalog.db").display()), dir.path().join("key").display().to_string());
    let (url_is, key_is) = (format!("--store={url}"), format!("--key-file={key}"));
    let places: [&[&str]; 5] = [
        &["vm", "list", "--store", &url, "--key-file", &key, "--output", "json"],
        &["vm", "--store", &url, "--key-file", &key, "list", "--output", "json"],
        &["vm", &url_is, "--output=json", "list", &key_is],
        &["--output", "json", "vm", &key_is, "list", &url_is],
        &["--quiet", "vm", "--output", "json", &key_is, &url_is, "list", "--verbose"],
    ];
    for place in places {
        let page: serde_json::Value = serde_json::from_str(&output(place)).unwrap();
        assert_eq!(page["items"].as_array().map(Vec::len), Some(0), "{place:?}");
    }
}

#[test]
fn help_lists_every_exit_code() {
    let help = help(&[]);
    let table: Vec<(u32, &str)> = help
        .lines()
        .skip_while(|l| *l != "Exit codes:")
        .skip(1)
        .filter_map(|l| l.trim().split_once("  "))
        .map(|(code, name)| (code.parse().unwrap(), name.trim()))
        .collect();
    let codes: Vec<u32> = table.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, (0..=21).chain([130]).collect::<Vec<_>>(), "{help}");
    for kind in migratekit_core::ErrorKind::ALL {
        assert!(table.iter().any(|(_, name)| *name == kind.code()), "{kind} is not in the table");
    }
}

#[test]
fn completions_know_the_commands_and_options() {
    for shell in ["bash", "zsh", "fish"] {
        let script = output(&["completions", shell]);
        for word in ["copy", "diff", "serve", "info", "doctor", "demo", "request-size", "target-is-zero"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    // The shell itself must be able to read its own.
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("completions.bash");
    std::fs::write(&script, output(&["completions", "bash"])).unwrap();
    assert!(Command::new("bash").arg("-n").arg(&script).status().unwrap().success());
}

#[test]
fn manual_pages_are_made_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man");
    output(&["man", folder.to_str().unwrap()]);
    let mut found = Vec::new();
    commands(&[], &mut found);
    for (name, _) in found {
        let page = folder.join(format!("{}.1", name.replace(' ', "-")));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{name}");
    }
}
