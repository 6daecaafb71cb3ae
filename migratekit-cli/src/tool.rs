//! Outside programs: found, run to their end within a deadline, their failures told as errors of the library.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use migratekit_core::credentials::KEY_VARIABLE;
use migratekit_core::{Error, ErrorKind, Result};

/// How long one run of a tool may take. Generous: the demo's largest is a file system check of the user's own disk.
pub const TOOL_TIME: Duration = Duration::from_secs(600);

/// Where administrators' tools lie when they are not in `PATH` of a plain user.
const MORE_FOLDERS: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];

/// A program found on this host.
#[derive(Debug, Clone)]
pub struct Tool {
    name: String,
    path: PathBuf,
}

/// The path of a program: in `PATH`, else in the folders of administrators' tools.
#[must_use]
pub fn path_of(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(MORE_FOLDERS.map(PathBuf::from)).map(|folder| folder.join(name)).find(|p| p.is_file())
}

impl Tool {
    /// Finds a program; [`ErrorKind::MissingTool`] names it and the package that has it.
    pub fn find(name: &str, package: &str) -> Result<Self> {
        match path_of(name) {
            Some(path) => Ok(Tool { name: name.to_owned(), path }),
            None => Err(Error::new(ErrorKind::MissingTool, "run a tool", format!("it is not installed; install package {package}"))
                .with("tool", name)
                .with("package", package)),
        }
    }

    /// Runs it in `folder` to its end and gives what it printed, whatever its exit status. Its messages are in English.
    ///
    /// Fails with [`ErrorKind::Timeout`] after [`TOOL_TIME`] (the program is then ended), or when it cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, folder: &Path, args: impl IntoIterator<Item = S>) -> Result<Output> {
        // `timeout` of coreutils ends the program for us; its own exit status is then 124, or 137 when it had to kill.
        let output = Command::new("timeout")
            .args(["--kill-after=5", &TOOL_TIME.as_secs().to_string()])
            .arg(&self.path)
            .args(args)
            .current_dir(folder)
            .env("LC_ALL", "C")
            .env_remove(KEY_VARIABLE)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Error::from_io("start a tool", e).with("tool", &self.name))?;
        if matches!(output.status.code(), Some(124 | 137)) {
            return Err(Error::new(ErrorKind::Timeout, "run a tool", "it did not end in time and was stopped")
                .with("tool", &self.name)
                .with("seconds", TOOL_TIME.as_secs()));
        }
        Ok(output)
    }

    /// As [`run`](Tool::run), but an exit status other than 0 is an error that carries the tool's last words.
    pub fn succeed<S: AsRef<OsStr>>(&self, folder: &Path, args: impl IntoIterator<Item = S>) -> Result<Output> {
        let output = self.run(folder, args)?;
        if output.status.success() { Ok(output) } else { Err(self.failure(&output)) }
    }

    /// The error for a run that went wrong.
    #[must_use]
    pub fn failure(&self, output: &Output) -> Error {
        let said = last_line(&output.stderr).or_else(|| last_line(&output.stdout)).unwrap_or_else(|| "it said nothing".to_owned());
        let kind = if said.contains("No space left") { ErrorKind::NoSpace } else { ErrorKind::Io };
        Error::new(kind, "run a tool", format!("it failed ({}): {said}", output.status)).with("tool", &self.name)
    }
}

/// The last line that is not empty.
#[must_use]
pub fn last_line(text: &[u8]) -> Option<String> {
    String::from_utf8_lossy(text).lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_names_itself_and_its_package() {
        let error = Tool::find("no-such-program-here", "no-such-package").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MissingTool);
        assert!(error.to_string().contains("no-such-program-here") && error.to_string().contains("no-such-package"), "{error}");
    }

    #[test]
    fn a_failing_tool_is_quoted() {
        let ls = Tool::find("ls", "coreutils").unwrap();
        let error = ls.succeed(Path::new("/"), ["/no/such/path"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("/no/such/path"), "{error}");
        assert!(ls.succeed(Path::new("/"), ["/"]).is_ok());
    }
}
