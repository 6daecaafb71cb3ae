//! `machine.toml`: what a machine is.
//!
//! ```toml
//! name = "web-01"
//! uuid = "564d0e1c-0000-4000-8000-00000000a001"   # stays with the machine, and no other may have it
//! cpus = 2
//! memory = "2G"
//! os = "linux"              # linux | windows | other | unknown
//! firmware = "bios"         # bios | efi
//! power = "off"             # on | off | suspended
//!
//! [[disk]]
//! key = 2000                # as VMware's device key: stays with the disk
//! unit = 0                  # its place; by default in order
//! path = "system.img"       # raw; from the machine's folder
//!
//! [[network]]
//! name = "LAN"
//! mac = "00:50:56:00:00:01"
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{LocalSite, names_in};
use crate::error::{Error, ErrorKind, Result};
use crate::id::DiskKey;
use crate::model::{DiskSpec, OsFamily, PowerState, Provisioning};
use crate::platform::machine::{Firmware, Listed, Machine, MachineNetwork};
use crate::platform::names::{InstanceId, MachineRef};
use crate::units::{ByteSize, MAX_OFFSET};

/// The longest machine file, in bytes: a hundred times what one needs.
pub const MAX_MACHINE_FILE: u64 = 1024 * 1024;

/// The most disks of a machine; vSphere allows 256.
pub const MAX_DISKS: usize = 256;

/// The most machines a site may hold.
pub const MAX_MACHINES: usize = 10_000;

const DESCRIBE: &str = "describe a machine";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineFile {
    name: String,
    uuid: InstanceId,
    cpus: u32,
    memory: String,
    os: Option<OsFamily>,
    #[serde(default)]
    firmware: Firmware,
    power: PowerState,
    #[serde(default)]
    disk: Vec<DiskEntry>,
    #[serde(default)]
    network: Vec<NetworkEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskEntry {
    key: u32,
    unit: Option<u32>,
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkEntry {
    name: String,
    mac: Option<String>,
}

/// The folder of a machine.
pub(super) fn folder_of(site: &LocalSite, machine: &MachineRef) -> Result<PathBuf> {
    let name = machine.as_str();
    let refuse = |kind, text: &'static str| Err(Error::new(kind, "find a machine", text).with("machine", name));
    if name.contains('/') || name.starts_with('.') {
        return refuse(ErrorKind::InvalidInput, "a local machine is called by the name of its folder");
    }
    let folder = site.machines.join(name);
    match folder.is_dir() {
        true => Ok(folder),
        false => refuse(ErrorKind::NotFound, "the site has no folder of this name in `machines`"),
    }
}

/// Every machine of the site, and every folder that is none, singly.
pub(super) fn list(site: &LocalSite) -> Result<Vec<Listed>> {
    let names = names_in(&site.machines)?;
    if names.len() > MAX_MACHINES {
        return Err(Error::new(ErrorKind::Unsupported, "list machines", "a site may hold at most 10000").with("found", names.len()));
    }
    let mut listed: Vec<Listed> = names
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .map(|name| {
            let place = site.machines.join(&name).display().to_string();
            let machine = name.parse::<MachineRef>().and_then(|reference| describe(site, &reference)).map_err(|e| e.with("place", &place));
            Listed { place, machine }
        })
        .collect();
    refuse_twins(&mut listed);
    Ok(listed)
}

/// Two machines of one uuid: neither can be told from the other, so neither is given.
fn refuse_twins(listed: &mut [Listed]) {
    let mut places: BTreeMap<InstanceId, Vec<String>> = BTreeMap::new();
    for entry in listed.iter() {
        if let Ok(machine) = &entry.machine {
            places.entry(machine.instance.clone()).or_default().push(entry.place.clone());
        }
    }
    for entry in listed {
        let Ok(machine) = &entry.machine else { continue };
        let twin = places.get(&machine.instance).and_then(|all| all.iter().find(|place| **place != entry.place));
        if let Some(twin) = twin {
            entry.machine = Err(Error::new(ErrorKind::InvalidInput, DESCRIBE, "another machine of the site has the same uuid")
                .with("place", &entry.place)
                .with("other", twin)
                .with("uuid", &machine.instance));
        }
    }
}

/// The machine as it is now.
pub(super) fn describe(site: &LocalSite, reference: &MachineRef) -> Result<Machine> {
    let folder = folder_of(site, reference)?;
    let path = folder.join("machine.toml");
    let file = read(&path).map_err(|e| e.with("machine", reference).with("file", path.display()))?;
    build(reference, &folder, file).map_err(|e| e.with("machine", reference).with("file", path.display()))
}

fn read(path: &Path) -> Result<MachineFile> {
    let open = std::fs::File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, DESCRIBE, "its folder has no machine.toml"),
        _ => Error::from_io(DESCRIBE, e),
    })?;
    let mut text = String::new();
    let length = open.take(MAX_MACHINE_FILE + 1).read_to_string(&mut text).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => Error::new(ErrorKind::InvalidInput, DESCRIBE, "machine.toml is not text (UTF-8)"),
        _ => Error::from_io(DESCRIBE, e),
    })?;
    if length as u64 > MAX_MACHINE_FILE {
        return Err(Error::new(ErrorKind::InvalidInput, DESCRIBE, "machine.toml is longer than 1 MiB"));
    }
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |span| text.get(..span.start).unwrap_or("").lines().count().max(1));
        Error::new(ErrorKind::InvalidInput, DESCRIBE, "machine.toml cannot be understood").with("line", line).with("why", e.message())
    })
}

fn build(reference: &MachineRef, folder: &Path, file: MachineFile) -> Result<Machine> {
    let refuse = |text: &'static str| Error::new(ErrorKind::InvalidInput, DESCRIBE, text);
    if file.name.is_empty() || file.name.chars().any(char::is_control) {
        return Err(refuse("its name is empty, or holds control characters"));
    }
    if file.cpus == 0 {
        return Err(refuse("it has no processor"));
    }
    let memory = file.memory.parse::<ByteSize>()?;
    if memory.0 == 0 {
        return Err(refuse("it has no memory"));
    }
    if file.disk.len() > MAX_DISKS {
        return Err(refuse("it has more than 256 disks"));
    }
    for network in &file.network {
        if let Some(mac) = network.mac.as_ref().filter(|mac| !is_mac(mac)) {
            return Err(refuse("a network card's mac is not six pairs of hexadecimal digits").with("mac", mac));
        }
    }
    Ok(Machine {
        reference: reference.clone(),
        instance: file.uuid,
        name: file.name,
        path: folder.display().to_string(),
        cpus: file.cpus,
        memory_bytes: memory.0,
        os: file.os.unwrap_or(OsFamily::Unknown),
        firmware: file.firmware,
        power: file.power,
        disks: disks(folder, file.disk)?,
        networks: file.network.into_iter().map(|n| MachineNetwork { network: n.name, mac: n.mac.map(|m| m.to_lowercase()) }).collect(),
    })
}

fn is_mac(text: &str) -> bool {
    let mut pairs = 0;
    text.split(':').all(|pair| {
        pairs += 1;
        pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit())
    }) && pairs == 6
}

fn disks(folder: &Path, entries: Vec<DiskEntry>) -> Result<Vec<DiskSpec>> {
    let (mut keys, mut units, mut files) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut disks = Vec::new();
    for (number, entry) in entries.into_iter().enumerate() {
        let key = DiskKey::new(entry.key);
        let refuse = |text: &'static str| Err(Error::new(ErrorKind::InvalidInput, DESCRIBE, text).with("disk", key));
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let unit = entry.unit.unwrap_or(number);
        let path = folder.join(&entry.path);
        let capacity_bytes = size_of(&path).map_err(|e| e.with("disk", key).with("path", path.display()))?;
        if !keys.insert(key) {
            return refuse("two disks have the same key");
        }
        if !units.insert(unit) {
            return refuse("two disks have the same unit");
        }
        if !files.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
            return refuse("two disks are the same file");
        }
        let label = format!("Hard disk {}", number.saturating_add(1));
        disks.push(DiskSpec {
            key,
            path: path.display().to_string(),
            capacity_bytes,
            datastore: String::new(),
            unit_number: Some(unit),
            label,
            provisioning: Provisioning::Unknown,
            uuid: None,
        });
    }
    disks.sort_by_key(|d| d.key);
    Ok(disks)
}

/// The capacity of a raw disk; refuses what is none.
fn size_of(path: &Path) -> Result<u64> {
    let refuse = |kind, text: &'static str| Err(Error::new(kind, DESCRIBE, text));
    let metadata = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return refuse(ErrorKind::NotFound, "the file of a disk does not exist"),
        other => other.map_err(|e| Error::from_io(DESCRIBE, e))?,
    };
    let kind = metadata.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return refuse(ErrorKind::InvalidInput, "a disk is neither a file nor a block device");
    }
    let file = std::fs::File::open(path).map_err(|e| Error::from_io(DESCRIBE, e))?;
    let mut magic = [0; 4];
    if kind.is_file() && file.read_at(&mut magic, 0).is_ok_and(|n| n == magic.len()) && (magic == *b"QFI\xfb" || magic == *b"KDMV") {
        return refuse(ErrorKind::Unsupported, "a disk is a qcow2 or vmdk file; make it raw with `qemu-img convert -O raw`");
    }
    let size = match kind.is_file() {
        true => metadata.len(),
        false => rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|e| Error::from_io(DESCRIBE, e.into()))?,
    };
    match size {
        0 => refuse(ErrorKind::InvalidInput, "a disk is empty"),
        size if size > MAX_OFFSET => refuse(ErrorKind::InvalidInput, "a disk is larger than 2^63-1 bytes"),
        size => Ok(size),
    }
}
