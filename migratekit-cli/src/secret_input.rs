//! Secrets on their way in: from a file, from standard input, or typed without being shown. Never from an argument.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use migratekit_core::credentials::SecretString;
use migratekit_core::{Error, ErrorKind, Result};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

/// The longest input, in bytes: two keys and some.
const MAX_INPUT: u64 = 64 * 1024;

const READ: &str = "read a secret";

/// As many lines as there are in `what`, each a secret: from the file, or from standard input when it is `-` or none. On a terminal
/// each is asked for by its name, and not shown while it is typed.
pub(crate) fn read<const N: usize>(file: Option<&Path>, what: [&'static str; N]) -> Result<[SecretString; N]> {
    let stdin = std::io::stdin();
    let text = match file.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let file = File::open(path).map_err(|e| Error::from_io(READ, e).with("path", path.display()))?;
            all_of(file).map_err(|e| e.with("path", path.display()))?
        }
        None if stdin.is_terminal() => return typed(what),
        None => all_of(stdin.lock()).map_err(|e| e.with("from", "standard input"))?,
    };
    let mut lines = text.expose().lines();
    let mut next = |name: &'static str| match lines.next() {
        Some(line) if !line.is_empty() => Ok(SecretString::from(line)),
        _ => Err(Error::new(ErrorKind::InvalidInput, READ, "its line is missing or empty").with("secret", name)),
    };
    collect(what.map(&mut next))
}

fn collect<const N: usize>(found: [Result<SecretString>; N]) -> Result<[SecretString; N]> {
    let all: Vec<SecretString> = found.into_iter().collect::<Result<_>>()?;
    all.try_into().map_err(|_| Error::new(ErrorKind::Internal, READ, "their number changed on the way"))
}

/// The whole input as one secret, so that it is wiped.
fn all_of(input: impl Read) -> Result<SecretString> {
    let mut text = String::with_capacity(4096);
    let read = input.take(MAX_INPUT + 1).read_to_string(&mut text);
    let text = SecretString::new(text);
    match read {
        Ok(length) if length as u64 > MAX_INPUT => Err(Error::new(ErrorKind::InvalidInput, READ, "it is longer than 64 KiB")),
        Ok(_) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(Error::new(ErrorKind::InvalidInput, READ, "it is not text (UTF-8)")),
        Err(e) => Err(Error::from_io(READ, e)),
    }
}

fn typed<const N: usize>(what: [&'static str; N]) -> Result<[SecretString; N]> {
    collect(what.map(|name| {
        eprint!("{name}: ");
        let silent = Silent::begin()?;
        let mut line = String::with_capacity(1024);
        let read = std::io::stdin().read_line(&mut line).map_err(|e| Error::from_io(READ, e));
        drop(silent);
        eprintln!();
        let line = SecretString::new(line);
        read?;
        match line.expose().trim_end_matches(['\r', '\n']) {
            "" => Err(Error::new(ErrorKind::InvalidInput, READ, "nothing was typed").with("secret", name)),
            text => Ok(SecretString::from(text)),
        }
    }))
}

/// While it lives the terminal shows nothing of what is typed.
struct Silent(rustix::termios::Termios);

impl Silent {
    fn begin() -> Result<Self> {
        let failed = |e: rustix::io::Errno| Error::from_io("silence the terminal", e.into());
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(Silent(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
