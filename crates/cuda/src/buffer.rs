//! Memory of a card.

use std::ops::Range;

use half::{bf16, f16};

use crate::{Card, Result};

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Format {
    /// 32 bits.
    F32 = 0,
    /// 16 bits, 5 of them exponent.
    F16 = 1,
    /// 16 bits, 8 of them exponent.
    Bf16 = 2,
}

impl Format {
    /// Bytes of a number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::Bf16 => 2,
        }
    }

    /// How the names of its kernels end.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
        }
    }
}

/// Numbers in a card's memory, given back when dropped.
#[derive(Debug)]
pub struct Buffer {
    card: Card,
    address: u64,
    len: usize,
    format: Format,
}

impl Buffer {
    /// Memory for `len` numbers, which are undefined.
    ///
    /// # Errors
    /// [`OutOfMemory`](crate::Error::OutOfMemory).
    pub(crate) fn new(card: &Card, len: usize, format: Format) -> Result<Buffer> {
        let address = card.0.allocate((len * format.bytes()).max(1))?;
        Ok(Buffer { card: card.clone(), address, len, format })
    }

    /// A copy of numbers in the card's memory, rounded to `format`.
    ///
    /// # Errors
    /// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
    pub fn upload(card: &Card, values: &[f32], format: Format) -> Result<Buffer> {
        Buffer::upload_bytes(card, &stored(values, format), format)
    }

    /// A copy of numbers that are stored in `format`, little-endian, as files have them.
    ///
    /// # Errors
    /// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
    pub fn upload_bytes(card: &Card, bytes: &[u8], format: Format) -> Result<Buffer> {
        let buffer = Buffer::new(card, bytes.len() / format.bytes(), format)?;
        card.0.copy_in(buffer.address, bytes)?;
        Ok(buffer)
    }

    /// Puts numbers in the place of those that are there, rounded to the buffer's format, when all that was
    /// queued before has run.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// If there are more or fewer numbers than the buffer has.
    pub fn write(&self, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.len, "a buffer is written as a whole");
        self.card.0.copy_in(self.address, &stored(values, self.format))
    }

    /// The numbers, when all that was queued before has run.
    ///
    /// # Errors
    /// Those of the driver, also of the work before.
    pub fn download(&self) -> Result<Vec<f32>> {
        let bytes = self.download_bytes()?;
        let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        Ok(match self.format {
            Format::F32 => {
                let fours = bytes.chunks_exact(4);
                fours.map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
            }
            Format::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
            Format::Bf16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        })
    }

    /// The numbers as they are stored, little-endian, when all that was queued before has run.
    fn download_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.len * self.format.bytes()];
        self.card.0.copy_out(self.address, &mut bytes)?;
        Ok(bytes)
    }

    /// A copy in the processor's memory, when all that was queued before has run.
    ///
    /// # Errors
    /// Those of the driver, also of the work before.
    pub fn stow(&self) -> Result<Stowed> {
        let bytes = self.download_bytes()?;
        Ok(Stowed { card: self.card.clone(), bytes, format: self.format })
    }

    /// A copy of some of the numbers, as rows of a batch.
    ///
    /// # Panics
    /// If there are no such numbers.
    ///
    /// # Errors
    /// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
    pub fn part(&self, range: Range<usize>) -> Result<Buffer> {
        assert!(range.start <= range.end && range.end <= self.len, "numbers of the buffer");
        let buffer = Buffer::new(&self.card, range.len(), self.format)?;
        let bytes = self.format.bytes();
        let from = self.address + (range.start * bytes) as u64;
        self.card.0.copy(buffer.address, from, range.len() * bytes)?;
        Ok(buffer)
    }

    /// How many numbers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How they are stored.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The card that has them.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Where they are.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

/// Numbers in the processor's memory, as a card stores them, that go over to it when they are used.
#[derive(Debug)]
pub struct Stowed {
    card: Card,
    bytes: Vec<u8>,
    format: Format,
}

impl Stowed {
    /// A copy on the card, to the last bit.
    ///
    /// It is queued like any work: it waits for what was queued before, and what is queued behind it waits for
    /// it. So no copy overlaps a computation on the card. What does overlap is the processor's part, which
    /// brings the numbers into memory that the card reads itself.
    ///
    /// # Errors
    /// [`OutOfMemory`](crate::Error::OutOfMemory), or those of the driver.
    pub fn fetch(&self) -> Result<Buffer> {
        Buffer::upload_bytes(&self.card, &self.bytes, self.format)
    }

    /// How the numbers are stored.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }
}

/// Numbers as a format stores them.
fn stored(values: &[f32], format: Format) -> Vec<u8> {
    match format {
        Format::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Format::F16 => {
            values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
        }
        Format::Bf16 => {
            values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.card.0.release(self.address, (self.len * self.format.bytes()).max(1));
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{FORMATS, cards, random, wide};

    /// Nothing is lost on the way to the processor and back, not even of what is no number.
    #[test]
    fn what_is_stowed_comes_back_to_the_last_bit() {
        for card in cards() {
            for (format, _) in FORMATS {
                let (whole, _) = random(&card, 21, 1, format);
                whole.write(&[f32::NAN, -0.0, 1e-42, f32::INFINITY].repeat(6)[..21]).unwrap();
                let stowed = whole.stow().unwrap();
                assert_eq!(stowed.format(), format);
                let bytes = whole.download_bytes().unwrap();
                drop(whole);
                for _ in 0..2 {
                    assert_eq!(stowed.fetch().unwrap().download_bytes().unwrap(), bytes);
                }
            }
        }
    }

    #[test]
    fn parts_are_copied() {
        for card in cards() {
            for (format, _) in FORMATS {
                let (whole, exact) = random(&card, 21, 1, format);
                let (left, right) = (whole.part(0..8).unwrap(), whole.part(8..21).unwrap());
                assert_eq!(wide(&left), exact[..8]);
                assert_eq!(wide(&right), exact[8..]);
                assert!(whole.part(3..3).unwrap().is_empty());
            }
        }
    }
}
