//! A look at PyTorch pickles, as data only: nothing in them is executed, built or believed.
//!
//! A pickle is a small program that makes Python objects, and loading one runs it. Here its
//! instructions are only stepped over, to collect the texts and the names of functions that stand in
//! it; that is enough to say what kind of file it is. Everything read is bounded.
//!
//! Instructions: Python's `pickletools`. Containers: the zip format (PKWARE's APPNOTE 6.3), in which
//! PyTorch stores members without compression, and PyTorch's older sequence of bare pickles.

use std::{
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use fs_err as fs;

use crate::Result;

/// How much of a pickle is looked at. Names come before the data, so this reaches far.
const MAX_PICKLE: u64 = 8 << 20;
/// How much of a zip's list of members is read, and where its end is looked for.
const MAX_DIRECTORY: u64 = 4 << 20;
const MAX_ENDING: u64 = 22 + 65_535;
/// How many texts are kept.
const MAX_TEXTS: usize = 20_000;

/// What was seen in a pickle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether it is a zip archive, as PyTorch writes since version 1.6.
    pub(super) zip: bool,
    /// Members of the archive.
    pub(super) members: usize,
    /// Texts, in order, without those that describe where a tensor's data is.
    pub(super) texts: Vec<String>,
    /// Functions and classes that it asks for: `torch._utils._rebuild_tensor_v2`.
    pub(super) globals: Vec<String>,
    /// How many tensors it makes.
    pub(super) tensors: usize,
    /// Whether the end was reached.
    pub(super) complete: bool,
}

/// Looks at a file whose first bytes are those of a zip archive or of a pickle.
///
/// # Errors
/// Only if the file cannot be read; what cannot be understood is left out.
pub(super) fn look(path: &Path) -> Result<Look> {
    let mut file = fs::File::open(path)?;
    let mut start = [0u8; 4];
    let got = read_up_to(&mut file, &mut start)?;
    if start[..got] == *b"PK\x03\x04" {
        return look_into_zip(&mut file);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    (&mut file).take(MAX_PICKLE).read_to_end(&mut bytes)?;
    let mut look = Look::default();
    // Magic number, protocol, system, the object, list of storages; the raw data follows.
    let mut rest = bytes.as_slice();
    for _ in 0..5 {
        match walk(rest, &mut look) {
            Some(after) if after.first() == Some(&0x80) => rest = after,
            Some(_) => {
                look.complete = true;
                break;
            }
            None => break,
        }
    }
    Ok(look)
}

fn look_into_zip(file: &mut fs::File) -> Result<Look> {
    let mut look = Look { zip: true, ..Look::default() };
    let len = file.metadata()?.len();
    let ending = len.min(MAX_ENDING);
    file.seek(SeekFrom::Start(len - ending))?;
    let mut bytes = Vec::new();
    file.take(ending).read_to_end(&mut bytes)?;
    // The end record is the last one; a comment may follow it.
    let Some(at) = bytes.windows(4).rposition(|window| window == b"PK\x05\x06") else {
        return Ok(look);
    };
    let end = &bytes[at..];
    let (Some(size), Some(offset)) = (u32_at(end, 12), u32_at(end, 16)) else { return Ok(look) };
    file.seek(SeekFrom::Start(u64::from(offset)))?;
    let mut directory = Vec::new();
    file.take(u64::from(size).min(MAX_DIRECTORY)).read_to_end(&mut directory)?;

    let mut rest = directory.as_slice();
    let mut pickle = None;
    while let Some(member) = Member::read(rest) {
        look.members += 1;
        if member.name.ends_with(b"/data.pkl") && member.stored {
            pickle = Some((u64::from(member.offset), u64::from(member.size)));
        }
        rest = &rest[member.record_len..];
    }
    let Some((offset, size)) = pickle else { return Ok(look) };
    file.seek(SeekFrom::Start(offset))?;
    let mut header = [0u8; 30];
    if read_up_to(file, &mut header)? < header.len() {
        return Ok(look);
    }
    let (name, extra) = (u16_at(&header, 26).unwrap_or(0), u16_at(&header, 28).unwrap_or(0));
    file.seek(SeekFrom::Current(i64::from(name) + i64::from(extra)))?;
    let mut bytes = Vec::new();
    file.take(size.min(MAX_PICKLE)).read_to_end(&mut bytes)?;
    look.complete = walk(&bytes, &mut look).is_some();
    Ok(look)
}

/// One entry of a zip's list of members.
struct Member<'a> {
    name: &'a [u8],
    stored: bool,
    size: u32,
    offset: u32,
    record_len: usize,
}

impl Member<'_> {
    fn read(record: &[u8]) -> Option<Member<'_>> {
        if !record.starts_with(b"PK\x01\x02") {
            return None;
        }
        let lengths = [28, 30, 32].map(|at| u16_at(record, at).map(usize::from));
        let [Some(name), Some(extra), Some(comment)] = lengths else { return None };
        let record_len = 46 + name + extra + comment;
        (record.len() >= record_len).then_some(())?;
        Some(Member {
            name: &record[46..46 + name],
            stored: u16_at(record, 10)? == 0,
            size: u32_at(record, 24)?,
            offset: u32_at(record, 42)?,
            record_len,
        })
    }
}

/// Steps over one pickle. Returns what follows it, or `None` if it ends early or is not understood.
fn walk<'a>(mut rest: &'a [u8], look: &mut Look) -> Option<&'a [u8]> {
    let mut last_texts: [String; 2] = Default::default();
    loop {
        let (&code, after) = rest.split_first()?;
        rest = after;
        match code {
            b'.' => return Some(rest),
            // Nothing follows the instruction.
            b'('
            | b')'
            | b']'
            | b'}'
            | b'0'
            | b'1'
            | b'2'
            | b'a'
            | b'b'
            | b'e'
            | b's'
            | b't'
            | b'u'
            | b'l'
            | b'd'
            | b'o'
            | b'N'
            | b'R'
            | 0x81
            | 0x85..=0x89
            | 0x8f..=0x92
            | 0x94
            | 0x97
            | 0x98 => {}
            // A reference to data outside of the pickle: each tensor has one.
            b'Q' => look.tensors += 1,
            // Fixed lengths.
            b'q' | b'h' | b'K' | 0x80 | 0x82 => rest = rest.get(1..)?,
            b'M' | 0x83 => rest = rest.get(2..)?,
            b'J' | b'r' | b'j' | 0x84 => rest = rest.get(4..)?,
            b'G' | 0x95 => rest = rest.get(8..)?,
            // Lengths of one, four or eight bytes, then that many.
            b'U' | b'C' | 0x8a => rest = counted::<1>(rest)?.1,
            b'T' | b'B' | 0x8b => rest = counted::<4>(rest)?.1,
            0x8e | 0x96 => rest = counted::<8>(rest)?.1,
            b'X' | 0x8c | 0x8d => {
                let (text, after) = match code {
                    b'X' => counted::<4>(rest)?,
                    0x8c => counted::<1>(rest)?,
                    _ => counted::<8>(rest)?,
                };
                rest = after;
                let text = String::from_utf8_lossy(text).into_owned();
                last_texts = [std::mem::take(&mut last_texts[1]), text.clone()];
                if !describes_storage(&text) && look.texts.len() < MAX_TEXTS {
                    look.texts.push(text);
                }
            }
            // Lines of text.
            b'I' | b'L' | b'F' | b'S' | b'V' | b'P' | b'g' | b'p' => rest = line(rest)?.1,
            b'c' | b'i' => {
                let (module, after) = line(rest)?;
                let (name, after) = line(after)?;
                rest = after;
                global(look, &String::from_utf8_lossy(module), &String::from_utf8_lossy(name));
            }
            // Protocol 4 takes the module and the name from the stack: the last two texts.
            0x93 => {
                let [module, name] = &last_texts;
                global(look, module, name);
            }
            _ => return None,
        }
    }
}

/// The texts of `('storage', class, key, device, size)`, the reference to a tensor's data.
fn describes_storage(text: &str) -> bool {
    text == "storage"
        || text == "cpu"
        || text.starts_with("cuda:")
        || !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn global(look: &mut Look, module: &str, name: &str) {
    let global = format!("{module}.{name}");
    // Each tensor is made by a call of its own, but the function is named once and remembered.
    if !look.globals.contains(&global) && look.globals.len() < MAX_TEXTS {
        look.globals.push(global);
    }
}

/// A length of `N` little-endian bytes, that many bytes, and what follows.
fn counted<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(N)?;
    let length = length.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    rest.split_at_checked(usize::try_from(length).ok()?)
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn read_up_to(file: &mut fs::File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..])? {
            0 => break,
            read => got += read,
        }
    }
    Ok(got)
}
