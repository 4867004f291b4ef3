//! 3 × 3 convolutions with a quarter of the products: Winograd's minimal filtering.
//!
//! F(4 × 4, 3 × 3) of Lavin & Gray (2016, "Fast Algorithms for Convolutional Neural Networks", section
//! 4.1): sixteen results of a channel from 36 products instead of 144,
//!
//! ```text
//! y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A      g a kernel, d the 6 × 6 pixels that a tile of 4 × 4 sees
//! ```
//!
//! and summed over the channels, each of the 36 places is a matrix product. The polynomials behind it are
//! evaluated at 0, ±√½, ±√2 and ∞, whose powers differ less than those of 0, ±1, ±2 and ∞, so that less
//! is lost when the terms cancel: with `a = √½` and `b = √2`
//!
//! ```text
//!      1  0    -5/2  0    1  0           1     0    0           1  1    1    1     1    0
//!      0  2a    2   -a   -1  0          2/3   2a/3 1/3          0  a   -a    b    -b    0
//! Bᵀ = 0 -2a    2    a   -1  0     G =  2/3  -2a/3 1/3     Aᵀ = 0 1/2  1/2   2     2    0
//!      0 -b/4  -1/4  b/2 1/2 0          1/3   b/3  2/3          0 a/2 -a/2  2b   -2b    1
//!      0  b/4  -1/4 -b/2 1/2 0          1/3  -b/3  2/3
//!      0  1     0   -5/2  0  1           0     0    1
//! ```
//!
//! The arithmetic is in f32, even for bf16: the sums of a result cancel, so its terms must be more
//! exact than it is. Processors that multiply bf16 at twice the rate of f32 still gain a factor of two.
//! Those with AMX do not, and convolve directly.
//!
//! ```text
//! task      some tiles of 4 × 4 pixels
//!  input    Bᵀ d B, sixteen channels at once       [place 36][channel / 16][tile][16]
//!  products place by place, all its outputs         [place 36][panel][tile][16]
//!  output   Aᵀ m A, sixteen outputs at once, then the end of every product
//! ```

use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use super::{PAIR, PANEL, Packed, finish::End, micro::MOST_ROWS, rows::RowBlock};
use crate::{
    Isa,
    conv::{BORDER, Padded, Size, Window},
    lanes::{LANES, Lanes, on_lanes},
    memory::{AnyBits, Shared, Values, with_scratch},
    number::Number,
};

/// Results of a tile in each direction.
const TILE: usize = 4;

/// Pixels that a tile sees in each direction.
const SEEN: usize = 6;

/// Places of a transformed tile.
const PLACES: usize = SEEN * SEEN;

/// The nearer points' distance from zero.
const NEAR: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// The farther points' distance from zero.
const FAR: f32 = std::f32::consts::SQRT_2;

/// With fewer tiles, reading the transformed kernels takes most of what their products save, and they are
/// of layers that are wide: not worth their memory.
const FEWEST_TILES: usize = 40;

/// Larger layers stay as they are: their transformed kernels, four times the direct ones in bf16, would
/// need too much memory, and are met at the coarsest levels of a network, where little is to be gained.
const MOST_KERNELS: usize = 1_250_000;

/// Bytes of transformed tiles and unfinished results that one task works on: they should stay in its
/// part of the last cache. (Measured.)
const TASK_BYTES: usize = 5 << 20;

/// Tiles that one task has at least, so that each transformed kernel that it reads is used often enough.
const TASK_TILES: usize = 36;

/// Transformed kernels, `[place 36][panel][input][16]`.
#[derive(Debug)]
pub(super) enum Kernels {
    /// For f32.
    Whole(Values<f32>),
    /// For bf16: with eight times its accuracy, which the transform of the results needs.
    Half(Values<f16>),
}

/// Numbers that transformed kernels are stored as.
trait Stored: AnyBits + Send + Sync {
    /// # Safety
    /// As [`Lanes::load`].
    unsafe fn lanes<L: Lanes>(from: *const Self) -> L;
    fn narrow(value: f32) -> Self;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn lanes<L: Lanes>(from: *const f32) -> L {
        // SAFETY: the caller's sixteen numbers.
        unsafe { L::load(from) }
    }

    fn narrow(value: f32) -> f32 {
        value
    }
}

impl Stored for f16 {
    #[inline(always)]
    unsafe fn lanes<L: Lanes>(from: *const f16) -> L {
        // SAFETY: the caller's sixteen numbers.
        unsafe { L::load_f16(from) }
    }

    fn narrow(value: f32) -> f16 {
        f16::from_f32(value)
    }
}

/// Whether a convolution is done this way. Depends on nothing but the rung and the sizes, so that the
/// same recipe takes the same path.
pub(super) fn applies<T: Number>(isa: Isa, w: &Packed<T>, size: Size, window: Window) -> bool {
    let same = Window { kernel: 3, stride: 1, before: 1, after: 1 };
    let rung = match isa {
        Isa::Portable | Isa::Neon => false,
        Isa::Amx => T::GROUP == 1,
        _ => true,
    };
    rung && window == same
        && w.taps() == 9
        && w.inputs().is_multiple_of(LANES)
        && w.outputs().is_multiple_of(PAIR)
        && w.inputs() * w.outputs() <= MOST_KERNELS
        && Tiles::of(size).count() >= FEWEST_TILES
}

/// How a batch of images is cut into tiles; the last ones reach beyond their image.
#[derive(Clone, Copy)]
struct Tiles {
    size: Size,
    high: usize,
    wide: usize,
}

impl Tiles {
    fn of(size: Size) -> Tiles {
        Tiles { size, high: size.height.div_ceil(TILE), wide: size.width.div_ceil(TILE) }
    }

    fn count(self) -> usize {
        self.size.batch * self.high * self.wide
    }

    /// The image of a tile, and its first pixel's row and column.
    fn place(self, tile: usize) -> (usize, usize, usize) {
        let (rest, column) = (tile / self.wide, tile % self.wide);
        (rest / self.high, rest % self.high * TILE, column * TILE)
    }
}

impl Kernels {
    /// The kernels of a packed layer, transformed.
    pub(super) fn of<T: Number>(w: &Packed<T>) -> Kernels {
        match T::GROUP {
            1 => Kernels::Whole(transformed(w)),
            _ => Kernels::Half(transformed(w)),
        }
    }
}

fn transformed<T: Number, W: Stored>(w: &Packed<T>) -> Values<W> {
    let (inputs, panels) = (w.inputs(), w.outputs() / PANEL);
    // SAFETY: every place of every panel is written below.
    let mut values: Values<W> = unsafe { Values::unwritten(PLACES * panels * inputs * PANEL) };
    let shared = Shared::new(&mut values);
    (0..panels).into_par_iter().for_each(|panel| {
        let mut places = [[0.0; PANEL]; PLACES];
        for input in 0..inputs {
            transform_kernels(&w.kernels(panel, input), &mut places);
            for (place, numbers) in places.iter().enumerate() {
                let at = ((place * panels + panel) * inputs + input) * PANEL;
                // SAFETY: sixteen numbers of this task's panel.
                let to = unsafe { std::slice::from_raw_parts_mut(shared.get().add(at), PANEL) };
                for (to, &number) in to.iter_mut().zip(numbers) {
                    *to = W::narrow(number);
                }
            }
        }
    });
    values
}

on_lanes! {
    /// `G g Gᵀ` for sixteen kernels.
    fn transform_kernels(kernels: &[[f32; PANEL]; 9], places: &mut [[f32; PANEL]; PLACES]) {
        // SAFETY: sixteen numbers each.
        unsafe {
            let rows = |g: [L; 3]| {
                let [a, b, c] = g;
                let near = c.mul_add(L::splat(0.5), a).mul(L::splat(2.0 / 3.0));
                let near_odd = b.mul(L::splat(2.0 / 3.0 * NEAR));
                let far = c.mul_add(L::splat(2.0), a).mul(L::splat(1.0 / 3.0));
                let far_odd = b.mul(L::splat(1.0 / 3.0 * FAR));
                [a, near.add(near_odd), near.sub(near_odd), far.add(far_odd), far.sub(far_odd), c]
            };
            let mut columns = [[L::splat(0.0); SEEN]; 3];
            for (x, column) in columns.iter_mut().enumerate() {
                *column = rows([0, 1, 2].map(|y| L::load(kernels[3 * y + x].as_ptr())));
            }
            for y in 0..SEEN {
                let row = rows([0, 1, 2].map(|x| columns[x][y]));
                for (x, value) in row.into_iter().enumerate() {
                    value.store(places[SEEN * y + x].as_mut_ptr());
                }
            }
        }
    }
}

/// One column (or row) of `Bᵀ d`.
///
/// # Safety
/// The processor must have the lanes' instructions.
#[inline(always)]
unsafe fn of_pixels<L: Lanes>(d: [L; SEEN]) -> [L; SEEN] {
    // SAFETY: the caller's conditions.
    unsafe {
        let minus = L::splat(-2.5);
        let first = d[2].mul_add(minus, d[0].add(d[4]));
        let last = d[3].mul_add(minus, d[1].add(d[5]));
        let near = d[2].mul_add(L::splat(2.0), d[4].mul(L::splat(-1.0)));
        let near_odd = d[1].mul_add(L::splat(2.0), d[3].mul(L::splat(-1.0)));
        let near_odd = near_odd.mul(L::splat(NEAR));
        let far = d[4].mul_add(L::splat(0.5), d[2].mul(L::splat(-0.25)));
        let far_odd = d[3].mul_add(L::splat(0.5), d[1].mul(L::splat(-0.25)));
        let far_odd = far_odd.mul(L::splat(FAR));
        [first, near.add(near_odd), near.sub(near_odd), far.add(far_odd), far.sub(far_odd), last]
    }
}

/// One column (or row) of `Aᵀ m`.
///
/// # Safety
/// The processor must have the lanes' instructions.
#[inline(always)]
unsafe fn of_products<L: Lanes>(m: [L; SEEN]) -> [L; TILE] {
    // SAFETY: the caller's conditions.
    unsafe {
        let (near, near_odd) = (m[1].add(m[2]), m[1].sub(m[2]));
        let (far, far_odd) = (m[3].add(m[4]), m[3].sub(m[4]));
        [
            m[0].add(near).add(far),
            far_odd.mul_add(L::splat(2.0), near_odd).mul(L::splat(NEAR)),
            far.mul_add(L::splat(2.0), near.mul(L::splat(0.5))),
            far_odd.mul_add(L::splat(8.0), near_odd).mul_add(L::splat(NEAR / 2.0), m[5]),
        ]
    }
}

/// A convolution that [`applies`] says yes to.
pub(super) fn conv<T: Number>(
    isa: Isa,
    x: &Padded<T>,
    kernels: &Kernels,
    inputs: usize,
    end: &End<'_, T>,
    out: &mut [T],
) {
    match kernels {
        Kernels::Whole(kernels) => Job { x, kernels, inputs, end }.run(isa, out),
        Kernels::Half(kernels) => Job { x, kernels, inputs, end }.run(isa, out),
    }
}

/// One convolution, all that its tasks share.
struct Job<'a, T, W> {
    x: &'a Padded<T>,
    kernels: &'a [W],
    inputs: usize,
    end: &'a End<'a, T>,
}

impl<T: Number, W: Stored> Job<'_, T, W> {
    fn run(&self, isa: Isa, out: &mut [T]) {
        let tiles = Tiles::of(self.x.size());
        let panels = self.end.pairs() * 2;
        assert_eq!(self.kernels.len(), PLACES * panels * self.inputs * PANEL);
        assert_eq!(self.x.size().channels, self.inputs);
        let rows = if isa == Isa::Avx2 { AVX2_ROWS } else { AVX512_ROWS };
        let blocks = tiles.count().div_ceil(rows);
        // As many tasks as fit the cache, shared out evenly.
        let bytes = PLACES * rows * (self.inputs + panels * PANEL) * size_of::<f32>();
        let threads = rayon::current_num_threads();
        let most = (TASK_BYTES / bytes).max(TASK_TILES / rows);
        let tasks = blocks.div_ceil(most).next_multiple_of(threads);
        let per_task = blocks.div_ceil(tasks) * rows;
        let out = Shared::new(out);
        (0..tiles.count().div_ceil(per_task)).into_par_iter().with_max_len(1).for_each(|task| {
            let first = task * per_task;
            let task = first..tiles.count().min(first + per_task);
            let slots = task.len().next_multiple_of(rows);
            let pixels = PLACES * slots * self.inputs;
            let len = pixels + PLACES * slots * panels * PANEL;
            with_scratch(len, |scratch| {
                let (pixels, products) = scratch.split_at_mut(pixels);
                // SAFETY: the processor has the rung, which `conv_with` asserted; the sizes were
                // checked above; each tile's pixels of `out` belong to this task alone.
                unsafe {
                    match isa {
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2 => self.avx2(tiles, task, pixels, products, out.get()),
                        #[cfg(target_arch = "x86_64")]
                        isa if isa > Isa::Avx2 => {
                            self.avx512(tiles, task, pixels, products, out.get());
                        }
                        _ => self.task::<crate::lanes::Plain, AVX512_ROWS, 2>(
                            tiles,
                            task,
                            pixels,
                            products,
                            out.get(),
                        ),
                    }
                }
            });
        });
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn avx512(
        &self,
        tiles: Tiles,
        task: Range<usize>,
        pixels: &mut [f32],
        products: &mut [f32],
        out: *mut T,
    ) {
        // SAFETY: this function has the instructions; the rest is the caller's.
        unsafe {
            self.task::<crate::lanes::Avx512, AVX512_ROWS, 2>(tiles, task, pixels, products, out);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(
        &self,
        tiles: Tiles,
        task: Range<usize>,
        pixels: &mut [f32],
        products: &mut [f32],
        out: *mut T,
    ) {
        // SAFETY: this function has the instructions; the rest is the caller's.
        unsafe {
            self.task::<crate::lanes::Avx2, AVX2_ROWS, 1>(tiles, task, pixels, products, out);
        }
    }

    /// # Safety
    /// The processor must have the lanes' instructions, the scratch be as `run` makes it, and the
    /// tiles' pixels of `out` belong to the caller alone.
    #[inline(always)]
    unsafe fn task<L: Lanes, const ROWS: usize, const SIDE: usize>(
        &self,
        tiles: Tiles,
        task: Range<usize>,
        pixels: &mut [f32],
        products: &mut [f32],
        out: *mut T,
    ) {
        let panels = self.end.pairs() * 2;
        let slots = task.len().next_multiple_of(ROWS);
        // SAFETY: the caller's conditions.
        unsafe {
            for (slot, tile) in task.clone().enumerate() {
                self.see::<L>(tiles, tile, slots, pixels.as_mut_ptr().add(slot * LANES));
            }
            // Tiles that fill up the last block: their products are never looked at, but must be
            // numbers that are soon computed.
            for slot in task.len()..slots {
                for place in 0..PLACES * self.inputs / LANES {
                    L::splat(0.0).store(pixels.as_mut_ptr().add((place * slots + slot) * LANES));
                }
            }
            for place in 0..PLACES {
                let a = pixels.as_ptr().add(place * slots * self.inputs);
                let b = self.kernels.as_ptr().add(place * panels * self.inputs * PANEL);
                let c = products.as_mut_ptr().add(place * slots * panels * PANEL);
                for panel in (0..panels).step_by(SIDE) {
                    let b = b.add(panel * self.inputs * PANEL);
                    let c = c.add(panel * slots * PANEL);
                    for row in (0..slots).step_by(ROWS) {
                        let (a, c) = (a.add(row * LANES), c.add(row * PANEL));
                        multiply::<L, W, ROWS, SIDE>(a, b, self.inputs, slots, c);
                    }
                }
            }
            for (slot, tile) in task.enumerate() {
                self.put::<L>(tiles, tile, slots, products.as_ptr().add(slot * PANEL), out);
            }
        }
    }

    /// Transforms what a tile sees, into its slot.
    ///
    /// # Safety
    /// As [`task`](Job::task); `to` must be followed by the places of all slots behind it.
    #[inline(always)]
    unsafe fn see<L: Lanes>(&self, tiles: Tiles, tile: usize, slots: usize, to: *mut f32) {
        let Size { height, width, channels, .. } = tiles.size;
        let (image, top, left) = tiles.place(tile);
        let (padded_height, padded_width) = (height + 2 * BORDER, width + 2 * BORDER);
        let (high, wide) = (SEEN.min(padded_height - top), SEEN.min(padded_width - left));
        // SAFETY: rows and columns within the padded image; the places of the slot.
        unsafe {
            let corner = (image * padded_height + top) * padded_width + left;
            let x = self.x.values().as_ptr().add(corner * channels);
            for channel in (0..channels).step_by(LANES) {
                let mut columns = [[L::splat(0.0); SEEN]; SEEN];
                for (across, column) in columns.iter_mut().enumerate() {
                    let mut d = [L::splat(0.0); SEEN];
                    if across < wide {
                        for (down, d) in d.iter_mut().enumerate() {
                            if down < high {
                                let at = (down * padded_width + across) * channels + channel;
                                *d = T::load(x.add(at));
                            }
                        }
                    }
                    *column = of_pixels(d);
                }
                let to = to.add(channel * slots);
                for down in 0..SEEN {
                    let row = of_pixels(columns.map(|column| column[down]));
                    for (across, value) in row.into_iter().enumerate() {
                        value.store(to.add((SEEN * down + across) * slots * channels));
                    }
                }
            }
        }
    }

    /// Transforms a tile's products to its pixels, finishes and stores them.
    ///
    /// # Safety
    /// As [`task`](Job::task).
    #[inline(always)]
    unsafe fn put<L: Lanes>(
        &self,
        tiles: Tiles,
        tile: usize,
        slots: usize,
        products: *const f32,
        out: *mut T,
    ) {
        let Size { height, width, .. } = tiles.size;
        let (image, top, left) = tiles.place(tile);
        let (high, wide) = (TILE.min(height - top), TILE.min(width - left));
        let (pairs, panels) = (self.end.pairs(), self.end.pairs() * 2);
        let mut rows: RowBlock<MOST_ROWS> = RowBlock {
            inputs: [0; MOST_ROWS],
            outputs: [0; MOST_ROWS],
            images: [image; MOST_ROWS],
            count: high * wide,
        };
        for (index, row) in rows.outputs.iter_mut().take(high * wide).enumerate() {
            *row = (image * height + top + index / wide) * width + left + index % wide;
        }
        let mut sums = [[0.0f32; PAIR]; TILE * TILE];
        // SAFETY: the slot's places of each panel; a place for each pixel of the tile.
        unsafe {
            for pair in 0..pairs {
                for side in 0..2 {
                    let from = products.add((2 * pair + side) * slots * PANEL);
                    let mut columns = [[L::splat(0.0); TILE]; SEEN];
                    for (across, column) in columns.iter_mut().enumerate() {
                        let mut m = [L::splat(0.0); SEEN];
                        for (down, m) in m.iter_mut().enumerate() {
                            let place = SEEN * down + across;
                            *m = L::load(from.add(place * panels * slots * PANEL));
                        }
                        *column = of_products(m);
                    }
                    for down in 0..high {
                        let row = of_products(columns.map(|column| column[down]));
                        for (across, value) in row.into_iter().enumerate().take(wide) {
                            value.store(sums[down * wide + across].as_mut_ptr().add(side * PANEL));
                        }
                    }
                }
                self.end.store::<L>(sums.as_ptr().cast(), &rows, pair, out);
            }
        }
    }
}

const AVX512_ROWS: usize = 12;
const AVX2_ROWS: usize = 6;

/// `ROWS` tiles by `SIDE` panels of one place: `c[panel][row] = Σ a[input][row] · b[panel][input]`.
///
/// # Safety
/// * `a`: `[inputs / 16][slots][16]`, from the block's first row on
/// * `b`: `[SIDE][inputs][16]`
/// * `c`: `[SIDE][slots][16]`, from the block's first row on
///
/// and the processor must have the lanes' instructions.
#[inline(always)]
unsafe fn multiply<L: Lanes, W: Stored, const ROWS: usize, const SIDE: usize>(
    a: *const f32,
    b: *const W,
    inputs: usize,
    slots: usize,
    c: *mut f32,
) {
    // SAFETY: the caller's conditions.
    unsafe {
        let mut sums = [[L::splat(0.0); SIDE]; ROWS];
        for chunk in 0..inputs / LANES {
            let a = a.add(chunk * slots * LANES);
            let b = b.add(chunk * LANES * PANEL);
            for k in 0..LANES {
                let mut weights = [L::splat(0.0); SIDE];
                for (side, weights) in weights.iter_mut().enumerate() {
                    *weights = W::lanes(b.add((side * inputs + k) * PANEL));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = L::splat(*a.add(row * LANES + k));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = a.mul_add(weights, *sum);
                    }
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (side, sum) in sums.into_iter().enumerate() {
                sum.store(c.add((side * slots + row) * PANEL));
            }
        }
    }
}
