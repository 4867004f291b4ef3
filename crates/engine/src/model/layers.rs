//! The layers of one base model with its adapters applied, by canonical name, for the networks to be
//! built from.

use std::{collections::HashMap, fmt::Display, path::PathBuf};

use kernels::conv::Window;

use crate::{
    Error, Result,
    ops::{Conv, Linear, Norm, Weights},
};

/// Every module's weights in their working form.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    pub(crate) modules: HashMap<String, Weights>,
    /// What error messages name.
    pub(crate) path: PathBuf,
}

impl Layers {
    /// Everything below `path`.
    pub(crate) fn scope(&self, path: &str) -> Scope<'_> {
        Scope { layers: self, path: path.to_owned() }
    }
}

/// The layers below one place of a network. All sizes are checked here, while the network is built,
/// so that no operation can meet a size that it does not expect.
#[derive(Debug, Clone)]
pub(crate) struct Scope<'a> {
    layers: &'a Layers,
    path: String,
}

impl Scope<'_> {
    /// A place below this one.
    pub(crate) fn at(&self, name: impl Display) -> Self {
        Scope { layers: self.layers, path: format!("{}.{name}", self.path) }
    }

    /// Whether there is a module of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.layers.modules.contains_key(&format!("{}.{name}", self.path))
    }

    /// How many inputs a module has, if it is there.
    pub(crate) fn inputs(&self, name: &str) -> Option<usize> {
        self.layers.modules.get(&format!("{}.{name}", self.path)).map(Weights::inputs)
    }

    /// How many places `name.0`, `name.1`, … have a module called `module`.
    pub(crate) fn count(&self, name: &str, module: &str) -> usize {
        (0..).take_while(|i| self.has(&format!("{name}.{i}.{module}"))).count()
    }

    fn weights(&self, name: &str) -> Result<Weights> {
        let name = format!("{}.{name}", self.path);
        self.layers.modules.get(&name).cloned().ok_or_else(|| Error::Incomplete {
            path: self.layers.path.clone(),
            missing: format!("`{name}` is missing"),
            advice: "Get the file again, or use another".into(),
        })
    }

    fn check(&self, name: &str, weights: &Weights, inputs: usize, kernel: usize) -> Result<()> {
        if (weights.inputs(), weights.kernel()) == (inputs, kernel) {
            return Ok(());
        }
        Err(Error::WrongShape {
            path: self.layers.path.clone(),
            tensor: format!("{}.{name}.weight", self.path),
            found: vec![weights.outputs(), weights.inputs(), weights.kernel(), weights.kernel()],
            expected: format!("{inputs} inputs and a {kernel} × {kernel} kernel"),
        })
    }

    /// Fails with `expected` in the message unless a size is what the architecture needs.
    pub(crate) fn require(&self, ok: bool, name: &str, expected: &str) -> Result<()> {
        if ok {
            return Ok(());
        }
        let weights = self.weights(name)?;
        Err(Error::WrongShape {
            path: self.layers.path.clone(),
            tensor: format!("{}.{name}.weight", self.path),
            found: vec![weights.outputs(), weights.inputs()],
            expected: expected.to_owned(),
        })
    }

    /// A linear layer with `inputs` inputs; also one that is stored as a 1 × 1 convolution.
    pub(crate) fn linear(&self, name: &str, inputs: usize) -> Result<Linear> {
        let weights = self.weights(name)?;
        self.check(name, &weights, inputs, 1)?;
        Ok(Linear(weights))
    }

    /// A linear layer from `inputs` to `outputs`.
    pub(crate) fn linear_to(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let layer = self.linear(name, inputs)?;
        let expected = format!("{outputs} outputs");
        self.require(layer.0.outputs() == outputs, name, &expected)?;
        Ok(layer)
    }

    /// A 3 × 3 convolution with `inputs` input channels.
    pub(crate) fn conv3(
        &self,
        name: &str,
        inputs: usize,
        stride: usize,
        before: usize,
    ) -> Result<Conv> {
        let weights = self.weights(name)?;
        self.check(name, &weights, inputs, 3)?;
        Ok(Conv { weights, window: Window { kernel: 3, stride, before, after: 1 } })
    }

    /// A normalization of `channels` channels in `groups` groups (1 for a layer normalization).
    pub(crate) fn norm(
        &self,
        name: &str,
        channels: usize,
        groups: usize,
        eps: f32,
    ) -> Result<Norm> {
        let weights = self.weights(name)?;
        let expected = format!("{channels} channels in {groups} groups");
        let fits = weights.outputs() == channels && weights.inputs() == 1;
        self.require(fits && channels.is_multiple_of(groups), name, &expected)?;
        Ok(Norm { weights, eps })
    }

    /// A table of at least `rows` rows, as an embedding is.
    pub(crate) fn table(&self, name: &str, rows: usize) -> Result<Weights> {
        let weights = self.weights(name)?;
        let expected = format!("at least {rows} rows");
        self.require(weights.outputs() >= rows && weights.kernel() == 1, name, &expected)?;
        Ok(weights)
    }
}
