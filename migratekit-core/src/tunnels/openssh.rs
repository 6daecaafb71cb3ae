//! OpenSSH in the place of our server: what its configuration must say, no less and no more.
//!
//! Two texts: a `Match User` block for `sshd_config`, and a line of `authorized_keys` for each VMA. Either alone already confines: the
//! line says what this one key may do, the block what anybody may who comes by the user's name.
//!
//! What is easily done wrong, and is not here:
//!
//! - `AllowTcpForwarding remote` permits `-R` only; streams to the NBD port need `yes`, held in by `PermitOpen` and `PermitListen`.
//! - `restrict` in the line takes forwarding away too; it comes back by `port-forwarding`, for the ports named.
//! - a user with a shell: `MaxSessions 0` gives no session at all, and behind it stands a command that does nothing.
//!
//! OpenSSH does not know VMAs: whoever may open the NBD port sees what is served there. Exports that belong to one VMA each, and
//! revocation that cuts, are our server's.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::limits::FIRST_REVERSE_PORT;
use super::{API_PORT, NBD_PORT, PublicKey, USER};
use crate::error::{Error, ErrorKind, Result};

/// The command in place of every other; it runs nothing, on any system.
const NOTHING: &str = "/bin/false";

/// What an OpenSSH server is to permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshdConfig {
    /// By which name VMAs log in.
    pub user: String,
    /// The ports of the loopback that they may reach.
    pub open: Vec<u16>,
    /// The file of keys that sshd reads for this user; `None`: where it looks by itself.
    pub authorized_keys: Option<PathBuf>,
    /// The VMAs.
    pub vmas: Vec<SshdVma>,
}

/// One VMA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshdVma {
    /// Its key.
    pub key: PublicKey,
    /// The remark behind it.
    pub name: String,
    /// The port of the loopback at which it may listen.
    pub listen: u16,
}

impl Default for SshdConfig {
    /// The user and the ports of our own server; no VMA yet, room for the first.
    fn default() -> Self {
        SshdConfig { user: USER.to_owned(), open: vec![NBD_PORT, API_PORT], authorized_keys: None, vmas: Vec::new() }
    }
}

impl SshdConfig {
    /// The block for `sshd_config`; it belongs at the end of the file, or into a file of its own that is included.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a user, a file or a list of ports that cannot stand there.
    pub fn block(&self) -> Result<String> {
        let user = plain("user", &self.user)?;
        if user.is_empty() || user.contains(['*', '?', '!', ',']) || user.starts_with('-') {
            return Err(refuse("a pattern of users would let others in").with("user", &self.user));
        }
        let listen: Vec<u16> = match self.vmas.as_slice() {
            [] => vec![FIRST_REVERSE_PORT],
            vmas => vmas.iter().map(|vma| vma.listen).collect(),
        };
        let mut text = format!(
            "# VMAs come in by this user and reach what is named here, nothing else. Place it behind everything that is not in a Match\n\
             # block, and before other Match blocks that name this user. The user needs no shell:\n\
             #   useradd --system --shell /usr/sbin/nologin {user}\n\
             Match User {user}\n"
        );
        let mut say = |key: &str, value: &str| {
            let _ = writeln!(text, "    {key} {value}");
        };
        say("AuthenticationMethods", "publickey");
        say("PubkeyAuthentication", "yes");
        say("PubkeyAcceptedAlgorithms", "ssh-ed25519");
        say("TrustedUserCAKeys", "none");
        say("AuthorizedKeysCommand", "none");
        if let Some(path) = &self.authorized_keys {
            say("AuthorizedKeysFile", path_text(path)?);
        }
        for method in ["PasswordAuthentication", "KbdInteractiveAuthentication", "HostbasedAuthentication", "GSSAPIAuthentication"] {
            say(method, "no");
        }
        say("AllowTcpForwarding", "yes");
        say("PermitOpen", &ports(&self.open)?);
        say("PermitListen", &ports(&listen)?);
        for other in ["GatewayPorts", "AllowStreamLocalForwarding", "AllowAgentForwarding", "X11Forwarding", "PermitTunnel", "PermitTTY"] {
            say(other, "no");
        }
        say("PermitUserRC", "no");
        say("MaxSessions", "0");
        say("ForceCommand", NOTHING);
        say("ClientAliveInterval", "30");
        say("ClientAliveCountMax", "3");
        text.push_str("Match all\n");
        Ok(text)
    }

    /// The line of `authorized_keys` for one VMA.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a name or ports that cannot stand there.
    pub fn key_line(&self, vma: &SshdVma) -> Result<String> {
        if vma.name.chars().any(char::is_control) {
            return Err(refuse("the name of a VMA holds a control character").with("name", &vma.name));
        }
        let mut line = format!("restrict,port-forwarding,command=\"{NOTHING}\"");
        checked(&self.open)?;
        checked(&[vma.listen])?;
        for port in &self.open {
            let _ = write!(line, ",permitopen=\"127.0.0.1:{port}\"");
        }
        let _ = write!(line, ",permitlisten=\"127.0.0.1:{}\" {} {}", vma.listen, vma.key, vma.name);
        Ok(line.trim_end().to_owned())
    }
}

fn refuse(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, "write sshd's configuration", message)
}

/// A word that stands alone in sshd's configuration.
fn plain<'a>(what: &'static str, text: &'a str) -> Result<&'a str> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\' | '#')) {
        return Err(refuse("it holds a blank or a sign that sshd reads otherwise").with(what, text));
    }
    Ok(text)
}

fn path_text(path: &Path) -> Result<&str> {
    let text = path.to_str().ok_or_else(|| refuse("the path is not UTF-8").with("path", path.display()))?;
    if !path.is_absolute() {
        return Err(refuse("give the whole path: sshd takes another from the user's home").with("path", path.display()));
    }
    plain("path", text)
}

fn checked(ports: &[u16]) -> Result<()> {
    if ports.is_empty() {
        return Err(refuse("no port is named; sshd would permit all of them"));
    }
    if ports.contains(&0) {
        return Err(refuse("port 0 is any port"));
    }
    Ok(())
}

fn ports(ports: &[u16]) -> Result<String> {
    checked(ports)?;
    Ok(ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnels::PrivateKey;

    fn vma(listen: u16) -> SshdVma {
        SshdVma { key: PrivateKey::generate().unwrap().public(), name: "site one".to_owned(), listen }
    }

    #[test]
    fn the_block_permits_both_directions_and_names_every_port() {
        let mut config = SshdConfig { authorized_keys: Some("/etc/ssh/vma.keys".into()), ..SshdConfig::default() };
        let block = config.block().unwrap();
        let lines: Vec<&str> = block.lines().map(str::trim).collect();
        for line in [
            "Match User vma_tunnel",
            "AllowTcpForwarding yes",
            "PermitOpen 127.0.0.1:10809 127.0.0.1:8082",
            "PermitListen 127.0.0.1:9081",
            "AuthorizedKeysFile /etc/ssh/vma.keys",
            "MaxSessions 0",
            "PasswordAuthentication no",
        ] {
            assert!(lines.contains(&line), "{line}: {block}");
        }
        config.vmas = vec![vma(9081), vma(9082)];
        assert!(config.block().unwrap().contains("PermitListen 127.0.0.1:9081 127.0.0.1:9082\n"));
    }

    #[test]
    fn the_line_gives_forwarding_back_for_its_ports_only() {
        let config = SshdConfig::default();
        let vma = vma(9083);
        let expected = format!(
            "restrict,port-forwarding,command=\"/bin/false\",permitopen=\"127.0.0.1:10809\",permitopen=\"127.0.0.1:8082\",\
             permitlisten=\"127.0.0.1:9083\" {} site one",
            vma.key
        );
        assert_eq!(config.key_line(&vma).unwrap(), expected);
    }

    #[test]
    fn what_would_permit_more_is_refused() {
        let ok = SshdConfig::default;
        let user = |user: &str| SshdConfig { user: user.to_owned(), ..ok() };
        let file = |path: &str| SshdConfig { authorized_keys: Some(path.into()), ..ok() };
        for wrong in [
            user(""),
            user("*"),
            user("a,b"),
            user("!a"),
            user("a b"),
            user("a\nPermitOpen any"),
            user("\"a"),
            file("vma.keys"),
            file("/a b"),
            file("/a\n"),
            SshdConfig { open: Vec::new(), ..ok() },
            SshdConfig { open: vec![0], ..ok() },
            SshdConfig { vmas: vec![vma(0)], ..ok() },
        ] {
            assert_eq!(wrong.block().unwrap_err().kind(), ErrorKind::InvalidInput, "{wrong:?}");
        }
        let named = SshdVma { name: "a\nssh-ed25519 AAAA".to_owned(), ..vma(9081) };
        for (config, vma) in [(ok(), named), (ok(), vma(0)), (SshdConfig { open: Vec::new(), ..ok() }, vma(9081))] {
            assert_eq!(config.key_line(&vma).unwrap_err().kind(), ErrorKind::InvalidInput, "{vma:?}");
        }
    }
}
