//! One module's share of an adapter file: its tensors, by what they are for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use kernels::product::{Factors, LowRank};

use crate::{Error, Result, adapter::peft::Settings, checkpoint::header::TensorFile};

/// How a file's tensor name may end, and which part of a module that is.
///
/// Trainers disagree on the endings, so several of them may lead to one part.
pub(crate) type Suffix = (&'static str, &'static str);

/// Parts that go with more than one algorithm.
pub(super) const COMMON: &[Suffix] = &[
    // The change is scaled by alpha / rank.
    ("alpha", "alpha"),
    // Instead of alpha / rank (rare).
    ("scale", "scale"),
    // A learned factor that LyCORIS folds into the weights when it saves them.
    ("scalar", "scalar"),
];

/// The tensors of one module, as the file names it.
#[derive(Debug)]
pub(crate) struct Group {
    /// The module's name in the file, without the suffix.
    pub(super) spelling: String,
    /// Index of its file in the adapter.
    pub(super) file: usize,
    /// Part -> name of its tensor.
    pub(super) tensors: BTreeMap<&'static str, String>,
}

/// A module's parts, with the file that they are read from.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(super) file: &'a TensorFile,
    pub(super) group: &'a Group,
    pub(super) settings: &'a Settings,
}

impl<'a> Parts<'a> {
    pub(crate) fn has(&self, part: &str) -> bool {
        self.group.tensors.contains_key(part)
    }

    /// The module's name in the file.
    pub(crate) fn spelling(&self) -> &'a str {
        &self.group.spelling
    }

    /// The part's dimensions.
    pub(crate) fn shape(&self, part: &str) -> Option<&'a [usize]> {
        let name = self.group.tensors.get(part)?;
        Some(&self.file.tensors().get(name)?.shape)
    }

    /// How many numbers the part has.
    pub(super) fn elements(&self, part: &str) -> Option<usize> {
        self.shape(part).map(|shape| shape.iter().product())
    }

    /// The part's values in the file's order.
    ///
    /// # Errors
    /// [`Error::NotFinite`] names the tensor that holds NaN or infinity; otherwise the file cannot
    /// be read. A part that is not there is [`Error::Incomplete`].
    pub(super) fn read(&self, part: &str) -> Result<Vec<f32>> {
        let name = self.group.tensors.get(part).ok_or_else(|| Error::Incomplete {
            path: self.file.path().to_owned(),
            missing: format!("`{}` has no `{part}`", self.group.spelling),
            advice: "Get the file again, or use another".into(),
        })?;
        let mut values = vec![0.0; self.elements(part).unwrap_or_default()];
        self.file.reader(name)?.read_finite(0, &mut values, "turn this adapter off")?;
        Ok(values)
    }

    fn number(&self, part: &str) -> Result<Option<f64>> {
        if !self.has(part) {
            return Ok(None);
        }
        Ok(self.read(part)?.first().map(|&value| f64::from(value)))
    }

    /// What the change is multiplied by, the adapter's weight aside: `alpha / rank`, or 1 where
    /// there is no alpha. The rank is the tensors', which may differ between modules.
    pub(super) fn scale(&self, rank: usize) -> Result<f64> {
        let scale = if let Some(scale) = self.number("scale")? {
            scale
        } else if let Some(alpha) = self.number("alpha")? {
            alpha / rank as f64
        } else {
            self.settings.scale(&self.group.spelling, rank).unwrap_or(1.0)
        };
        Ok(scale * self.scalar()?)
    }

    /// A learned factor that stands beside the change.
    pub(super) fn scalar(&self) -> Result<f64> {
        Ok(self.number("scalar")?.unwrap_or(1.0))
    }

    /// The error of a module whose numbers, not only its shapes, do not go with the base weight.
    pub(super) fn misfit(&self, expected: &str) -> Error {
        Error::WrongShape {
            path: self.file.path().to_owned(),
            tensor: self.group.spelling.clone(),
            found: self.shape("weight").unwrap_or_default().to_vec(),
            expected: expected.to_owned(),
        }
    }

    /// Alpha, as a tensor or from the configuration.
    pub(crate) fn alpha(&self) -> Result<Option<f64>> {
        Ok(self.number("alpha")?.or_else(|| self.settings.alpha(&self.group.spelling)))
    }

    /// The suffixes and shapes of all parts: "lora_down.weight [8, 64], lora_up.weight [64, 8]".
    pub(super) fn describe(&self) -> String {
        let part = |name: &String| {
            let suffix = name[self.group.spelling.len().min(name.len())..].trim_start_matches('.');
            let shape = self.file.tensors().get(name).map_or(&[][..], |info| &info.shape);
            format!("{suffix} {shape:?}")
        };
        let all = self.group.tensors.iter().filter(|(part, _)| **part != "alpha");
        all.map(|(_, name)| part(name)).collect::<Vec<_>>().join(", ")
    }
}

/// The module that is changed, as the base model has it: unpatched.
pub struct Base<'a> {
    shape: &'a [usize],
    bias: Option<&'a [f32]>,
    read: &'a (dyn Fn() -> Result<Vec<f32>> + Sync),
    weight: OnceLock<Vec<f32>>,
}

impl<'a> Base<'a> {
    /// * `shape`: of the weight, `(out)`, `(out, in)` or `(out, in, kh, kw)`
    /// * `read`: gives the weight in f32 and in the file's order; called only for algorithms that need it
    pub fn new(
        shape: &'a [usize],
        bias: Option<&'a [f32]>,
        read: &'a (dyn Fn() -> Result<Vec<f32>> + Sync),
    ) -> Base<'a> {
        Base { shape, bias, read, weight: OnceLock::new() }
    }

    pub(super) fn shape(&self) -> &'a [usize] {
        self.shape
    }

    pub(super) fn bias(&self) -> Option<&'a [f32]> {
        self.bias
    }

    /// The weight, read once for all adapters.
    pub(super) fn weight(&self) -> Result<&[f32]> {
        if let Some(weight) = self.weight.get() {
            return Ok(weight);
        }
        let weight = (self.read)()?;
        Ok(self.weight.get_or_init(|| weight))
    }
}

impl fmt::Debug for Base<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base({:?})", self.shape)
    }
}

/// The sum of the changes to one module, as far as it was multiplied out: products of low rank stay
/// factors, to be multiplied together when the weight is made.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// Changes of low rank.
    pub(crate) pairs: Vec<Pair>,
    /// All others, in the base weight's shape and order; `None` as long as there are none.
    pub(crate) rest: Option<Vec<f32>>,
    /// `(out)`; `None` as long as nothing changes the bias.
    pub bias: Option<Vec<f32>>,
}

/// The change `scale · left · right`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pair {
    /// `(out, rank)`
    pub(crate) left: Arc<Vec<f32>>,
    /// `(rank, in · taps)`
    pub(crate) right: Arc<Vec<f32>>,
    pub(crate) rank: usize,
    pub(crate) scale: f64,
}

impl Pair {
    pub(super) fn new(left: Vec<f32>, right: Vec<f32>, rank: usize, scale: f64) -> Pair {
        Pair { left: Arc::new(left), right: Arc::new(right), rank, scale }
    }

    /// Bytes of both factors.
    pub(super) fn bytes(&self) -> u64 {
        ((self.left.len() + self.right.len()) * size_of::<f32>()) as u64
    }

    /// Leaves the first ranks only, as many as the limit says.
    pub(crate) fn limit(&mut self, ranks: Option<usize>) {
        let Some(ranks) = ranks.filter(|ranks| *ranks < self.rank) else { return };
        let left = self.left.chunks_exact(self.rank).flat_map(|row| &row[..ranks]);
        self.left = Arc::new(left.copied().collect());
        self.right = Arc::new(self.right[..self.right.len() / self.rank * ranks].to_vec());
        self.rank = ranks;
    }
}

impl Delta {
    /// Multiplied out: the change of a weight of this shape, in its order.
    ///
    /// # Panics
    /// If it is a change of another shape.
    #[must_use]
    pub fn weight(&self, shape: &[usize]) -> Vec<f32> {
        let elements: usize = shape.iter().product();
        let mut weight = self.rest.clone().unwrap_or_else(|| vec![0.0; elements]);
        assert_eq!(weight.len(), elements, "a change of this shape");
        if let pairs @ [_, ..] = &*self.factors() {
            LowRank::<f32>::new(pairs).add_to(0, &mut weight);
        }
        weight
    }

    /// The changes of low rank.
    pub(crate) fn factors(&self) -> Vec<Factors<'_>> {
        let pairs = self.pairs.iter();
        let factors = pairs.map(|Pair { left, right, rank, scale }| Factors {
            left,
            right,
            rank: *rank,
            scale: *scale as f32,
        });
        factors.collect()
    }

    /// What is not of low rank, zeros at first.
    pub(super) fn rest(&mut self, shape: &[usize]) -> &mut [f32] {
        self.rest.get_or_insert_with(|| vec![0.0; shape.iter().product()])
    }

    /// Adds a change of the bias, so many times.
    pub(super) fn add_bias(&mut self, change: &[f32], scale: f32) {
        for (sum, change) in self.bias(change.len()).iter_mut().zip(change) {
            *sum += scale * change;
        }
    }

    /// The bias's change, zeros at first.
    pub(super) fn bias(&mut self, outputs: usize) -> &mut [f32] {
        self.bias.get_or_insert_with(|| vec![0.0; outputs])
    }
}

/// `(out, in, taps)` of a weight with factors: a linear layer has one tap, a convolution `kh · kw`.
pub(super) fn dimensions(shape: &[usize]) -> Option<(usize, usize, usize)> {
    match *shape {
        [outputs, inputs] => Some((outputs, inputs, 1)),
        [outputs, inputs, height, width] => Some((outputs, inputs, height * width)),
        _ => None,
    }
}

/// `Σ_q core[p,q,t] · right[q,i]`: core and right factor of a weight in Tucker form, multiplied to one
/// right factor `(p, inputs, taps)`.
///
/// * `core`: `(p, q, taps)`, `right`: `(q, inputs)`
///
/// Hyeon-Woo, Ye-Bin, Oh: FedPara, 2022, <https://arxiv.org/abs/2108.06098>, proposition 3.
pub(super) fn tucker(core: &[f32], right: &[f32], (p, q): (usize, usize), taps: usize) -> Vec<f32> {
    let inputs = right.len() / q;
    let right = transposed(right, inputs);
    let mut product = vec![0.0; p * inputs * taps];
    for (to, core) in product.chunks_exact_mut(inputs * taps).zip(core.chunks_exact(q * taps)) {
        kernels::matmul::add_product(to, &right, core, q, 1.0);
    }
    product
}

/// Multiplies each row of a matrix with a factor of its own.
pub(super) fn scale_rows(matrix: &mut [f32], factors: &[f32]) {
    let width = matrix.len() / factors.len();
    for (row, factor) in matrix.chunks_exact_mut(width).zip(factors) {
        row.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Rows become columns; `width` numbers in a row.
pub(super) fn transposed(matrix: &[f32], width: usize) -> Vec<f32> {
    let height = matrix.len() / width;
    (0..matrix.len()).map(|at| matrix[at % height * width + at / height]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_swaps_rows_and_columns() {
        assert_eq!(transposed(&[1., 2., 3., 4., 5., 6.], 3), [1., 4., 2., 5., 3., 6.]);
    }

    #[test]
    fn tucker_is_the_sum_that_it_says() {
        let (inputs, p, q, taps) = (4, 2, 3, 2);
        let values =
            |n: usize, k: usize| -> Vec<f32> { (0..n).map(|i| (i * k % 7) as f32 - 3.0).collect() };
        let (core, right) = (values(p * q * taps, 5), values(q * inputs, 2));
        let product = tucker(&core, &right, (p, q), taps);
        for p in 0..p {
            for i in 0..inputs {
                for t in 0..taps {
                    let term = |q_: usize| core[(p * q + q_) * taps + t] * right[q_ * inputs + i];
                    let expected: f32 = (0..q).map(term).sum();
                    assert_eq!(product[(p * inputs + i) * taps + t], expected);
                }
            }
        }
    }
}
