//! Every bound of enrollment, by name, with unit and reason. `migratekit vma limits` prints them.

use std::time::Duration;

/// How long a pairing code holds: to be read out and typed on the other side, and no longer.
pub const CODE_TIME: Duration = Duration::from_secs(600);
/// Pairing codes that hold at once. Each is tried against a request, and each more helps who guesses.
pub const MAX_LIVE_CODES: usize = 32;
/// From the request to the approval; the VMA asks as long.
pub const ENROLLMENT_TIME: Duration = Duration::from_secs(1800);
/// How often the VMA asks what became of it.
pub const RESULT_PAUSE: Duration = Duration::from_secs(30);
/// The time in which wrong codes are counted.
pub const GUESS_TIME: Duration = Duration::from_secs(600);
/// Wrong codes of one address in [`GUESS_TIME`]; a person who mistypes needs two or three.
pub const MAX_GUESSES_PER_SOURCE: usize = 5;
/// Wrong codes of all addresses in [`GUESS_TIME`] above which each address has [`FEW_GUESSES`] only; and lines of the audit about them in that
/// time.
pub const MAX_GUESSES: usize = 200;
/// Wrong codes that an address has however many came from others, so that nobody can keep honest people out: enough to mistype. A million
/// tries in the ten minutes of a code find one of 2^60 once in 10^12 times.
pub const FEW_GUESSES: usize = 3;
/// Wrong codes that are remembered; of more the oldest are forgotten.
pub const MAX_GUESSES_KEPT: usize = 4096;
/// New keys that a trusted VMA may ask for in [`GUESS_TIME`]; each takes the place of the one that was asked for before.
pub const MAX_ROTATIONS_PER_VMA: usize = 5;
/// Enrollments by a code that wait for their proof or for an administrator; further ones are refused.
pub const MAX_WAITING: usize = 256;
/// The longest name of a VMA, in bytes.
pub const MAX_NAME: usize = 64;
/// The longest version of a VMA, in bytes.
pub const MAX_VERSION: usize = 64;
/// Ports for the way back, from [`crate::tunnels::limits::FIRST_REVERSE_PORT`] up: as many VMAs may be trusted at once.
pub const MAX_REVERSE_PORTS: u16 = 919;
/// The memory of Argon2id, in KiB; with the passes what OWASP advises, some 30 ms on both sides.
pub const STRETCH_MEMORY: u32 = 19 * 1024;
/// The passes of Argon2id.
pub const STRETCH_PASSES: u32 = 2;
/// Between two looks of the serving process for what is left to do of revocations: well below the second in which they act.
pub const TEND_PAUSE: Duration = Duration::from_millis(400);
/// Revocations whose second half is under way at a time; further ones, whose connections are cut too, wait for a later look.
pub const MAX_FINISHING: usize = 256;
/// How long the second half of one waits for the streams to end before that is said in the log, and begun anew.
pub const FINISH_TIME: Duration = Duration::from_secs(60);
/// How long a revocation by another process waits until the one that serves has cut the connections: some looks and a write.
pub const REVOKE_TIME: Duration = Duration::from_secs(5);
/// So many times as long for one that is known to serve: its disks may be slow, and what it writes is waited for.
pub const SERVED_TIMES: u32 = 6;
/// Between two signs of the process that serves.
pub const SIGN_PAUSE: Duration = Duration::from_secs(5);
/// For how long a sign holds: some signs and a catalog that was busy.
pub const SERVED_TIME: Duration = Duration::from_secs(30);
/// For the last sign, when it ends.
pub const LAST_SIGN: Duration = Duration::from_secs(2);
/// From a new key's coming in to the old one's being out: some looks and a write.
pub const ROTATE_TIME: Duration = Duration::from_secs(30);
/// A request of the VMA: connection, TLS and answer.
pub const REQUEST_TIME: Duration = Duration::from_secs(20);
/// The longest answer a VMA reads, in bytes.
pub const MAX_ANSWER: usize = 16 * 1024;

/// Names, values and units of all of them, for people.
#[must_use]
pub fn all() -> Vec<(&'static str, u64, &'static str)> {
    vec![
        ("code_time", CODE_TIME.as_secs(), "s"),
        ("live_codes", MAX_LIVE_CODES as u64, ""),
        ("enrollment_time", ENROLLMENT_TIME.as_secs(), "s"),
        ("result_pause", RESULT_PAUSE.as_secs(), "s"),
        ("guess_time", GUESS_TIME.as_secs(), "s"),
        ("guesses_per_source", MAX_GUESSES_PER_SOURCE as u64, ""),
        ("guesses", MAX_GUESSES as u64, ""),
        ("guesses_always", FEW_GUESSES as u64, ""),
        ("rotations_per_vma", MAX_ROTATIONS_PER_VMA as u64, ""),
        ("waiting_enrollments", MAX_WAITING as u64, ""),
        ("reverse_ports", u64::from(MAX_REVERSE_PORTS), ""),
        ("stretch_memory", u64::from(STRETCH_MEMORY), "KiB"),
        ("stretch_passes", u64::from(STRETCH_PASSES), ""),
        ("revoke_time", REVOKE_TIME.as_secs(), "s"),
    ]
}
