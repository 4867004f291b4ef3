//! The text encoder: CLIP's text transformer (Radford et al., 2021), with its pooled output.

use crate::{
    Error, Result,
    architecture::States,
    model::layers::Scope,
    ops::{self, Activation, Linear, Norm, Storage, Tokens, Weights},
};

/// Tokens per chunk, start and end included: the length the position table was trained for.
pub(crate) const CONTEXT: usize = 77;

/// What no shape shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ClipConfig {
    /// Attention heads.
    pub(crate) heads: usize,
    /// The activation of the feed-forward layers.
    pub(crate) activation: Activation,
    /// Epsilon of the layer normalizations.
    pub(crate) eps: f32,
    /// Layers at the end that are left out.
    pub(crate) unused_layers: usize,
    /// What the UNet reads.
    pub(crate) states: States,
}

/// The text encoder.
#[derive(Debug)]
pub(crate) struct Clip {
    tokens: Weights,
    positions: Weights,
    layers: Vec<Layer>,
    final_norm: Norm,
    /// Of the pooled state; not every encoder gives one.
    projection: Option<Linear>,
    activation: Activation,
    states: States,
}

/// One chunk as encoded.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// `(1, 77, width)`.
    pub(crate) states: Tokens,
    /// What the whole chunk says: the normalized last state of its end token, projected.
    pub(crate) pooled: Option<Vec<f32>>,
}

#[derive(Debug)]
struct Layer {
    norm1: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

impl Clip {
    /// From the layers below `at` (the component's place).
    pub(crate) fn new(at: &Scope<'_>, config: ClipConfig) -> Result<Clip> {
        let projected = at.has("text_projection");
        let (top, at) = (at, at.at("text_model"));
        let tokens = at.table("embeddings.token_embedding", 1)?;
        let width = tokens.inputs();
        let expected = format!("a width that {} attention heads can share", config.heads);
        let fits = config.heads > 0 && width.is_multiple_of(config.heads);
        at.require(fits, "embeddings.token_embedding", &expected)?;
        let positions = at.table("embeddings.position_embedding", CONTEXT)?;
        let same = positions.inputs() == width;
        at.require(same, "embeddings.position_embedding", "the width of the token table")?;
        let layers = at.count("encoder.layers", "self_attn.q_proj");
        let layers = layers.saturating_sub(config.unused_layers);
        Ok(Clip {
            layers: (0..layers)
                .map(|i| Layer::new(&at.at(format!("encoder.layers.{i}")), width, config))
                .collect::<Result<_>>()?,
            final_norm: at.norm("final_layer_norm", width, 1, config.eps)?,
            projection: match projected {
                true => Some(top.linear("text_projection", width)?),
                false => None,
            },
            states: config.states,
            tokens,
            positions,
            activation: config.activation,
        })
    }

    /// Channels of the encoded prompt.
    pub(crate) fn width(&self) -> usize {
        self.tokens.inputs()
    }

    /// Number of tokens that it knows.
    pub(crate) fn vocabulary(&self) -> usize {
        self.tokens.outputs()
    }

    /// Encodes one chunk.
    ///
    /// * `ids`: [`CONTEXT`] tokens below [`vocabulary`](Clip::vocabulary)
    /// * `end`: which of them is the end token
    /// * `vectors`: places whose token is not looked up, with what stands there instead
    /// * `clip_skip`: 1 for the last layer's output, 2 for the last but one's. Where the UNet was trained
    ///   on normalized states, the final normalization follows in each case, as in A1111 and ComfyUI;
    ///   where it was trained on the last but one's, 1 means that too, as in A1111
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if there are fewer layers than `clip_skip`.
    pub(crate) fn encode(
        &self,
        ids: &[u32],
        end: usize,
        vectors: &[(usize, &[f32])],
        clip_skip: u32,
        storage: &Storage,
    ) -> Result<Encoded> {
        let skip = match self.states {
            States::Normalized => clip_skip,
            States::Penultimate => clip_skip.max(2),
        };
        let depth = (self.layers.len() + 1).checked_sub(skip as usize).filter(|&depth| depth > 0);
        let Some(depth) = depth else {
            return Err(Error::InvalidRequest {
                field: "clip skip",
                found: clip_skip.to_string(),
                rule: format!("this text encoder has {} layers", self.layers.len()),
            });
        };
        let mut x = Vec::with_capacity(ids.len() * self.width());
        for (position, &id) in ids.iter().enumerate() {
            let given = vectors.iter().find(|(place, _)| *place == position);
            let token = given.map_or_else(|| self.tokens.row(id as usize), |row| row.1.to_vec());
            let place = self.positions.row(position);
            x.extend(token.iter().zip(place).map(|(token, place)| token + place));
        }
        let mut x = Tokens::new(&x, 1, self.width(), storage)?;
        for layer in &self.layers[..depth] {
            x = layer.forward(x, self.activation)?;
        }
        let states = match self.states {
            States::Normalized => ops::layer_norm(&self.final_norm, &x)?,
            States::Penultimate => x.clone(),
        };
        let pooled = self.projection.as_ref().map(|projection| -> Result<_> {
            for layer in &self.layers[depth..] {
                x = layer.forward(x.clone(), self.activation)?;
            }
            let last = ops::layer_norm(&self.final_norm, &x)?;
            let token = &last.values()?[end * self.width()..][..self.width()];
            let token = Tokens::new(token, 1, self.width(), storage)?;
            Ok(ops::linear(projection, &token)?.values()?.into_owned())
        });
        Ok(Encoded { states, pooled: pooled.transpose()? })
    }
}

impl Layer {
    fn new(at: &Scope<'_>, width: usize, config: ClipConfig) -> Result<Layer> {
        let attention = at.at("self_attn");
        let fc1 = at.linear("mlp.fc1", width)?;
        Ok(Layer {
            norm1: at.norm("layer_norm1", width, 1, config.eps)?,
            q: attention.linear_to("q_proj", width, width)?,
            k: attention.linear_to("k_proj", width, width)?,
            v: attention.linear_to("v_proj", width, width)?,
            out: attention.linear_to("out_proj", width, width)?,
            norm2: at.norm("layer_norm2", width, 1, config.eps)?,
            fc2: at.linear_to("mlp.fc2", fc1.0.outputs(), width)?,
            fc1,
            heads: config.heads,
        })
    }

    fn forward(&self, x: Tokens, activation: Activation) -> Result<Tokens> {
        let h = ops::layer_norm(&self.norm1, &x)?;
        let (q, k) = (ops::linear(&self.q, &h)?, ops::linear(&self.k, &h)?);
        let h = ops::attention(&q, &k, &ops::linear(&self.v, &h)?, self.heads, true)?;
        let x = ops::linear_plus(&self.out, &h, &x)?;
        let h = ops::linear_then(&self.fc1, activation, &ops::layer_norm(&self.norm2, &x)?)?;
        ops::linear_plus(&self.fc2, &h, &x)
    }
}
