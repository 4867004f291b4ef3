//! Times a stack of adapters: `adapters MODEL ADAPTER...` applies all at once, moves one slider, takes
//! that adapter off and puts it on again, and repeats the request as it is. Then makes a few steps at the
//! model's usual size, plainly and with all adapters' weights changing at every step. Prints seconds as JSON.
//! On the first card that can be used, or else the processor.

#![expect(clippy::print_stdout, reason = "its result")]

use std::{env, ops::ControlFlow, path::PathBuf, time::Instant};

use engine::{
    AdapterUse, DeviceId, Engine, Phase, Precision, Progress, Request,
    adapter::curve::{Curve, Fade, Keyframe},
    testing::request,
};

/// Seconds that patching took for one picture.
fn patching(engine: &mut Engine, request: &Request) -> engine::Result<f64> {
    let (mut began, mut took) = (None, 0.0);
    let mut watch = |progress: Progress<'_>| {
        match progress.phase {
            Phase::Patch => _ = began.get_or_insert_with(Instant::now),
            _ => took += began.take().map_or(0.0, |began: Instant| began.elapsed().as_secs_f64()),
        }
        ControlFlow::Continue(())
    };
    engine.generate(request, &mut watch)?;
    Ok(took)
}

/// The median seconds of a step but the first.
fn step(engine: &mut Engine, request: &Request) -> engine::Result<f64> {
    let mut ends = Vec::new();
    let mut watch = |progress: Progress<'_>| {
        if progress.phase == Phase::Sample && progress.done > ends.len() {
            ends.push(Instant::now());
        }
        ControlFlow::Continue(())
    };
    engine.generate(request, &mut watch)?;
    let mut steps: Vec<f64> =
        ends.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    steps.sort_by(f64::total_cmp);
    Ok(steps.get(steps.len() / 2).copied().unwrap_or_default())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths = env::args_os().skip(1).map(PathBuf::from);
    let model = paths.next().ok_or("usage: adapters MODEL ADAPTER...")?;
    let adapters: Vec<AdapterUse> = paths.map(|path| AdapterUse::new(path, 0.2)).collect();
    let plain =
        Request { steps: 1, width: 64, height: 64, precision: Precision::Bf16, ..request(&model) };
    let stack = Request { adapters, ..plain.clone() };
    let mut moved = stack.clone();
    let slider = moved.adapters.first_mut().ok_or("no adapter")?;
    (slider.unet_weight, slider.text_encoder_weight) = (0.3, 0.3);
    let mut fewer = moved.clone();
    fewer.adapters.remove(0);

    let mut engine = Engine::open(DeviceId::best(), None)?;
    patching(&mut engine, &plain)?;
    let first = patching(&mut engine, &stack)?;
    let slider = patching(&mut engine, &moved)?;
    let off = patching(&mut engine, &fewer)?;
    let on = patching(&mut engine, &moved)?;
    let unchanged = patching(&mut engine, &moved)?;

    let large = Request { steps: 8, width: 512, height: 512, ..stack };
    let mut fading = large.clone();
    let keyframe = |at: f64| Keyframe { at, factor: 1.0 - at, fade: Fade::Linear };
    for adapter in &mut fading.adapters {
        adapter.over_steps = Curve::new(vec![keyframe(0.0), keyframe(1.0)]);
    }
    let mut steps = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        steps[0].push(step(&mut engine, &large)?);
        steps[1].push(step(&mut engine, &fading)?);
    }
    let [plain_step, changing_step] = steps.map(|mut steps| {
        steps.sort_by(f64::total_cmp);
        steps[1]
    });
    println!(
        "{{\"first_s\": {first:.4}, \"slider_s\": {slider:.4}, \"off_s\": {off:.4}, \"on_s\": {on:.4}, \
         \"unchanged_s\": {unchanged:.4}, \"step_s\": {plain_step:.4}, \"changing_step_s\": {changing_step:.4}}}"
    );
    Ok(())
}
