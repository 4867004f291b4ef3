//! No kernel reads or writes beyond its memory, or reads what nobody wrote: on random shapes, between
//! pages that kill whoever touches them, on every rung that the processor has. The results are those of
//! the portable rung.

use std::convert::Infallible;

use crate::{
    Isa, Number, Operand, Values,
    attention::{Heads, attention_with},
    conv::{Padded, Size, Window},
    memory::guarded::{self, Side},
    norm, pointwise,
    product::{Activation, Extras, Factors, LowRank, Packed, Sampling, conv_with, linear_with},
    testing::{narrow, numbers, rungs},
};

/// Shapes by chance, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, from: usize, to: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from + (self.0 >> 33) as usize % (to - from + 1)
    }
}

fn values<T: Number>(count: usize, seed: u64) -> Values<T> {
    Values::from(&narrow::<T>(&numbers(count, seed))[..])
}

fn agree<T: Number>(ours: &[T], portable: &[T], what: &str) {
    assert_eq!(ours.len(), portable.len(), "{what}");
    let tolerance = if T::GROUP == 1 { 2e-4 } else { 2e-2 };
    let squares: f32 = portable.iter().map(|value| value.to_f32().powi(2)).sum();
    let usual = (squares / portable.len() as f32).sqrt();
    for (at, (a, b)) in ours.iter().zip(portable).enumerate() {
        let (a, b) = (a.to_f32(), b.to_f32());
        assert!((a - b).abs() <= tolerance * b.abs().max(usual), "{what}: {a}, not {b}, at {at}");
    }
}

fn products<T: Operand>(isa: Isa, dice: &mut Dice) {
    for round in 0..12 {
        let (rows, inputs) = (dice.roll(1, 70), dice.roll(1, 250));
        let gated = round % 4 == 3;
        let outputs = if gated { 32 * dice.roll(1, 3) } else { dice.roll(1, 100) };
        let activation =
            [None, Some(Activation::Silu), Some(Activation::Gelu), Some(Activation::Geglu)];
        let activation = activation[round % 4];
        let width = if gated { outputs / 2 } else { outputs };
        let (x, residual) = (values::<T>(rows * inputs, 1), values::<T>(rows * width, 2));
        let (w, bias) = (numbers(outputs * inputs, 3), numbers(outputs, 4));
        let w = Packed::<T>::new(&w, outputs, inputs, 1, Some(&bias), Sampling::Same);
        let ranks = dice.roll(1, 90);
        let (h, up) = (values::<T>(rows * ranks, 18), numbers(outputs * ranks, 19));
        let up = Packed::<T>::new(&up, outputs, ranks, 1, None, Sampling::Same);
        let beside = (round % 3 == 0).then_some((&h[..], &up));
        let extras = Extras { activation, residual: Some(&residual), beside, ..Extras::none() };
        let out = [isa, Isa::Portable].map(|isa| linear_with(isa, &x, &w, &extras));
        agree(&out[0], &out[1], &format!("{isa}: {rows} x {inputs} to {outputs}"));
    }
}

fn convolutions<T: Operand>(isa: Isa, dice: &mut Dice) {
    let window = |kernel, stride, before, after| Window { kernel, stride, before, after };
    let same = window(3, 1, 1, 1);
    let windows = [same, window(3, 2, 1, 1), window(3, 2, 0, 1), window(1, 1, 0, 0)];
    for round in 0..16 {
        // The last rounds are such as Winograd's way takes.
        let many = round >= 12;
        let (least, most) = if many { (25, 31) } else { (2, 12) };
        let (batch, height, width) =
            (dice.roll(1, 2), dice.roll(least, most), dice.roll(least, most));
        let channels = if many { 16 * dice.roll(1, 3) } else { dice.roll(1, 40) };
        let outputs = if many { 32 * dice.roll(1, 2) } else { dice.roll(1, 70) };
        let window = if many { same } else { windows[round % 4] };
        let sampling = if round % 8 == 0 { Sampling::Double } else { Sampling::Same };
        let size = Size { batch, height, width, channels };
        let x = Padded::new(&values::<T>(size.len(), 5), size);
        let taps = window.kernel * window.kernel;
        let (w, bias) = (numbers(outputs * channels * taps, 6), numbers(outputs, 7));
        let terms = values::<T>(batch * outputs, 8);
        let w = Packed::<T>::new(&w, outputs, channels, taps, Some(&bias), sampling);
        let extras = Extras { image_rows: Some(&terms), ..Extras::none() };
        let out = [isa, Isa::Portable].map(|isa| conv_with(isa, &x, &w, window, &extras).0);
        agree(
            &out[0],
            &out[1],
            &format!("{isa}: {size:?} to {outputs} by {window:?}, {sampling:?}"),
        );
    }
}

fn additions<T: Operand>(isa: Isa, dice: &mut Dice) {
    for _ in 0..8 {
        let (outputs, width, rank) = (dice.roll(1, 70), dice.roll(1, 90), dice.roll(1, 40));
        let (left, right) = (values::<f32>(outputs * rank, 15), values::<f32>(rank * width, 16));
        let pair = Factors { left: &left, right: &right, rank, scale: 0.5 };
        let change = LowRank::<T>::new(&[pair, pair]);
        let out = [isa, Isa::Portable].map(|isa| {
            let mut sum = values::<f32>(outputs * width, 17);
            change.add_with(isa, 0, &mut sum);
            sum
        });
        agree(&out[0], &out[1], &format!("{isa}: {outputs} x {width} of rank {rank}, twice"));
        let rows = |first: usize, to: &mut [f32]| {
            to.copy_from_slice(&values::<f32>(outputs * width, 17)[first * width..][..to.len()]);
            Ok::<_, Infallible>(())
        };
        let Ok(packed) =
            Packed::<T>::from_rows(outputs, width, 1, None, Sampling::Same, (rows, Some(&change)));
        let Ok(plain) =
            Packed::<T>::from_rows(outputs, width, 1, None, Sampling::Same, (rows, None));
        assert!(packed.values().ne(plain.values()), "the change is in it");
    }
}

fn attentions<T: Number>(isa: Isa, dice: &mut Dice) {
    for width in [8, 40, 64, 80, 160, 33] {
        let (batch, heads) = (dice.roll(1, 2), dice.roll(1, 3));
        let causal = dice.roll(0, 2) == 0;
        let queries = dice.roll(1, 150);
        let keys = if causal { queries } else { dice.roll(1, 150) };
        let sizes = Heads { batch, heads, width: heads * width };
        let all = |tokens, seed| values::<T>(batch * tokens * heads * width, seed);
        let (q, k, v) = (all(queries, 9), all(keys, 10), all(keys, 11));
        let out = [isa, Isa::Portable].map(|isa| attention_with(isa, &q, &k, &v, sizes, causal));
        agree(
            &out[0],
            &out[1],
            &format!("{isa}: {queries} over {keys}, {sizes:?}, causal {causal}"),
        );
    }
}

/// What is written once for all rungs.
fn the_rest<T: Number>(dice: &mut Dice) {
    for _ in 0..6 {
        let groups = dice.roll(1, 4);
        let channels = groups * dice.roll(1, 30);
        let (height, width) = (dice.roll(1, 20), dice.roll(1, 20));
        let size = Size { batch: dice.roll(1, 2), height, width, channels };
        let x = values::<T>(size.len(), 12);
        let (gamma, beta) = (values::<f32>(channels, 13), values::<f32>(channels, 14));
        let finite = |values: &[T]| assert!(values.iter().all(|value| value.to_f32().is_finite()));
        finite(&norm::group_norm(&x, size, &gamma, &beta, groups, 1e-5));
        let padded = norm::group_norm_padded(&x, size, &gamma, &beta, groups, 1e-5, true);
        finite(padded.values());
        finite(&norm::layer_norm(&x, &gamma, &beta, 1e-5));
        finite(&pointwise::concat(&x, channels, &x, channels));
        finite(pointwise::doubled(&x, size, 2 * height, 2 * width - 1).values());
        assert!(pointwise::widen(&x).iter().all(|value| value.is_finite()));
    }
}

#[test]
fn no_kernel_leaves_its_memory() {
    // Threads of their own: what they keep for the next call is guarded from the first.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for side in [Side::Begin, Side::End] {
        guarded::during(side, || {
            pool.install(|| {
                let mut dice = Dice(7);
                for isa in rungs() {
                    products::<f32>(isa, &mut dice);
                    products::<half::bf16>(isa, &mut dice);
                    convolutions::<f32>(isa, &mut dice);
                    convolutions::<half::bf16>(isa, &mut dice);
                    additions::<f32>(isa, &mut dice);
                    additions::<half::bf16>(isa, &mut dice);
                    attentions::<f32>(isa, &mut dice);
                    attentions::<half::bf16>(isa, &mut dice);
                }
                the_rest::<f32>(&mut dice);
                the_rest::<half::bf16>(&mut dice);
            });
        });
    }
}
