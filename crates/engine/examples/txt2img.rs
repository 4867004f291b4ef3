//! The whole engine in one page: a picture from the starter model, without adapters.
//!
//! `cargo run --release --example txt2img -p impasto-engine -- assets/starter/model out.ppm`

#![expect(clippy::print_stderr, reason = "an example shows its progress")]

use std::{io::Write, ops::ControlFlow};

use engine::{DeviceId, Engine, Phase, Precision, Progress, Request, Rng, Sizes, sample};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("name a model and a file for the picture".into());
    };
    let sampler = |id: &str| sample::SAMPLERS.iter().find(|record| record.id == id).copied();
    let schedule = |id: &str| sample::schedule::SCHEDULES.iter().find(|record| record.id == id);

    let request = Request {
        checkpoint: model.into(),
        lender: None,
        vae: None,
        preview_decoders: Vec::new(),
        prediction: None,
        adapters: Vec::new(),
        prompt: "a fox on a light blue background".into(),
        negative_prompt: String::new(),
        embeddings: Vec::new(),
        clip_skip: 1,
        sizes: Sizes::default(),
        width: 128,
        height: 128,
        sampler: sampler("euler").ok_or("no such sampler")?,
        schedule: schedule("karras").ok_or("no such schedule")?,
        steps: 20,
        guidance_scale: 4.0,
        seed: 7,
        rng: Rng::TorchCpu,
        noise: None,
        precision: Precision::F32,
        init: None,
        refiner: None,
    };
    let mut engine = Engine::open(DeviceId::Cpu, None)?;
    let mut watch = |progress: Progress<'_>| {
        if progress.phase == Phase::Sample {
            eprint!("\r{} of {}", progress.done, progress.total);
        }
        ControlFlow::Continue(())
    };
    let output = engine.generate(&request, &mut watch)?;
    let image = output.image;
    let mut file = fs_err::File::create(out)?;
    writeln!(file, "P6 {} {} 255", image.width, image.height)?;
    file.write_all(&image.pixels)?;
    Ok(())
}
