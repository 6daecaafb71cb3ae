//! The demo's disk: made or taken, changed, and read back from a replica.
//!
//! ```text
//! make / take -> Disk        files on it: changed.bin and deleted.txt in /migratekit-demo (made disks: more around them)
//! change      -> Disk        planted.txt appears, changed.bin has other bytes, deleted.txt is gone
//! check(replica)             e2fsck finds the replica clean; debugfs reads the files from it; all of them are right
//! ```
//!
//! A user's disk is only ever read: the demo works on a sparse copy. Where no ext2/3/4 file system is found (or e2fsprogs is
//! missing), blocks of bytes are changed instead of files, and the replica is compared byte by byte with `cmp`;
//! [`Disk::not_shown`] says so. All functions block: call them from a thread that may wait.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use migratekit_core::units::{ByteRange, KIB, MIB};
use migratekit_core::{Error, ErrorKind, Result};

use super::partition;
use crate::tool::{Tool, last_line};

/// The size of the disk the demo makes, in bytes.
pub const SIZE: u64 = 512 * MIB;
/// The smallest disk [`make`] accepts, in bytes.
pub const MIN_SIZE: u64 = 64 * MIB;
/// The package of every file system tool used here.
const PACKAGE: &str = "e2fsprogs";
/// The folder of our files on the disk.
const FOLDER: &str = "migratekit-demo";
/// Blocks changed on a disk without a file system, and the bytes of each.
const BLOCKS: (u64, u64) = (16, 64 * KIB);
/// Marks of image formats that are not raw, with their names.
const OTHER_FORMATS: [(&[u8], &str); 4] = [(b"QFI\xfb", "qcow2"), (b"KDMV", "vmdk"), (b"vhdxfile", "vhdx"), (b"<<< ", "vdi")];

/// A disk of the demo.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The raw image, in the demo's own folder.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Where its ext file system lies; `None`: bytes are changed instead of files.
    pub file_system: Option<ByteRange>,
    /// Why files are not shown, with the next step.
    pub not_shown: Option<String>,
    work: PathBuf,
}

/// What [`change`] did, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Files of the file system.
    Files {
        /// The new file.
        planted: String,
        /// The file with other bytes.
        changed: String,
        /// The file that is gone.
        deleted: String,
    },
    /// Blocks of bytes.
    Blocks {
        /// How many.
        count: u64,
        /// The bytes of each.
        bytes: u64,
    },
}

/// What [`check`] found on a replica that is right. A wrong one is an error of kind [`ErrorKind::Mismatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The programs that looked, none of them ours.
    pub tools: Vec<String>,
    /// What they found, a line each.
    pub found: Vec<String>,
}

/// Makes a disk of `size` bytes (at least [`MIN_SIZE`]) in `work`: a partition table, and an ext4 with a few hundred files.
///
/// Without e2fsprogs the disk holds bytes only, and [`Disk::not_shown`] says what to install.
pub fn make(work: &Path, size: u64) -> Result<Disk> {
    if size < MIN_SIZE || !size.is_multiple_of(MIB) {
        return Err(
            Error::new(ErrorKind::InvalidInput, "make the demo's disk", "its size must be whole MiB, 64 MiB or more").with("size", size)
        );
    }
    let work = folder(work)?;
    let path = work.join("disk.img");
    let image = File::create(&path).map_err(|e| Error::from_io("make the demo's disk", e).with("path", path.display()))?;
    let written = image.set_len(size).and_then(|()| image.write_all_at(&partition::table(size), 0));
    written.map_err(|e| Error::from_io("write the demo's disk", e).with("path", path.display()))?;
    let mkfs = match tools() {
        Ok(()) => Tool::find("mkfs.ext4", PACKAGE)?,
        Err(missing) => return bytes_only(Disk { path, size, file_system: None, not_shown: Some(missing.to_string()), work }),
    };
    let tree = work.join("tree");
    plant_tree(&tree, size / 4)?;
    let range = ByteRange::between(partition::FIRST, size);
    let offset = format!("offset={}", range.offset());
    let length = format!("{}k", range.length() / KIB);
    mkfs.succeed(&work, ["-q", "-F", "-L", "demo", "-E", &offset, "-d", "tree", "disk.img", &length])?;
    remove(&tree)?;
    Ok(Disk { path, size, file_system: Some(range), not_shown: None, work })
}

/// Takes a user's raw disk image or block device: a sparse copy of it in `work`, with two small files of ours in its file system.
/// The original is only read.
pub fn take(original: &Path, work: &Path) -> Result<Disk> {
    let work = folder(work)?;
    let original = fs::canonicalize(original).map_err(|e| Error::from_io("open the given disk", e).with("path", original.display()))?;
    refuse_other_formats(&original)?;
    let path = work.join("disk.img");
    let copy = ["--sparse=always".as_ref(), "--reflink=auto".as_ref(), "--".as_ref(), original.as_os_str(), path.as_os_str()];
    Tool::find("cp", "coreutils")?.succeed(&work, copy)?;
    let image = open(&path)?;
    let size = image.metadata().map_err(|e| Error::from_io("look at the copied disk", e).with("path", path.display()))?.len();
    let range = partition::find_ext(&image, size)?;
    let mut disk = Disk { path, size, file_system: None, not_shown: None, work };
    match (range, tools()) {
        (_, Err(missing)) => disk.not_shown = Some(missing.to_string()),
        (None, _) => disk.not_shown = Some("no ext2, ext3 or ext4 file system was found on this disk".to_owned()),
        (Some(range), Ok(())) => {
            disk.file_system = Some(range);
            // The system that used the disk may have left it in the middle of something: replay its journal, mend what is wrong.
            let mended = Tool::find("e2fsck", PACKAGE)?.run(&disk.work, ["-f", "-y", &disk.target(&disk.path)?])?;
            if !matches!(mended.status.code(), Some(0..=3)) {
                return Err(Tool::find("e2fsck", PACKAGE)?.failure(&mended).with("path", disk.path.display()));
            }
            disk.plant(&[("changed.bin", Some(before())), ("deleted.txt", Some(doomed()))], true)?;
        }
    }
    Ok(disk)
}

/// Plants a file, changes one and deletes one; on a disk without a file system changes blocks of bytes.
pub fn change(disk: &Disk) -> Result<Change> {
    if disk.file_system.is_none() {
        let (count, bytes) = BLOCKS;
        let image = File::options().write(true).open(&disk.path);
        let image = image.map_err(|e| Error::from_io("open the demo's disk", e).with("path", disk.path.display()))?;
        for i in 0..count {
            let at = disk.size.saturating_sub(bytes) / count * i / (4 * KIB) * (4 * KIB);
            let block = noise(1000 + i, bytes.min(disk.size));
            image.write_all_at(&block, at).map_err(|e| Error::from_io("change the demo's disk", e).with("offset", at))?;
        }
        return Ok(Change::Blocks { count, bytes });
    }
    disk.plant(&[("planted.txt", Some(planted())), ("changed.bin", Some(after())), ("deleted.txt", None)], false)?;
    let name = |file: &str| format!("/{FOLDER}/{file}");
    Ok(Change::Files { planted: name("planted.txt"), changed: name("changed.bin"), deleted: name("deleted.txt") })
}

/// Reads the replica after [`change`] by programs that are not ours; anything not exactly right is [`ErrorKind::Mismatch`].
pub fn check(replica: &Path, disk: &Disk) -> Result<Checked> {
    let replica = fs::canonicalize(replica).map_err(|e| Error::from_io("open the replica", e).with("path", replica.display()))?;
    if disk.file_system.is_none() {
        let out = Tool::find("cmp", "diffutils")?.run(&disk.work, [disk.path.as_os_str(), replica.as_os_str()])?;
        return match out.status.code() {
            Some(0) => Ok(Checked { tools: vec!["cmp".to_owned()], found: vec![format!("all {} bytes are equal", disk.size)] }),
            _ => Err(wrong(&replica, last_line(&out.stdout).or_else(|| last_line(&out.stderr)).unwrap_or_default())),
        };
    }
    let target = disk.target(&replica)?;
    let fsck = Tool::find("e2fsck", PACKAGE)?.run(&disk.work, ["-f", "-n", &target])?;
    if !fsck.status.success() {
        return Err(wrong(&replica, format!("e2fsck -n does not find it clean: {}", last_line(&fsck.stdout).unwrap_or_default())));
    }
    let mut found = vec!["the file system is clean".to_owned()];
    let debugfs = Tool::find("debugfs", PACKAGE)?;
    for (file, right, words) in [("planted.txt", planted(), "is there, as planted"), ("changed.bin", after(), "has its new bytes")] {
        let dumped = disk.work.join("dumped");
        remove(&dumped)?;
        debugfs.succeed(&disk.work, ["-R", &format!("dump /{FOLDER}/{file} dumped"), &target])?;
        match fs::read(&dumped) {
            Ok(bytes) if bytes == right => found.push(format!("/{FOLDER}/{file} {words} ({} bytes)", right.len())),
            Ok(_) => return Err(wrong(&replica, format!("/{FOLDER}/{file} has other bytes"))),
            Err(_) => return Err(wrong(&replica, format!("/{FOLDER}/{file} is not there"))),
        }
        remove(&dumped)?;
    }
    let stat = debugfs.succeed(&disk.work, ["-R", &format!("stat /{FOLDER}/deleted.txt"), &target])?;
    if !String::from_utf8_lossy(&stat.stderr).contains("File not found") {
        return Err(wrong(&replica, format!("/{FOLDER}/deleted.txt is still there")));
    }
    found.push(format!("/{FOLDER}/deleted.txt is gone"));
    Ok(Checked { tools: vec!["e2fsck".to_owned(), "debugfs".to_owned()], found })
}

impl Disk {
    /// What the tools of e2fsprogs open: the image, and where the file system lies in it.
    fn target(&self, image: &Path) -> Result<String> {
        let offset = self.file_system.map_or(0, ByteRange::offset);
        match image.to_str() {
            Some(path) if !path.contains('?') => Ok(format!("{path}?offset={offset}")),
            _ => Err(Error::new(ErrorKind::InvalidInput, "open a file system", "its path must be plain text without a question mark")
                .with("path", image.display())),
        }
    }

    /// Writes (or, for `None`, removes) files of our folder by `debugfs`, and reads them back: debugfs ends well whatever happened.
    fn plant(&self, files: &[(&str, Option<Vec<u8>>)], make_folder: bool) -> Result<()> {
        let mut script = if make_folder { format!("mkdir /{FOLDER}\n") } else { String::new() };
        for (file, bytes) in files {
            // A file written anew first goes away, as `write` refuses one that exists; for a new one this only fails.
            script += &format!("rm /{FOLDER}/{file}\n");
            if let Some(bytes) = bytes {
                write(&self.work.join(file), bytes)?;
                script += &format!("write {file} /{FOLDER}/{file}\n");
            }
        }
        write(&self.work.join("script"), script.as_bytes())?;
        let (debugfs, target) = (Tool::find("debugfs", PACKAGE)?, self.target(&self.path)?);
        let said = debugfs.succeed(&self.work, ["-w", "-f", "script", &target])?;
        remove(&self.work.join("script"))?;
        for (file, bytes) in files {
            remove(&self.work.join(file))?;
            let Some(bytes) = bytes else { continue };
            let read = debugfs.succeed(&self.work, ["-R", &format!("cat /{FOLDER}/{file}"), &target])?;
            if read.stdout != *bytes {
                let why = last_line(&said.stderr).unwrap_or_default();
                return Err(Error::new(ErrorKind::Io, "write a file on the demo's disk", format!("debugfs did not write it: {why}"))
                    .with("file", file)
                    .with("path", self.path.display()));
            }
        }
        Ok(())
    }
}

/// Whether all tools of e2fsprogs are there.
fn tools() -> Result<()> {
    ["mkfs.ext4", "debugfs", "e2fsck"].into_iter().try_for_each(|name| Tool::find(name, PACKAGE).map(drop))
}

/// A disk that cannot have a file system gets bytes in its first quarter.
fn bytes_only(disk: Disk) -> Result<Disk> {
    let image = File::options().write(true).open(&disk.path);
    let image = image.map_err(|e| Error::from_io("open the demo's disk", e).with("path", disk.path.display()))?;
    for at in (partition::FIRST..disk.size / 4).step_by(usize::try_from(MIB).unwrap_or(usize::MAX)) {
        image.write_all_at(&noise(at, MIB), at).map_err(|e| Error::from_io("fill the demo's disk", e).with("offset", at))?;
    }
    Ok(disk)
}

/// The files of a made disk, about `bytes` of them: letters that compress, pictures that do not, and the two of the story.
fn plant_tree(tree: &Path, bytes: u64) -> Result<()> {
    for part in [FOLDER, "letters", "pictures"] {
        let path = tree.join(part);
        fs::create_dir_all(&path).map_err(|e| Error::from_io("make the demo's files", e).with("path", path.display()))?;
    }
    write(&tree.join(FOLDER).join("changed.bin"), &before())?;
    write(&tree.join(FOLDER).join("deleted.txt"), &doomed())?;
    for i in 0..bytes / (2 * MIB) {
        write(&tree.join(format!("pictures/{i:03}.raw")), &noise(i, MIB))?;
        let letter = format!("Letter {i}: all is well, and nothing was lost.\n");
        write(&tree.join(format!("letters/{i:03}.txt")), letter.repeat(usize::try_from(MIB).unwrap_or(0) / letter.len()).as_bytes())?;
    }
    Ok(())
}

fn before() -> Vec<u8> {
    noise(1, MIB)
}

fn after() -> Vec<u8> {
    noise(2, MIB)
}

fn doomed() -> Vec<u8> {
    b"This file is deleted between the passes.\n".repeat(500)
}

fn planted() -> Vec<u8> {
    b"This file was planted between the passes.\n".repeat(1000)
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(usize::try_from(length).unwrap_or(0));
    bytes
}

fn refuse_other_formats(path: &Path) -> Result<()> {
    let mut head = Vec::new();
    let mut file = open(path)?;
    (&file).take(8).read_to_end(&mut head).map_err(|e| Error::from_io("read the given disk", e).with("path", path.display()))?;
    let length = file.seek(SeekFrom::End(0)).map_err(|e| Error::from_io("measure the given disk", e).with("path", path.display()))?;
    let refused = |why: String| Err(Error::new(ErrorKind::InvalidInput, "use the given disk", why).with("path", path.display()));
    if let Some((_, format)) = OTHER_FORMATS.iter().find(|(mark, _)| head.starts_with(mark)) {
        return refused(format!("it is a {format} image, and the demo changes raw ones; make one: qemu-img convert -O raw"));
    }
    if length < MIB {
        return refused(format!("it has {length} bytes, and the demo wants 1 MiB at least"));
    }
    Ok(())
}

fn folder(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(path)
        .and_then(|()| fs::canonicalize(path))
        .map_err(|e| Error::from_io("make the demo's folder", e).with("path", path.display()))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::from_io("open a disk", e).with("path", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = File::create(path).and_then(|mut file| file.write_all(bytes));
    file.map_err(|e| Error::from_io("write a file of the demo", e).with("path", path.display()))
}

/// Removes a file or a folder of the demo's own; what is not there is fine.
fn remove(path: &Path) -> Result<()> {
    let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match gone {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::from_io("tidy up after the demo", e).with("path", path.display())),
        _ => Ok(()),
    }
}

fn wrong(replica: &Path, what: String) -> Error {
    Error::new(ErrorKind::Mismatch, "find the demo's changes on the replica", what).with("replica", replica.display())
}
