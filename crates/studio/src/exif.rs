//! The user comment in EXIF data: where A1111 and others keep the recipe of JPEG and WebP files.

/// Tag of the pointer from the first directory to the EXIF directory.
const EXIF_DIRECTORY: u16 = 0x8769;
/// Tag of the user comment.
const USER_COMMENT: u16 = 0x9286;

/// The user comment of a TIFF structure, as EXIF data is one.
///
/// The comment starts with eight bytes that name its encoding. UTF-16 has no declared byte order there:
/// writers that matter use big-endian whatever the order of the rest, some follow the rest, so the text
/// itself decides.
#[must_use]
pub(crate) fn user_comment(exif: &[u8]) -> Option<String> {
    let tiff = Tiff::new(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))?;
    let first = usize::try_from(tiff.u32(4)?).ok()?;
    let directory = tiff.entry(first, EXIF_DIRECTORY)?;
    let directory = usize::try_from(tiff.u32(directory + 8)?).ok()?;
    let entry = tiff.entry(directory, USER_COMMENT)?;
    let len = usize::try_from(tiff.u32(entry + 4)?).ok()?;
    // Up to four bytes stand in the entry itself, which is too few for a comment.
    let at = usize::try_from(tiff.u32(entry + 8)?).ok()?;
    let comment = tiff.bytes.get(at..at.checked_add(len)?)?;

    let (encoding, text) = comment.split_first_chunk::<8>()?;
    let text = match encoding {
        b"UNICODE\0" => utf16(text),
        b"ASCII\0\0\0" | [0, 0, 0, 0, 0, 0, 0, 0] => String::from_utf8_lossy(text).into_owned(),
        _ => return None,
    };
    Some(text.trim_matches('\0').to_owned())
}

struct Tiff<'a> {
    bytes: &'a [u8],
    little_endian: bool,
}

impl<'a> Tiff<'a> {
    fn new(bytes: &'a [u8]) -> Option<Tiff<'a>> {
        let little_endian = match bytes.get(..4)? {
            b"II*\0" => true,
            b"MM\0*" => false,
            _ => return None,
        };
        Some(Tiff { bytes, little_endian })
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.array(at)?;
        Some(if self.little_endian { u16::from_le_bytes } else { u16::from_be_bytes }(bytes))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.array(at)?;
        Some(if self.little_endian { u32::from_le_bytes } else { u32::from_be_bytes }(bytes))
    }

    /// Where the twelve bytes of a tag's entry stand in the directory at `at`.
    fn entry(&self, at: usize, tag: u16) -> Option<usize> {
        let count = usize::from(self.u16(at)?);
        (0..count).map(|index| at + 2 + 12 * index).find(|&entry| self.u16(entry) == Some(tag))
    }
}

/// UTF-16 in either byte order.
fn utf16(text: &[u8]) -> String {
    let units = |from: fn([u8; 2]) -> u16| {
        text.as_chunks::<2>().0.iter().map(move |&pair| from(pair)).collect::<Vec<_>>()
    };
    let (big, little) = (units(u16::from_be_bytes), units(u16::from_le_bytes));
    // Recipes are mostly ASCII, whatever the language of the prompt. A byte order mark counts, too.
    let plausible = |units: &[u16]| units.iter().filter(|&&u| u < 128 || u == 0xFEFF).count();
    let units = if plausible(&little) > plausible(&big) { little } else { big };
    String::from_utf16_lossy(&units).trim_start_matches('\u{FEFF}').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ein Füchslein, 猫\nSteps: 5, Seed: 1";

    /// A TIFF structure as EXIF has it, with one comment.
    fn exif(little_endian: bool, comment: &[u8]) -> Vec<u8> {
        let u16 = |x: u16| if little_endian { x.to_le_bytes() } else { x.to_be_bytes() };
        let u32 = |x: u32| if little_endian { x.to_le_bytes() } else { x.to_be_bytes() };
        let mut bytes = if little_endian { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
        bytes.extend(u32(8));
        // One entry: a long (type 4) that points to the next directory.
        bytes.extend(
            [&u16(1)[..], &u16(EXIF_DIRECTORY), &u16(4), &u32(1), &u32(26), &u32(0)].concat(),
        );
        let count = u32(u32::try_from(comment.len()).unwrap());
        bytes
            .extend([&u16(1)[..], &u16(USER_COMMENT), &u16(7), &count, &u32(44), &u32(0)].concat());
        bytes.extend(comment);
        bytes
    }

    #[test]
    fn every_encoding_in_either_byte_order() {
        let big: Vec<u8> = TEXT.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let little: Vec<u8> = TEXT.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let marked = [&[0xFF, 0xFE], &little[..]].concat();
        for little_endian in [false, true] {
            for text in [&big, &little, &marked] {
                let comment = [b"UNICODE\0", &text[..]].concat();
                let exif = exif(little_endian, &comment);
                assert_eq!(user_comment(&exif).as_deref(), Some(TEXT));
                let prefixed = [b"Exif\0\0", &exif[..]].concat();
                assert_eq!(user_comment(&prefixed).as_deref(), Some(TEXT));
            }
            let exif = exif(little_endian, b"ASCII\0\0\0a fox\0");
            assert_eq!(user_comment(&exif).as_deref(), Some("a fox"));
        }
    }

    #[test]
    fn damaged_data_is_no_comment() {
        let whole = exif(true, b"ASCII\0\0\0a fox");
        for len in 0..whole.len() {
            assert_eq!(user_comment(&whole[..len]), None, "{len}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] = 0xFF;
            // Offsets and lengths may lead anywhere; nothing panics.
            let _ = user_comment(&damaged);
        }
    }
}
