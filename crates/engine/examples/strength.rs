//! How strong a stack is: `cargo run -p impasto-engine --example strength -- MODEL ADAPTER=WEIGHT...`
//!
//! Prints what the window shows as combined strength: the norm of the sum of all changes, by the largest
//! norm of one at weight 1.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::{env, error::Error, path::Path, sync::atomic::AtomicBool};

use engine::adapter::{Outline, strength::Scale};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let model = arguments.next().ok_or("usage: strength MODEL ADAPTER=WEIGHT...")?;
    let (mut adapters, mut weights) = (Vec::new(), Vec::new());
    for argument in arguments {
        let (path, weight) = argument.rsplit_once('=').ok_or("an adapter has `=WEIGHT`")?;
        adapters.push(Outline::open(Path::new(path))?);
        weights.push(weight.parse::<f64>()?);
    }
    let scale = Scale::open(Path::new(&model), None)?;
    let measures = scale.measure(&adapters, &|_, _| true, &AtomicBool::new(false))?;
    let mut products = measures.products.iter();
    let (mut sum, mut largest) = (0.0, 0.0f64);
    for i in 0..adapters.len() {
        for j in i..adapters.len() {
            let blocks = products.next().ok_or("a product for each pair")?;
            let product: f64 = blocks.iter().sum();
            let times = if i == j { 1.0 } else { 2.0 };
            sum += times * weights[i] * weights[j] * product;
            if i == j {
                largest = largest.max(product.sqrt());
                let relative = 100.0 * measures.strengths[i].relative(blocks).unwrap_or_default();
                println!("{relative:.2} % of what it changes: {}", adapters[i].name());
            }
        }
    }
    println!("combined strength {:.2}", sum.max(0.0).sqrt() / largest);
    Ok(())
}
