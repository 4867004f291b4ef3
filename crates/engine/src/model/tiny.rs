//! TAESD, a VAE small enough to look at each step: convolutions and rectifiers only (Bohan, 2023,
//! <https://github.com/madebyollin/taesd>). Its latents are those of the UNet, without a factor.

use crate::{
    Result,
    model::layers::Scope,
    ops::{self, Conv, Function, Map},
};

/// Layers that are looked for; those without weights have numbers too.
const MOST_LAYERS: usize = 64;

/// From latents to a picture.
#[derive(Debug)]
pub(crate) struct TinyDecoder(Vec<Layer>);

/// From a picture to latents.
#[derive(Debug)]
pub(crate) struct TinyEncoder(Vec<Layer>);

#[derive(Debug)]
enum Layer {
    /// The first and the last.
    Conv(Conv),
    /// Halves the map.
    Down(Conv),
    /// Behind a doubling of the map.
    Up(Conv),
    /// `relu(x + conv3(relu(conv2(relu(conv1(x))))))`.
    Block([Conv; 3]),
}

impl TinyDecoder {
    /// From the layers below `at` (the whole VAE's place).
    pub(crate) fn new(at: &Scope<'_>) -> Result<TinyDecoder> {
        let at = at.at("decoder");
        let (layers, outputs) = layers(&at, 4, Layer::Up, 1)?;
        at.require(outputs == 3, "layers.0", "3 outputs in the end")?;
        Ok(TinyDecoder(layers))
    }

    /// How many times larger the picture is than its latents.
    pub(crate) fn scale(&self) -> usize {
        1 << self.0.iter().filter(|layer| matches!(layer, Layer::Up(_))).count()
    }

    /// Roughly what decoding a picture of this many pixels takes at most, in bytes.
    pub(crate) fn peak_bytes(&self, pixels: u64) -> u64 {
        let channels = self.0.iter().rev().find_map(|layer| match layer {
            Layer::Block(convs) => Some(convs[0].weights.outputs()),
            _ => None,
        });
        pixels * 4 * channels.unwrap_or_default() as u64 * size_of::<f32>() as u64
    }

    /// * `latents`: of unit variance, `(B, H, W, 4)`
    /// * returns `(B, 8 H, 8 W, 3)`, -1 to 1
    pub(crate) fn forward(&self, latents: &Map) -> Result<Map> {
        let mut x = ops::each(latents, Function::SoftClamp)?;
        for (i, layer) in self.0.iter().enumerate() {
            x = layer.forward(x)?;
            if i == 0 {
                x = ops::each(&x, Function::Relu)?;
            }
        }
        ops::each(&x, Function::Affine(2.0, -1.0))
    }
}

impl TinyEncoder {
    /// From the layers below `at` (the whole VAE's place).
    pub(crate) fn new(at: &Scope<'_>) -> Result<TinyEncoder> {
        let at = at.at("encoder");
        let (layers, outputs) = layers(&at, 3, Layer::Down, 2)?;
        at.require(outputs == 4, "layers.0", "4 outputs in the end")?;
        Ok(TinyEncoder(layers))
    }

    /// * `picture`: `(B, H, W, 3)`, -1 to 1
    /// * returns latents of unit variance, `(B, H / 8, W / 8, 4)`
    pub(crate) fn forward(&self, picture: &Map) -> Result<Map> {
        let x = ops::each(picture, Function::Affine(0.5, 0.5))?;
        self.0.iter().try_fold(x, |x, layer| layer.forward(x))
    }
}

/// The layers from `inputs` channels on, and the channels of their result. A convolution between the first
/// and the last changes the size: `resample` says how, `stride` is its own.
fn layers(
    at: &Scope<'_>,
    inputs: usize,
    resample: fn(Conv) -> Layer,
    stride: usize,
) -> Result<(Vec<Layer>, usize)> {
    let numbers: Vec<usize> = (0..MOST_LAYERS)
        .filter(|i| at.has(&format!("layers.{i}")) || at.has(&format!("layers.{i}.conv.0")))
        .collect();
    let mut channels = inputs;
    let mut layers = Vec::new();
    for &i in &numbers {
        let name = format!("layers.{i}");
        let ends = i == 0 || Some(&i) == numbers.last();
        if at.has(&name) {
            let conv = at.conv3(&name, channels, if ends { 1 } else { stride }, 1)?;
            channels = conv.weights.outputs();
            layers.push(if ends { Layer::Conv(conv) } else { resample(conv) });
        } else {
            let conv = |part| at.conv3(&format!("{name}.conv.{part}"), channels, 1, 1);
            let convs = [conv(0)?, conv(2)?, conv(4)?];
            let same = convs.iter().all(|conv| conv.weights.outputs() == channels);
            at.require(same, &format!("{name}.conv.0"), "as many outputs as inputs")?;
            layers.push(Layer::Block(convs));
        }
    }
    // An empty network would be found by its missing first layer.
    at.require(!layers.is_empty(), "layers.0", "layers")?;
    Ok((layers, channels))
}

impl Layer {
    fn forward(&self, x: Map) -> Result<Map> {
        let relu = |x: &Map| ops::each(x, Function::Relu);
        match self {
            Layer::Conv(conv) | Layer::Down(conv) => ops::conv(conv, &ops::padded(&x)),
            Layer::Up(conv) => {
                let size = x.size();
                ops::conv_doubled(conv, &x, 2 * size.height, 2 * size.width)
            }
            Layer::Block([first, second, third]) => {
                let h = relu(&ops::conv(first, &ops::padded(&x))?)?;
                let h = relu(&ops::conv(second, &ops::padded(&h))?)?;
                relu(&ops::conv_plus(third, &ops::padded(&h), None, Some(&x))?)
            }
        }
    }
}
