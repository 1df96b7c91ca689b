//! Opening the log: every byte is verified, and only a tail that was never acknowledged may go.
//!
//! The writer syncs each frame before it writes the next, so at most the very last frame was not acknowledged. What
//! damage can be told from a torn tail:
//! - a damaged frame in any but the last segment, or with a later frame behind it: always;
//! - a missing or truncated segment: always, from the sequence numbers in its successor's header and from the number
//!   of the oldest needed segment in every frame;
//! - a truncated or damaged end of the last segment: from the mark, which is written after every sync, survives the
//!   death of the process at once, and is on the disk at the kernel's next writeback (and at every clean close).
//!
//! What cannot be told: damage to the last frame alone, when the power went before the mark reached the disk.

use std::{collections::VecDeque, io, sync::Arc};

use super::{
    super::Error,
    disk::{Disk, DiskFile},
    frame::{ALIGNMENT, Identity, MARK_BYTES, Mark, Record, SEGMENT_HEADER_BYTES, SegmentHeader},
    log::{self, Extent, Log, MARK_NAME, SPARE_NAME, Segment, segment_name, segment_number},
    scan::{Scan, Step, later_frame},
};

/// The first revision: that of the empty store, as in etcd.
const REVISION_FIRST: u64 = 1;

/// Opens or creates the log. `apply` gets every record in order, with its segment and its offset in it.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    fresh_identity: Identity,
    mut apply: impl FnMut(&Record<'_>, &Arc<Segment>, u32),
) -> Result<Log, Error> {
    let names = disk.list().map_err(|e| Error::io("list", disk.path(""), e))?;
    if names.iter().any(|n| n == SPARE_NAME) {
        disk.remove(SPARE_NAME).map_err(|e| Error::io("remove", disk.path(SPARE_NAME), e))?;
    }
    let mark = read_mark(&*disk, &names)?;
    let mut segments = open_segments(&*disk, &names)?;
    let marked = names.iter().any(|n| n == MARK_NAME);
    remove_unborn(&*disk, &mut segments, marked)?;

    let Some(last) = segments.back().cloned() else {
        return create(disk, names, marked, segment_bytes, fresh_identity);
    };
    let Some(first) = run_start(&segments) else {
        return Err(corrupt(&last.segment, "no segment to start from"));
    };
    let first_header = read_header(&segments[first])?.ok_or_else(|| bad_header(&segments[first].segment))?;
    let identity = first_header.identity;
    if let Some(mark) = mark.filter(|m| m.identity != identity) {
        let what = format!(
            "it belongs to another store than {} (revision {})",
            last.segment.path.display(),
            mark.revision
        );
        return Err(Error::Corrupt { path: disk.path(MARK_NAME), what });
    }

    let mut sequence = first_header.first_sequence;
    let mut revision = 0;
    let mut oldest = 0;
    let mut last_frame = None;
    let mut active_bytes = ALIGNMENT;
    for extent in segments.iter().skip(first) {
        let segment = &extent.segment;
        let is_last = segment.number == last.segment.number;
        let header = read_header(extent)?.ok_or_else(|| bad_header(segment))?;
        if header.number != segment.number || header.identity != identity {
            return Err(corrupt(segment, "it belongs to another place or another store"));
        }
        if header.first_sequence != sequence {
            let what = format!(
                "it continues from write {}, but its predecessor ends before write {sequence}: writes are missing",
                header.first_sequence
            );
            return Err(corrupt(segment, &what));
        }
        let mut scan = Scan::new(segment, identity, extent.bytes, 0);
        loop {
            match scan.step(Some(sequence))? {
                Step::Frame { header, offset, payload } => {
                    replay(segment, offset, payload, &mut apply)?;
                    if header.revision < revision || header.oldest_segment < oldest {
                        return Err(corrupt(segment, &format!("counters go back at byte {offset}")));
                    }
                    (revision, oldest) = (header.revision, header.oldest_segment);
                    last_frame = Some((segment.clone(), offset, scan.offset()));
                    sequence += 1;
                }
                Step::End => {
                    // A length that was cut inside the padding of the last frame loses nothing.
                    active_bytes = scan.offset();
                    break;
                }
                Step::Damaged { offset } if !is_last => {
                    return Err(corrupt(segment, &format!("damaged at byte {offset} (write {sequence})")));
                }
                Step::Damaged { offset } => {
                    drop_tail(extent, identity, offset, sequence, mark)?;
                    active_bytes = offset;
                    break;
                }
            }
        }
    }
    if let Some(mark) = mark.filter(|m| m.sequence >= sequence) {
        let what = format!(
            "it ends before write {sequence}, but write {} (revision {}) had been acknowledged",
            mark.sequence, mark.revision
        );
        return Err(corrupt(&last.segment, &what));
    }
    if segments[first].segment.number > oldest.max(1) {
        return Err(Error::Corrupt {
            path: disk.path(&segment_name(oldest.max(1))),
            what: "the file is missing, and later ones still need it".into(),
        });
    }
    rewrite(&last.segment, 0, ALIGNMENT.min(last.bytes))?;
    if let Some((segment, start, end)) = last_frame {
        let length = segment.file.length().map_err(|e| Error::io("measure", &segment.path, e))?;
        rewrite(&segment, start, end.min(length))?;
    }
    disk.sync_directory().map_err(|e| Error::io("sync", disk.path(""), e))?;
    remove_released(&*disk, &mut segments, oldest)?;

    let mut sealed: VecDeque<Extent> = segments;
    sealed.pop_back();
    let active = Extent { segment: last.segment, bytes: active_bytes };
    let mark = open_mark(&*disk, &names)?;
    let log = Log {
        disk,
        identity,
        sealed,
        active,
        mark,
        next_sequence: sequence,
        revision: revision.max(REVISION_FIRST),
        segment_bytes,
        spare: false,
    };
    log.sync_mark()?;
    Ok(log)
}

fn corrupt(segment: &Segment, what: &str) -> Error {
    Error::Corrupt { path: segment.path.clone(), what: what.into() }
}

fn bad_header(segment: &Segment) -> Error {
    corrupt(segment, "its header is damaged")
}

fn create(
    disk: Arc<dyn Disk>,
    names: Vec<String>,
    marked: bool,
    segment_bytes: u64,
    identity: Identity,
) -> Result<Log, Error> {
    // The first segment is durable before the mark is created.
    if marked {
        return Err(Error::Corrupt {
            path: disk.path(MARK_NAME),
            what: "it tells of a log, but every log file is missing".into(),
        });
    }
    let active = log::create_segment(&*disk, identity, 1, 1, false).map_err(log::Failure::into_error)?;
    let mark = open_mark(&*disk, &names)?;
    let log = Log {
        disk,
        identity,
        sealed: VecDeque::new(),
        active,
        mark,
        next_sequence: 1,
        revision: REVISION_FIRST,
        segment_bytes,
        spare: false,
    };
    log.sync_mark()?;
    Ok(log)
}

/// `None`: there is none, or it never reached the disk whole. It is evidence only, so a damaged one stops nothing.
fn read_mark(disk: &dyn Disk, names: &[String]) -> Result<Option<Mark>, Error> {
    if !names.iter().any(|n| n == MARK_NAME) {
        return Ok(None);
    }
    let path = disk.path(MARK_NAME);
    let file = disk.open(MARK_NAME).map_err(|e| Error::io("open", &path, e))?;
    let mut bytes = [0; MARK_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(Error::io("read", path, e)),
    }
    let mark = Mark::decode(&bytes);
    if mark.is_none() && bytes != [0; MARK_BYTES] {
        tracing::warn!(path = %path.display(), "store: the mark is damaged; a lost tail of the log would go unnoticed");
    }
    Ok(mark)
}

fn open_mark(disk: &dyn Disk, names: &[String]) -> Result<Arc<dyn DiskFile>, Error> {
    let path = disk.path(MARK_NAME);
    if names.iter().any(|n| n == MARK_NAME) {
        return disk.open(MARK_NAME).map_err(|e| Error::io("open", path, e));
    }
    let file = disk.create(MARK_NAME).map_err(|e| Error::io("create", &path, e))?;
    disk.sync_directory().map_err(|e| Error::io("sync", path, e))?;
    Ok(file)
}

fn open_segments(disk: &dyn Disk, names: &[String]) -> Result<VecDeque<Extent>, Error> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment_number(n)).collect();
    numbers.sort_unstable();
    let mut segments = VecDeque::with_capacity(numbers.len());
    for number in numbers {
        let name = segment_name(number);
        let path = disk.path(&name);
        let file = disk.open(&name).map_err(|e| Error::io("open", &path, e))?;
        let bytes = file.length().map_err(|e| Error::io("measure", &path, e))?;
        segments.push_back(Extent { segment: Arc::new(Segment { number, path, file }), bytes });
    }
    Ok(segments)
}

fn read_header(extent: &Extent) -> Result<Option<SegmentHeader>, Error> {
    if extent.bytes < SEGMENT_HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    extent
        .segment
        .file
        .read_exact_at(&mut bytes, 0)
        .map_err(|e| Error::io("read", &extent.segment.path, e))?;
    Ok(SegmentHeader::decode(&bytes))
}

/// A last segment without a sound header and without anything behind it was being created when the power went: a
/// frame is written only after the header is durable.
fn remove_unborn(disk: &dyn Disk, segments: &mut VecDeque<Extent>, marked: bool) -> Result<(), Error> {
    let Some(last) = segments.back() else { return Ok(()) };
    if last.bytes > ALIGNMENT || read_header(last)?.is_some() {
        return Ok(());
    }
    // The first segment of all is durable before the mark exists.
    if segments.len() == 1 && (marked || last.segment.number != 1) {
        return Err(bad_header(&last.segment));
    }
    let path = last.segment.path.clone();
    disk.remove(&segment_name(last.segment.number))
        .and_then(|()| disk.sync_directory())
        .map_err(|e| Error::io("remove the unused", path, e))?;
    segments.pop_back();
    Ok(())
}

/// Index of the first segment after the last gap in the numbers; those before it must turn out to be released.
fn run_start(segments: &VecDeque<Extent>) -> Option<usize> {
    let mut start = segments.len().checked_sub(1)?;
    while start > 0 && segments[start - 1].segment.number + 1 == segments[start].segment.number {
        start -= 1;
    }
    Some(start)
}

fn replay(
    segment: &Arc<Segment>,
    frame_offset: u64,
    payload: &[u8],
    apply: &mut impl FnMut(&Record<'_>, &Arc<Segment>, u32),
) -> Result<(), Error> {
    let mut rest = payload;
    while !rest.is_empty() {
        let offset = frame_offset as usize + super::frame::FRAME_HEADER_BYTES + (payload.len() - rest.len());
        let Some((record, after)) = Record::decode(rest) else {
            return Err(corrupt(segment, &format!("a record at byte {offset} does not match its checksum")));
        };
        apply(&record, segment, offset as u32);
        rest = after;
    }
    Ok(())
}

fn drop_tail(
    extent: &Extent,
    identity: Identity,
    offset: u64,
    expected: u64,
    mark: Option<Mark>,
) -> Result<(), Error> {
    let segment = &extent.segment;
    if mark.is_some_and(|m| m.sequence >= expected) {
        let what =
            format!("write {expected} at byte {offset} is damaged or cut off, and it had been acknowledged");
        return Err(corrupt(segment, &what));
    }
    if let Some((sequence, later)) = later_frame(segment, identity, extent.bytes, offset, expected)? {
        let what =
            format!("damaged at byte {offset} (write {expected}); write {sequence} follows at byte {later}");
        return Err(corrupt(segment, &what));
    }
    let dropped = extent.bytes - offset;
    tracing::debug!(path = %segment.path.display(), offset, dropped, "store: cut what follows the last write");
    segment
        .file
        .set_length(offset)
        .and_then(|()| segment.file.sync())
        .map_err(|e| Error::io("drop the torn tail of", &segment.path, e))
}

/// The last frame and the last segment's header may be in the page cache only (the process was killed between write and
/// sync, or the sync failed and their pages count as clean). They are about to be relied on: written again and synced.
fn rewrite(segment: &Segment, start: u64, end: u64) -> Result<(), Error> {
    let mut bytes = vec![0; (end - start) as usize];
    segment
        .file
        .read_exact_at(&mut bytes, start)
        .and_then(|()| segment.file.write_all_at(&bytes, start))
        .and_then(|()| segment.file.sync())
        .map_err(|e| Error::io("make durable the last write of", &segment.path, e))
}

fn remove_released(disk: &dyn Disk, segments: &mut VecDeque<Extent>, oldest: u64) -> Result<(), Error> {
    while segments.len() > 1 && segments.front().is_some_and(|e| e.segment.number < oldest) {
        let Some(extent) = segments.pop_front() else { break };
        disk.remove(&segment_name(extent.segment.number))
            .and_then(|()| disk.sync_directory())
            .map_err(|e| Error::io("remove the released", &extent.segment.path, e))?;
    }
    Ok(())
}
