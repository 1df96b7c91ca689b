//! The append-only log: numbered segment files of frames, and the mark beside them.

use std::{collections::VecDeque, io, path::PathBuf, sync::Arc};

use super::{
    super::Error,
    disk::{Disk, DiskFile},
    frame::{ALIGNMENT, FRAME_HEADER_BYTES, FrameBuilder, Identity, Mark, SegmentHeader},
};

pub(super) const MARK_NAME: &str = "mark";
const SEGMENT_SUFFIX: &str = ".log";

/// A released segment that waits for its second use. Writing over allocated blocks needs no change of the file's
/// metadata: half the bytes to the device and half the flushes of an append.
pub(super) const SPARE_NAME: &str = "spare";

/// Segments grow with what is live, so that their number, and that of open files, stays small.
const SEGMENTS_PER_LIVE: u64 = 8;
const SEGMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// One segment file. Readers hold it through their slots, so a removed file stays readable until the last lets go.
pub(super) struct Segment {
    pub number: u64,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
}

pub(super) fn segment_name(number: u64) -> String {
    format!("{number:020}{SEGMENT_SUFFIX}")
}

pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// A segment that the log still needs, and its length.
#[derive(Clone)]
pub(super) struct Extent {
    pub segment: Arc<Segment>,
    pub bytes: u64,
}

pub(super) struct Log {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) identity: Identity,
    /// Oldest first; the last is the one written to.
    pub(super) sealed: VecDeque<Extent>,
    pub(super) active: Extent,
    pub(super) mark: Arc<dyn DiskFile>,
    pub(super) next_sequence: u64,
    pub(super) revision: u64,
    /// The least length of a segment.
    pub(super) segment_bytes: u64,
    pub(super) spare: bool,
}

/// Where a frame went.
pub(super) struct Placed {
    pub segment: Arc<Segment>,
    pub offset: u64,
}

/// How an append failed.
pub(super) enum Failure {
    /// Nothing of the frame is left in the log; the next append may succeed (the disk was full).
    Refused(Error),
    /// What the disk holds is unknown: no more writes by this process.
    Fatal(Error),
}

impl Log {
    pub(super) fn total_bytes(&self) -> u64 {
        self.sealed.iter().map(|e| e.bytes).sum::<u64>() + self.active.bytes
    }

    pub(super) fn oldest(&self) -> &Extent {
        self.sealed.front().unwrap_or(&self.active)
    }

    /// Writes one frame and returns when it is durable. `release`: with this frame the oldest segment is no longer
    /// needed, and [`Self::release_oldest`] is to follow. `live_bytes`: as of before.
    pub(super) fn append(
        &mut self,
        frame: &mut FrameBuilder,
        revision: u64,
        release: bool,
        live_bytes: u64,
    ) -> Result<Placed, Failure> {
        let target = (live_bytes / SEGMENTS_PER_LIVE).clamp(self.segment_bytes, SEGMENT_BYTES_MAX);
        let end = self.active.bytes + (FRAME_HEADER_BYTES + frame.payload_bytes()) as u64;
        if self.active.bytes > ALIGNMENT && end > target {
            self.roll()?;
        }
        let oldest = self.oldest().segment.number + u64::from(release);
        let bytes = frame.finish(self.next_sequence, revision, oldest, self.identity);
        let offset = self.active.bytes;
        let segment = self.active.segment.clone();
        if let Err(error) = segment.file.write_all_at(bytes, offset) {
            return Err(Self::undo(&segment, offset, error));
        }
        // A failed sync says that some page of this file may never reach the disk, and asking again would lie.
        segment.file.sync().map_err(|e| Failure::Fatal(Error::io("sync", &segment.path, e)))?;
        self.active.bytes += bytes.len() as u64;
        self.next_sequence += 1;
        self.revision = revision;
        // Not synced: the kernel writes it within seconds, and it survives the process at once. It is evidence, not
        // data, so its failure is not the write's.
        if let Err(error) = self.write_mark() {
            tracing::warn!(%error, "store: cannot write the mark");
        }
        Ok(Placed { segment, offset })
    }

    /// Takes a frame back that did not fit. Synced at once: the next frame may go to a new segment, and this one must
    /// not come back from a power loss with the piece at its end.
    fn undo(segment: &Segment, offset: u64, error: io::Error) -> Failure {
        let full = is_full(&error);
        let error = Error::io("append to", &segment.path, error);
        let undone = full && segment.file.set_length(offset).and_then(|()| segment.file.sync()).is_ok();
        if undone { Failure::Refused(error) } else { Failure::Fatal(error) }
    }

    /// A full disk leaves what is there as it was; any other failure leaves it unknown.
    fn classify(step: &'static str, path: PathBuf, error: io::Error) -> Failure {
        let full = is_full(&error);
        let error = Error::io(step, path, error);
        if full { Failure::Refused(error) } else { Failure::Fatal(error) }
    }

    fn write_mark(&self) -> io::Result<()> {
        let mark =
            Mark { identity: self.identity, sequence: self.next_sequence - 1, revision: self.revision };
        self.mark.write_all_at(&mark.encode(), 0)
    }

    /// Cuts off what the file has beyond the log: what a segment in its second use has left of its first.
    pub(super) fn trim(&self) -> Result<(), Error> {
        let Extent { segment, bytes } = &self.active;
        segment
            .file
            .set_length(*bytes)
            .and_then(|()| segment.file.sync())
            .map_err(|e| Error::io("trim", &segment.path, e))
    }

    pub(super) fn sync_mark(&self) -> Result<(), Error> {
        self.write_mark()
            .and_then(|()| self.mark.sync())
            .map_err(|e| Error::io("sync", self.disk.path(MARK_NAME), e))
    }

    fn roll(&mut self) -> Result<(), Failure> {
        // A sealed segment must be provably whole even if the new one is lost with its directory entry.
        let mark = || self.disk.path(MARK_NAME);
        self.write_mark().map_err(|e| Self::classify("write", mark(), e))?;
        self.mark.sync().map_err(|e| Failure::Fatal(Error::io("sync", mark(), e)))?;
        self.trim().map_err(Failure::Fatal)?;
        let number = self.active.segment.number + 1;
        match create_segment(&*self.disk, self.identity, number, self.next_sequence, self.spare) {
            Ok(next) => {
                self.spare = false;
                self.sealed.push_back(std::mem::replace(&mut self.active, next));
                Ok(())
            }
            // The attempt must leave nothing, or a later one would find the name taken, and an open a segment that
            // does not continue its predecessor.
            Err(Failure::Refused(error)) => {
                let removed = self.disk.remove(&segment_name(number));
                let removed = removed.or_else(|e| match e.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(e),
                });
                match removed.and_then(|()| self.disk.sync_directory()) {
                    Ok(()) => Err(Failure::Refused(error)),
                    Err(_) => Err(Failure::Fatal(error)),
                }
            }
            Err(fatal) => Err(fatal),
        }
    }

    /// Lets go of the oldest segment, for which the last frame said that it is not needed. To be called when nothing
    /// points into it any more but readers that are at it.
    pub(super) fn release_oldest(&mut self) {
        let Some(Extent { segment, .. }) = self.sealed.pop_front() else { return };
        let name = segment_name(segment.number);
        // A reader keeps the old content by holding the file, which therefore must not be written over.
        let spare = !self.spare && Arc::try_unwrap(segment).is_ok();
        let done = if spare { self.disk.rename(&name, SPARE_NAME) } else { self.disk.remove(&name) };
        match done.and_then(|()| self.disk.sync_directory()) {
            Ok(()) => self.spare |= spare,
            // A file that stays is removed by the next open, which knows from the frames that it is not needed.
            Err(error) => tracing::warn!(name, %error, "store: cannot remove an old segment"),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Creates a segment so that it is durable, with its name, before the first frame goes into it. `spare`: out of the
/// spare file.
pub(super) fn create_segment(
    disk: &dyn Disk,
    identity: Identity,
    number: u64,
    first_sequence: u64,
    spare: bool,
) -> Result<Extent, Failure> {
    let name = segment_name(number);
    let path = disk.path(&name);
    let header = SegmentHeader { identity, number, first_sequence }.encode();
    let full_or_fatal = |error| Log::classify("create", path.clone(), error);
    let fatal = |error| Failure::Fatal(Error::io("create", &path, error));
    let file = if spare { disk.open(SPARE_NAME) } else { disk.create(&name) }.map_err(full_or_fatal)?;
    file.write_all_at(&header, 0).map_err(full_or_fatal)?;
    file.sync().map_err(fatal)?;
    if spare {
        disk.rename(SPARE_NAME, &name).map_err(fatal)?;
    }
    disk.sync_directory().map_err(fatal)?;
    Ok(Extent { segment: Arc::new(Segment { number, path, file }), bytes: header.len() as u64 })
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Refused(error) | Self::Fatal(error) => error,
        }
    }
}
