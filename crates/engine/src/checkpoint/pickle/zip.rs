//! The list of members of a zip archive, as far as PyTorch uses the format: members are stored as they are.
//!
//! Read after PKWARE's APPNOTE 6.3: the end record, its 64-bit extension, the central directory. Nothing is
//! unpacked, and every place that the archive names is checked against the file before it is used.

use std::collections::BTreeMap;

use fs_err as fs;

use super::Failure;
use crate::checkpoint::header::read_at;

/// Where the end record may begin: it has 22 bytes, and a comment of up to 65,535 may follow.
const MAX_ENDING: u64 = 22 + 65_535;
/// The length of a list of some hundred thousand members.
const MAX_DIRECTORY: u64 = 16 << 20;
/// Marks numbers that stand in the 64-bit extension instead.
const ELSEWHERE: u64 = 0xffff_ffff;

/// Where a member's content is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First byte, from the start of the file.
    pub(super) begin: u64,
    /// Number of bytes.
    pub(super) len: u64,
}

/// A member as the directory lists it.
#[derive(Debug, Clone, Copy)]
struct Member {
    /// Where its own header begins.
    header: u64,
    size: u64,
    /// Neither packed nor encrypted.
    stored: bool,
}

/// The members of an archive, by name.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    file: &'a fs::File,
    len: u64,
    members: BTreeMap<String, Member>,
}

impl<'a> Archive<'a> {
    /// Reads the list of members.
    pub(super) fn open(file: &'a fs::File, len: u64) -> Result<Archive<'a>, Failure> {
        let broken = |what: &str| Failure::Broken(format!("as a zip archive, {what}"));
        let ending_begin = len - len.min(MAX_ENDING);
        let ending = bytes(file, ending_begin, len - ending_begin)?;
        // The last one whose comment ends where the file does.
        let end = (0..ending.len().saturating_sub(21)).rev().find(|&at| {
            let comment = number::<2>(&ending, at + 20).unwrap_or(u64::MAX);
            ending[at..].starts_with(b"PK\x05\x06")
                && (at as u64 + 22 + comment) == len - ending_begin
        });
        let end = end.ok_or_else(|| broken("its end is missing, with the list of its members"))?;
        let field = |at: usize| number::<4>(&ending, end + at).unwrap_or(ELSEWHERE);
        let (mut size, mut begin) = (field(12), field(16));
        if size == ELSEWHERE || begin == ELSEWHERE {
            let locator = end.checked_sub(20).map(|at| &ending[at..]);
            let record = locator
                .filter(|locator| locator.starts_with(b"PK\x06\x07"))
                .and_then(|locator| number::<8>(locator, 8))
                .filter(|at| at.checked_add(56).is_some_and(|end| end <= len));
            let record = record.ok_or_else(|| broken("its 64-bit end record is missing"))?;
            let record = bytes(file, record, 56)?;
            if !record.starts_with(b"PK\x06\x06") {
                return Err(broken("its 64-bit end record is missing"));
            }
            size = number::<8>(&record, 40).unwrap_or(u64::MAX);
            begin = number::<8>(&record, 48).unwrap_or(u64::MAX);
        }
        if size > MAX_DIRECTORY {
            return Err(broken("its list of members is longer than any model needs"));
        }
        if begin.checked_add(size).is_none_or(|end| end > len) {
            return Err(broken("its list of members lies outside of the file"));
        }
        let directory = bytes(file, begin, size)?;
        let mut members = BTreeMap::new();
        let mut rest = directory.as_slice();
        while !rest.is_empty() {
            let (name, member, after) =
                member(rest).ok_or_else(|| broken("its list of members is damaged"))?;
            if members.insert(name.clone(), member).is_some() {
                return Err(broken(&format!("it has two members called `{name}`")));
            }
            rest = after;
        }
        Ok(Archive { file, len, members })
    }

    /// The names of all members.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// Where a member's content is, if there is such a member. Reads the header in front of it.
    pub(super) fn find(&self, name: &str) -> Result<Option<Extent>, Failure> {
        let Some(member) = self.members.get(name) else { return Ok(None) };
        let broken =
            |what: &str| Failure::Broken(format!("as a zip archive, its member `{name}` {what}"));
        if !member.stored {
            return Err(broken("is packed or encrypted, which PyTorch never does"));
        }
        let outside = || broken("lies outside of the file");
        let header_end = member.header.checked_add(30).filter(|end| *end <= self.len);
        let header_end = header_end.ok_or_else(outside)?;
        let header = bytes(self.file, member.header, 30)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(broken("is not where the list of members says"));
        }
        let lengths = [26, 28].map(|at| number::<2>(&header, at).unwrap_or_default());
        let begin = header_end + lengths[0] + lengths[1];
        let end = begin.checked_add(member.size);
        if end.is_none_or(|end| end > self.len) {
            return Err(outside());
        }
        Ok(Some(Extent { begin, len: member.size }))
    }
}

/// One entry of the list: its name, what it says, and what follows it.
fn member(record: &[u8]) -> Option<(String, Member, &[u8])> {
    record.starts_with(b"PK\x01\x02").then_some(())?;
    let half = |at: usize| number::<2>(record, at);
    let [name, extra, comment] =
        [half(28)?, half(30)?, half(32)?].map(|length| usize::try_from(length).unwrap_or_default());
    let (text, rest) = record.get(46..)?.split_at_checked(name)?;
    let (extra, rest) = rest.split_at_checked(extra)?;
    let (_, rest) = rest.split_at_checked(comment)?;

    let word = |at: usize| number::<4>(record, at);
    let (mut size, mut packed, mut header) = (word(24)?, word(20)?, word(42)?);
    // The extension holds those numbers that have no place in the record, in this order.
    let mut wide = wide_numbers(extra);
    for number in [&mut size, &mut packed, &mut header] {
        if *number == ELSEWHERE {
            *number = wide.next()?;
        }
    }
    let (flags, method) = (half(8)?, half(10)?);
    let stored = method == 0 && flags & 1 == 0 && packed == size;
    let name = String::from_utf8_lossy(text).into_owned();
    Some((name, Member { header, size, stored }, rest))
}

/// The numbers of the 64-bit extension among a member's extra fields.
fn wide_numbers(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    const WIDE: u64 = 1;
    let mut found: &[u8] = &[];
    while let (Some(id), Some(len)) = (number::<2>(extra, 0), number::<2>(extra, 2)) {
        let Some((field, rest)) =
            extra[4..].split_at_checked(usize::try_from(len).unwrap_or_default())
        else {
            break;
        };
        if id == WIDE {
            found = field;
            break;
        }
        extra = rest;
    }
    found.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A number of `N` little-endian bytes.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes: &[u8; N] = bytes.get(at..)?.first_chunk()?;
    Some(bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
}

/// Reads a part of the file. `len` was checked against the file or is small.
pub(super) fn bytes(file: &fs::File, begin: u64, len: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| Failure::Ends)?];
    read_at(file, &mut bytes, begin)?;
    Ok(bytes)
}
