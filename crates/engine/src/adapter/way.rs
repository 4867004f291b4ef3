//! The two ways in which a change acts: in a layer's weight, or as a product beside the layer.
//!
//! In the weight it costs nothing while the network runs, and `in · out` numbers have to be read, changed and
//! packed whenever an adapter's weight is another. Beside the layer it costs each row of each evaluation
//! `rank · (in + out)` products, and another weight next to nothing: `up · down · x` with the sum of the layer,
//! before that is rounded. So what stays the same for a whole picture is patched, and where a weight changes
//! over the steps each module goes the way that costs less for this picture: as a rule the wide layers of the
//! small maps beside, the others patched.
//!
//! The choice depends on the request alone, so that the same request makes the same picture.

use crate::{Request, adapter::block::Block};

/// What a picture asks of the layers of a UNet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    /// Pixels of the UNet's first maps in one evaluation, all images together.
    pixels: usize,
    /// Steps, between which weights may change.
    pub(super) steps: u32,
    /// Evaluations.
    calls: usize,
}

/// A layer that adapters change over the steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changed<'a> {
    pub(super) shape: &'a [usize],
    /// How often its maps were halved.
    pub(super) level: usize,
    /// Of all factors together.
    pub(super) ranks: usize,
    /// How often it changes after the first step.
    pub(super) changes: usize,
}

/// To read and pack a number of a weight costs as much as so many products of factors. Measured with AMX, on
/// which this varies least in favour of patching.
const PASS: usize = 200;

impl Demand {
    /// Of a request.
    pub(crate) fn of(request: &Request) -> Demand {
        let images = if request.guidance_scale == 1.0 { 1 } else { 2 };
        Demand {
            pixels: images * (request.width as usize / 8) * (request.height as usize / 8),
            steps: request.steps,
            calls: request.steps as usize * request.sampler.calls_per_step,
        }
    }

    /// Whether a change costs less beside the layer than in its weight.
    pub(super) fn is_beside(self, layer: Changed<'_>) -> bool {
        let Changed { shape, level, ranks, changes } = layer;
        let (&[outputs, ref inputs @ ..], true) = (shape, shape.len() > 1) else { return false };
        let width: usize = inputs.iter().product();
        let rows = (self.pixels >> (2 * level)).max(1);
        let beside = (self.calls * rows) as f64 * (ranks * (width + outputs)) as f64;
        beside < changes as f64 * (width * outputs) as f64 * (ranks + PASS) as f64
    }
}

/// How often the maps of a block were halved, where the way in has so many blocks: three to a level.
pub(super) fn level(block: Block, blocks_in: usize) -> usize {
    let lowest = blocks_in.saturating_sub(1) / 3;
    match block {
        Block::In(at) => at / 3,
        Block::Middle => lowest,
        Block::Out(at) => lowest.saturating_sub(at / 3),
        Block::TextEncoder | Block::TextEncoder2 | Block::Rest => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(side: usize) -> Demand {
        Demand { pixels: 2 * (side / 8) * (side / 8), steps: 20, calls: 20 }
    }

    /// SD 1.x at 512 × 512 with five adapters of rank 32 that change at every step.
    #[test]
    fn wide_layers_of_small_maps_are_beside() {
        let is_beside = |channels: usize, level: usize, changes: usize| {
            let shape = [channels, channels];
            demand(512).is_beside(Changed { shape: &shape, level, ranks: 160, changes })
        };
        assert!(is_beside(1280, 3, 19) && is_beside(1280, 2, 19));
        assert!(!is_beside(320, 0, 19));
        assert!(!is_beside(1280, 2, 1), "what changes once is made once more");
        let norm = Changed { shape: &[1280], level: 3, ranks: 1, changes: 19 };
        assert!(!demand(512).is_beside(norm), "a normalization has no factors");
    }

    #[test]
    fn levels_are_those_of_the_maps() {
        let levels = |blocks: &[Block], blocks_in| -> Vec<usize> {
            blocks.iter().map(|block| level(*block, blocks_in)).collect()
        };
        let sides = [Block::In(0), Block::In(4), Block::In(11), Block::Middle];
        assert_eq!(levels(&sides, 12), [0, 1, 3, 3]);
        assert_eq!(
            levels(&[Block::Out(0), Block::Out(2), Block::Out(3), Block::Out(11)], 12),
            [3, 3, 2, 0]
        );
        assert_eq!(
            levels(&[Block::In(8), Block::Middle, Block::Out(0), Block::Out(8)], 9),
            [2, 2, 2, 0]
        );
    }
}
