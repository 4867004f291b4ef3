//! A step that follows another takes its memory from it.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use engine::{
    DeviceId, Engine, Phase, Precision, Progress, Request,
    testing::{generate, repository, request},
};

/// Pages of memory that this process touched for the first time, so far.
fn page_faults() -> u64 {
    let stat = fs_err::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in brackets, may have spaces in it.
    let fields = stat.rsplit_once(')').unwrap().1;
    fields.split_whitespace().nth(7).unwrap().parse().unwrap()
}

#[test]
fn no_step_but_the_first_touches_new_memory() {
    let model = repository("assets/starter/model");
    for precision in [Precision::Bf16, Precision::F32] {
        let request = Request { width: 128, height: 128, steps: 8, precision, ..request(&model) };
        let mut engine = Engine::open(DeviceId::Cpu, Some(2)).unwrap();
        generate(&mut engine, &request).unwrap();
        let mut faults = Vec::with_capacity(64);
        let mut watch = |progress: Progress<'_>| {
            if progress.phase == Phase::Sample {
                faults.push(page_faults());
            }
            ControlFlow::Continue(())
        };
        engine.generate(&request, &mut watch).unwrap();
        // From the end of the second step on: 64 pages are a quarter of a MiB.
        let (early, late) = (faults[3], *faults.last().unwrap());
        assert!(late - early < 64, "{precision:?}: {faults:?}");
    }
}
