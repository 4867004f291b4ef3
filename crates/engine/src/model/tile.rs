//! Pictures in tiles, where a whole one does not fit into memory.
//!
//! Neighbors overlap, and where they do, one fades linearly into the other, so that no seam is seen. A
//! tile knows only its own part of the picture, which the VAE's normalizations and its attention look at
//! as a whole; so tiles are as large as fits, and a picture that fits is never cut.

use std::ops::Range;

/// The part of a tile that its neighbor also covers.
const OVERLAP: usize = 4;

/// The smallest tile worth making, in latents. The VAE needs that much to see what it draws.
pub(crate) const SMALLEST: usize = 24;

/// Where the tiles of one axis lie.
///
/// * `length`: of the axis
/// * `side`: of a tile, at least [`SMALLEST`]
pub(crate) fn spans(length: usize, side: usize) -> Vec<Range<usize>> {
    if length <= side {
        return std::iter::once(0..length).collect();
    }
    let step = side - side / OVERLAP;
    let count = (length - side).div_ceil(step) + 1;
    // Spread evenly: the last would otherwise cover much of the one before.
    (0..count).map(|i| (length - side) * i / (count - 1)).map(|begin| begin..begin + side).collect()
}

/// How much a tile says at each place of its span: less towards edges where a neighbor goes on.
///
/// * `scale`: places for each unit of the span
fn fade(span: &Range<usize>, length: usize, side: usize, scale: usize) -> Vec<f32> {
    let (places, fading) = (span.len() * scale, (side / OVERLAP * scale) as f32);
    let ramp = |distance: usize| ((distance as f32 + 0.5) / fading).min(1.0);
    (0..places)
        .map(|place| {
            let begin = if span.start > 0 { ramp(place) } else { 1.0 };
            let end = if span.end < length { ramp(places - 1 - place) } else { 1.0 };
            begin.min(end)
        })
        .collect()
}

/// The [fades](fade) of a tile down and across.
pub(crate) fn fades(
    (down, across): (&Range<usize>, &Range<usize>),
    (height, width): (usize, usize),
    side: usize,
    scale: usize,
) -> (Vec<f32>, Vec<f32>) {
    (fade(down, height, side, scale), fade(across, width, side, scale))
}

/// What tiles add up to: rows of places with `channels` numbers each.
pub(crate) struct Blend {
    width: usize,
    channels: usize,
    sums: Vec<f32>,
    weights: Vec<f32>,
}

impl Blend {
    pub(crate) fn new(height: usize, width: usize, channels: usize) -> Blend {
        let places = height * width;
        Blend { width, channels, sums: vec![0.0; places * channels], weights: vec![0.0; places] }
    }

    /// Adds a tile whose first place is at `(top, left)`, with its fades down and across.
    pub(crate) fn add(
        &mut self,
        (top, left): (usize, usize),
        tile: &[f32],
        down: &[f32],
        across: &[f32],
    ) {
        let channels = self.channels;
        for (row, (down, tile)) in down.iter().zip(tile.chunks(across.len() * channels)).enumerate()
        {
            for (column, (across, values)) in across.iter().zip(tile.chunks(channels)).enumerate() {
                let (weight, place) = (down * across, (top + row) * self.width + left + column);
                self.weights[place] += weight;
                let sums = &mut self.sums[place * channels..][..channels];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
            }
        }
    }

    /// The mean of the tiles at each place.
    pub(crate) fn finish(mut self) -> Vec<f32> {
        for (sums, weight) in self.sums.chunks_mut(self.channels).zip(&self.weights) {
            sums.iter_mut().for_each(|sum| *sum /= weight);
        }
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_everything_and_overlap() {
        for side in [SMALLEST, 32, 61] {
            for length in [1, side, side + 1, 2 * side, 5 * side + 3] {
                let spans = spans(length, side);
                assert_eq!((spans[0].start, spans.last().unwrap().end), (0, length));
                for pair in spans.windows(2) {
                    assert_eq!(pair[0].len(), side);
                    assert!(pair[0].end - pair[1].start >= side / OVERLAP, "{spans:?}");
                }
            }
        }
    }

    /// Tiles that agree leave no trace of where they meet.
    #[test]
    fn equal_tiles_blend_into_one() {
        let (height, width, side) = (70, 50, 24);
        let value = |y: usize, x: usize, c: usize| (y * 31 + x * 7 + c) as f32 / 100.0;
        let mut blend = Blend::new(height, width, 2);
        for down in spans(height, side) {
            for across in spans(width, side) {
                let tile: Vec<f32> = (down.clone())
                    .flat_map(|y| across.clone().flat_map(move |x| [0, 1].map(|c| value(y, x, c))))
                    .collect();
                let fades = (fade(&down, height, side, 1), fade(&across, width, side, 1));
                blend.add((down.start, across.start), &tile, &fades.0, &fades.1);
            }
        }
        for (i, blended) in blend.finish().into_iter().enumerate() {
            let expected = value(i / 2 / width, i / 2 % width, i % 2);
            assert!((blended - expected).abs() < 1e-4, "{i}: {blended} instead of {expected}");
        }
    }
}
