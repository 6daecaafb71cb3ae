//! The disk of the demo: a real image with a real file system, made, changed and read by programs that are not ours.
//!
//! The story is told by `migratekit demo`; here is what it acts upon. [`image`] makes the disk (or takes a copy of the user's),
//! changes files in it, and reads them back from the replica; [`partition`] finds the file system on a disk.
//! No root, no mount: only `mkfs.ext4`, `debugfs` and `e2fsck`, which every Debian and Ubuntu has (package e2fsprogs).

pub mod image;
pub mod partition;
