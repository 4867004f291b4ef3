//! Modules that are numbered instead of named, as cloneofsimo/lora writes them.
//!
//! The number counts the layers that were trained, in the order in which PyTorch goes through the
//! network: level by level down, then up, then the middle, which was registered last; in a level its
//! attentions, then its resnets. `unet:12:up` is the 13th. Older files are plain lists of matrices, two for
//! each layer.
//!
//! Nothing but the shapes says whether the count was right, and one that is off by one would poison
//! everything: so all of a file fits, or nothing of it is used.

use std::collections::BTreeMap;

use super::parts::Group;
use crate::{architecture::Modules, checkpoint::header::TensorInfo};

/// How the names of modules begin, and the component.
const STARTS: &[(&str, &str)] = &[("unet:", "unet."), ("text_encoder:", "text_encoder.")];

/// Whether a module has a number for a name.
pub(super) fn is_number(spelling: &str) -> bool {
    STARTS.iter().any(|(start, _)| {
        let number = spelling.strip_prefix(start);
        number.is_some_and(|number| number.parse::<usize>().is_ok())
    })
}

/// Which module of the base model each number of an adapter stands for.
pub(super) fn spellings(modules: &Modules, groups: &[&Group]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (start, component) in STARTS {
        let count = groups.iter().filter(|group| group.spelling.starts_with(start)).count();
        if count == 0 {
            continue;
        }
        let order = match *component {
            "unet." => {
                let kinds = [(true, false), (false, false), (true, true), (false, true)];
                let orders = kinds.into_iter();
                let mut orders = orders.map(|(geglu, resnets)| unet(modules, geglu, resnets));
                orders.find(|order| order.len() == count)
            }
            _ => Some(text_encoder(modules)).filter(|order| order.len() == count),
        };
        let numbered = order.into_iter().flatten().enumerate();
        all.extend(numbered.map(|(number, module)| (format!("{start}{number}"), module)));
    }
    all
}

/// The layers of a UNet: those of attention, of feed-forward networks if wanted, of resnets if wanted.
fn unet(modules: &Modules, geglu: bool, resnets: bool) -> Vec<String> {
    let mut order = Vec::new();
    let has = |name: &str| modules.contains_key(name);
    let mut level = |at: String| {
        let attentions = (0..).map(|i| format!("{at}.attentions.{i}"));
        // Levels without attention in front have some without.
        for attention in attentions.take_while(|at| has(&format!("{at}.proj_in"))) {
            let blocks = (0..).map(|i| format!("{attention}.transformer_blocks.{i}"));
            for block in blocks.take_while(|at| has(&format!("{at}.attn1.to_q"))) {
                let attention = |name: &str| {
                    ["to_q", "to_k", "to_v", "to_out.0"]
                        .map(|layer| format!("{block}.{name}.{layer}"))
                };
                order.extend(attention("attn1"));
                order.extend(geglu.then(|| format!("{block}.ff.net.0.proj")));
                order.extend(attention("attn2"));
            }
        }
        let blocks = (0..).map(|i| format!("{at}.resnets.{i}"));
        for block in blocks.take_while(|at| resnets && has(&format!("{at}.conv1"))) {
            let layers = ["conv1", "time_emb_proj", "conv2", "conv_shortcut"];
            let layers = layers.map(|layer| format!("{block}.{layer}"));
            order.extend(layers.into_iter().filter(|layer| has(layer)));
        }
    };
    for side in ["down_blocks", "up_blocks"] {
        let levels = (0..).map(|i| format!("unet.{side}.{i}"));
        levels.take_while(|at| has(&format!("{at}.resnets.0.conv1"))).for_each(&mut level);
    }
    level("unet.mid_block".to_owned());
    order
}

/// The layers of attention of a text encoder.
fn text_encoder(modules: &Modules) -> Vec<String> {
    let layers = (0..).map(|i| format!("text_encoder.text_model.encoder.layers.{i}.self_attn"));
    let layers = layers.take_while(|at| modules.contains_key(&format!("{at}.q_proj")));
    let order = ["k_proj", "v_proj", "q_proj", "out_proj"];
    layers.flat_map(|at| order.map(|layer| format!("{at}.{layer}"))).collect()
}

/// The names of a plain list's matrices as if they had been written with numbers: `unet:0:up` for `0`,
/// `unet:0:down` for `1`, and so on. `None` if it is no such list.
pub(super) fn of_list(tensors: &BTreeMap<String, TensorInfo>) -> Option<BTreeMap<String, String>> {
    let count = tensors.len();
    let shape = |at: usize| tensors.get(&at.to_string()).map(|info| info.shape.as_slice());
    if count == 0 || !count.is_multiple_of(2) {
        return None;
    }
    let mut widths = Vec::new();
    for at in (0..count).step_by(2) {
        let (up, down) = (shape(at)?, shape(at + 1)?);
        let fits = up.len() >= 2 && down.len() >= 2 && up[1] == down[0];
        fits.then(|| widths.push((up[0], down[1])))?;
    }
    // All layers of a text encoder's attention are alike.
    let alike = widths.iter().all(|(outputs, inputs)| outputs == inputs)
        && widths.windows(2).all(|pair| pair[0] == pair[1]);
    let network = if alike { "text_encoder" } else { "unet" };
    let part = |at: usize| if at.is_multiple_of(2) { "up" } else { "down" };
    let names = (0..count).map(|at| (at.to_string(), format!("{network}:{}:{}", at / 2, part(at))));
    Some(names.collect())
}
