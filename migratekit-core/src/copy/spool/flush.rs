//! Making a spool durable, sealing it, and believing it again.
//!
//! A flush makes the data durable, then writes the entries that speak of it, then makes those durable. So an entry with a digest is
//! never on the storage before its data, whatever a crash leaves of either; and when a flush returned, both are.

use std::sync::Arc;

use bytes::Bytes;

use super::core::{ABSENT, Core, DATA_KEPT, DATA_NEW, ZERO_KEPT};
use super::format::{self, ENTRY, Entry, FOOTER_AT, FOOTER_MAGIC, Footer, HEADER_AT, HEADER_MAGIC, Header, Layout, PAGE, TABLE_AT};
use super::{Inner, Spool};
use crate::block::{BlockRead, Persist};
use crate::copy::replica::Ends;
use crate::error::{Error, ErrorKind, Result};
use crate::planted::planted;
use crate::units::{ByteRange, MIB};

/// The table is read and hashed in pieces of this many bytes.
const TABLE_STEP: u64 = MIB;

impl Inner {
    /// Makes every completed request durable.
    pub(super) async fn flush(self: &Arc<Self>) -> Result<()> {
        let _turn = self.turn.lock().await;
        if self.is_sealed() {
            return Ok(());
        }
        if self.core().failed {
            return Err(Error::new(ErrorKind::Io, "flush a spool", "an earlier flush of it failed, so it must be opened again")
                .with("spool", &self.info.name));
        }
        let flushed = self.flush_turn().await;
        if flushed.is_err() {
            self.core().failed = true;
        }
        flushed.map_err(|e| e.with("spool", &self.info.name).with("point", &self.header.point))
    }

    async fn flush_turn(&self) -> Result<()> {
        let unread = self.core().begin_flush();
        for cluster in unread {
            let bytes = self.file.read(self.layout.data(self.layout.range_of(cluster))).await?;
            self.core().computed(cluster, self.seals.digest(cluster, &bytes));
        }
        if !planted("spool-record-before-flush") {
            self.file.flush().await?;
        }
        let (data, zeros) = self.core().flushed();
        if data.is_empty() && zeros.is_empty() {
            return Ok(());
        }
        self.write_entries(&data).await?;
        for (first, end) in &zeros {
            self.write_zero_entries(*first, *end).await?;
        }
        self.file.flush().await?;
        self.core().entered(&zeros);
        Ok(())
    }

    /// Entries of neighbours go out together.
    async fn write_entries(&self, entries: &[(u64, [u8; 32])]) -> Result<()> {
        for run in entries.chunk_by(|a, b| a.0 + 1 == b.0) {
            let Some((first, _)) = run.first() else { continue };
            let bytes: Vec<u8> = run.iter().flat_map(|(_, digest)| *digest).collect();
            self.file.write(self.layout.entry_at(*first), Bytes::from(bytes), Persist::Cached).await?;
        }
        Ok(())
    }

    async fn write_zero_entries(&self, first: u64, end: u64) -> Result<()> {
        let range = ByteRange::between(self.layout.entry_at(first), self.layout.entry_at(end));
        let count = usize::try_from(TABLE_STEP.min(range.length()) / ENTRY).unwrap_or(1);
        let marks = Bytes::from(self.seals.zero.repeat(count));
        for piece in range.pieces(TABLE_STEP) {
            let part = marks.slice(..usize::try_from(piece.length()).unwrap_or(0).min(marks.len()));
            self.file.write(piece.offset(), part, Persist::Cached).await?;
        }
        Ok(())
    }

    /// Takes no more requests, waits for those under way, makes all durable, and seals. Tells the ends of the volume as it will be.
    pub(super) async fn seal(self: Arc<Self>) -> Result<Ends> {
        if let Some(footer) = self.footer() {
            return Ends::from_hex(&footer.first, &footer.last);
        }
        self.core().closed = true;
        let _locks = self.lock_all().await;
        self.flush().await?;
        let ends = Ends::of(&Spool(Arc::clone(&self))).await?;
        let (data_clusters, zero_clusters) = self.core().counts();
        let table = hash_table(&*self.file, &self.layout, |_, _| Ok(())).await?;
        let (first, last) = ends.to_hex();
        let footer = Footer { id: self.header.id.clone(), data_clusters, zero_clusters, table: table.to_hex().to_string(), first, last };
        self.file.write(FOOTER_AT, Bytes::from(format::encode_page(FOOTER_MAGIC, &footer)?), Persist::Cached).await?;
        self.file.flush().await?;
        self.put_footer(footer);
        Ok(ends)
    }
}

/// Writes the header of a new spool into a file that reads as zero; durable when this returns.
pub(super) async fn write_header(file: &dyn crate::block::BlockWrite, header: &Header) -> Result<()> {
    file.write(HEADER_AT, Bytes::from(format::encode_page(HEADER_MAGIC, header)?), Persist::Cached).await?;
    file.flush().await
}

/// The header, and the footer if there is one. `None`: no spool is here.
pub(super) async fn read_pages(file: &dyn BlockRead) -> Result<Option<(Header, Option<Footer>)>> {
    if file.info().size < TABLE_AT {
        return Ok(None);
    }
    let header = file.read(ByteRange::between(HEADER_AT, HEADER_AT + PAGE)).await?;
    let footer = file.read(ByteRange::between(FOOTER_AT, FOOTER_AT + PAGE)).await?;
    let Some(header) = format::decode_page::<Header>(HEADER_MAGIC, &header) else { return Ok(None) };
    let fits = Layout::new(header.size);
    if header.version != format::VERSION || header.cluster_bits != fits.bits || file.info().size != fits.file_size() {
        return Ok(None);
    }
    let footer = format::decode_page::<Footer>(FOOTER_MAGIC, &footer).filter(|footer| footer.id == header.id);
    Ok(Some((header, footer)))
}

/// Reads the whole table: calls `each(cluster, entry)` for entries that are not zeros, and tells the digest of all. Holes are not read.
async fn hash_table(file: &dyn BlockRead, layout: &Layout, mut each: impl FnMut(u64, &[u8; 32]) -> Result<()>) -> Result<blake3::Hash> {
    let mut hash = blake3::Hasher::new();
    let table = ByteRange::between(layout.entry_at(0), layout.entry_at(layout.clusters()));
    let mut data = true;
    let mut known_until = table.offset();
    for piece in table.pieces(TABLE_STEP) {
        if piece.offset() >= known_until {
            // Asked once for many pieces: a table is mostly holes.
            let ahead = ByteRange::between(piece.offset(), table.end().min(piece.offset() + 64 * TABLE_STEP));
            let extents = file.extents(ahead).await?;
            data = extents.iter().any(|e| !e.kind.reads_zero());
            known_until = if data { piece.end() } else { ahead.end() };
        }
        if !data {
            continue;
        }
        let bytes = file.read(piece).await?;
        let mut any = false;
        for (entry, cluster) in bytes.as_chunks::<32>().0.iter().zip((piece.offset() - TABLE_AT) / ENTRY..) {
            if *entry != [0; 32] {
                any = true;
                each(cluster, entry)?;
            }
        }
        if any {
            hash.update(&piece.offset().to_le_bytes());
            hash.update(&bytes);
        }
    }
    Ok(hash.finalize())
}

/// What the table says, as states. With a footer all of it is checked: nothing may be open, and digest and counts must be right.
pub(super) async fn load(file: &dyn BlockRead, layout: &Layout, seals: &format::Seals, footer: Option<&Footer>) -> Result<Option<Core>> {
    let mut core = Core::new(layout.clusters());
    let mut run = (0, 0, ABSENT);
    let mut open = false;
    let table = hash_table(file, layout, |cluster, entry| {
        let state = match seals.read(entry) {
            Entry::Absent => ABSENT,
            Entry::Zero => ZERO_KEPT,
            Entry::Open => DATA_NEW,
            Entry::Data(_) => DATA_KEPT,
        };
        open |= state == DATA_NEW;
        if (run.1, run.2) == (cluster, state) {
            run.1 += 1;
        } else {
            core.load(run.0, run.1, run.2);
            run = (cluster, cluster + 1, state);
        }
        Ok(())
    })
    .await?;
    core.load(run.0, run.1, run.2);
    if let Some(footer) = footer {
        let counts = (footer.data_clusters, footer.zero_clusters);
        if open || core.counts() != counts || table.to_hex().as_str() != footer.table {
            return Ok(None);
        }
        core.closed = true;
    }
    Ok(Some(core))
}
