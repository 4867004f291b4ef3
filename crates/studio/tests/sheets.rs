//! Sheets through the real queue: each cell is a job, and the group outlives all of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use common::{Desk, files};
use studio::{
    Code, FileRef, GenerationParams, Recipe,
    event::Event,
    queue::JobState,
    sheet::{self, AxisTarget, AxisWish, WeightPart},
};

fn weight(name: &str, values: &str) -> AxisWish {
    let target = AxisTarget::Weight { file: FileRef::named(name), part: WeightPart::Both };
    AxisWish { target, title: None, values: values.into() }
}

fn steps(values: &str) -> AxisWish {
    AxisWish { target: AxisTarget::Steps, title: None, values: values.into() }
}

/// Waits until so many jobs have ended in a state.
fn ended(desk: &Desk, state: JobState, count: usize) -> Vec<u32> {
    let mut ids = Vec::new();
    desk.wait(|event| {
        if let Event::Job(job) = event {
            assert!(job.state != JobState::Failed, "{job:?}");
            if job.state == state {
                ids.push(job.id);
            }
        }
        (ids.len() == count).then_some(())
    });
    ids
}

#[test]
fn a_sheet_becomes_pictures_that_know_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open(folder.path());
    let (x, y) = (weight("neon", "0, 1"), steps("1, 2"));
    let plan = desk.studio.plan_sheet(&desk.small(7, 1), &x, Some(&y)).unwrap();
    assert_eq!((plan.pictures, plan.seconds), (4, None));
    assert_eq!((&plan.columns[1][..], &plan.rows[1][..]), ("1.00", "2"));
    assert_eq!(plan.title, "Neon Glow × Steps");
    let id = desk.studio.start_sheet(&desk.small(7, 1), &x, Some(&y)).unwrap();
    let made = ended(&desk, JobState::Done, 4);

    let sheet = desk.studio.sheet(id).unwrap();
    let jobs: Vec<u32> = sheet.cells.iter().map(|cell| cell.job).collect();
    // To and fro along the steps, which repaint nothing.
    assert_eq!([0, 2, 3, 1].map(|place: usize| jobs[place]).to_vec(), made);
    let images: Vec<u32> = sheet.cells.iter().map(|cell| cell.image.unwrap()).collect();
    let params =
        |place: usize| desk.studio.images(&[images[place]]).unwrap().remove(0).params.unwrap();
    for place in 0..4 {
        let params = params(place);
        assert_eq!((params.seed, params.steps), (Some(7), 1 + place as u32 / 2));
        // What weighs nothing is not in the recipe.
        assert_eq!(params.adapters.len(), place % 2);
    }
    let asked = desk.studio.sheet_cell(id, 2).unwrap();
    assert_eq!((asked.adapters.len(), asked.adapters[0].unet_weight, asked.steps), (1, 0.0, 2));
    assert!(desk.studio.sheet_cell(id, 4).is_err());
    let plan = desk.studio.plan_sheet(&desk.small(7, 1), &x, Some(&y)).unwrap();
    assert!(plan.seconds.unwrap() > 0.0, "pictures alike were made now");

    let path = folder.path().join("sheet.png");
    desk.studio.export_sheet(id, &path).unwrap();
    let drawn = image::open(&path).unwrap().into_rgb8();
    let drawing = sheet::Drawing::new(sheet::read(&path).unwrap());
    assert_eq!(drawn.dimensions(), drawing.size());
    assert!(drawn.width() > 2 * 64 && drawn.height() > 2 * 64);
    for (place, id) in images.iter().enumerate() {
        let ((x, y), (width, height)) = drawing.cell(place);
        assert_eq!((width, height), (64, 64));
        let cell = image::imageops::crop_imm(&drawn, x, y, width, height).to_image();
        let picture = desk.studio.pixels(&format!("/picture/{id}")).unwrap();
        assert!(cell.into_raw() == common::pixels(&picture.bytes), "{place}");
    }
    let mut recipe = GenerationParams::default();
    let warnings = recipe.apply(Recipe::open(&path).unwrap().fields).unwrap();
    assert_eq!((recipe, warnings), (desk.small(7, 1), Vec::new()));

    desk.studio.delete_sheet(id).unwrap();
    assert!(desk.studio.sheets().unwrap().is_empty());
    assert_eq!(desk.studio.sheet(id).unwrap_err().code(), Code::MissingFile);
    assert_eq!(desk.all().len(), 4, "its pictures stay");
}

#[test]
fn what_is_cancelled_can_be_completed() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open(folder.path());
    let id = desk.studio.start_sheet(&desk.small(7, 1), &steps("1, 1000, 1, 1"), None).unwrap();
    let others = desk.enqueue(&desk.small(8, 1));
    desk.wait(|event| matches!(event, Event::Progress(p) if p.step > 2).then_some(()));
    desk.studio.cancel_sheet(id).unwrap();
    ended(&desk, JobState::Cancelled, 3);
    desk.wait_for(others, JobState::Done);
    let states = |desk: &Desk| {
        let sheet = desk.studio.sheet(id).unwrap();
        sheet.cells.iter().map(|cell| (cell.state, cell.image.is_some())).collect::<Vec<_>>()
    };
    let cancelled = (JobState::Cancelled, false);
    let done = (JobState::Done, true);
    assert_eq!(states(&desk), [done, cancelled, cancelled, cancelled]);

    // The exported sheet has empty cells there.
    let path = folder.path().join("sheet.png");
    desk.studio.export_sheet(id, &path).unwrap();
    assert!(image::open(&path).is_ok());

    // Jobs that were cancelled leave the list with the next start; their cells stay.
    drop(desk);
    let desk = Desk::open(folder.path());
    assert_eq!(desk.first.sheets[0].id, id);
    assert_eq!((desk.first.sheets[0].columns, desk.first.sheets[0].rows), (4, 1));
    assert_eq!(states(&desk), [done, cancelled, cancelled, cancelled]);
    desk.studio.complete_sheet(id).unwrap();
    let queued = states(&desk);
    assert!(queued[1..].iter().all(|(state, _)| !state.ended()), "{queued:?}");
    let long = desk.studio.sheet(id).unwrap().cells[1].job;
    desk.studio.cancel_job(long).unwrap();
    ended(&desk, JobState::Done, 2);
    assert_eq!(states(&desk), [done, cancelled, done, done]);
}

#[test]
fn a_studio_that_is_closed_in_the_middle_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open(folder.path());
    let x = weight("neon", "0-1 [4]");
    let id = desk.studio.start_sheet(&desk.small(7, 30), &x, None).unwrap();
    let first = ended(&desk, JobState::Done, 1)[0];
    drop(desk);

    let desk = Desk::open(folder.path());
    let sheet = desk.studio.sheet(id).unwrap();
    let made = sheet.cells.iter().find(|cell| cell.job == first).unwrap();
    assert_eq!((made.state, made.image.is_some()), (JobState::Done, true));
    assert!(desk.first.jobs.iter().all(|job| job.sheet == Some(id)), "{:?}", desk.first.jobs);
    // What was being made waits for the person's word; the others go on by themselves.
    desk.studio.complete_sheet(id).unwrap();
    let left = |desk: &Desk| {
        let sheet = desk.studio.sheet(id).unwrap();
        sheet.cells.iter().filter(|cell| cell.image.is_none()).count()
    };
    while left(&desk) > 0 {
        desk.wait(|event| matches!(event, Event::ImageSaved(_)).then_some(()));
    }
    assert_eq!(files(&folder.path().join("pictures"), ".png").len(), 4);
}

#[test]
fn deleting_a_sheet_takes_what_is_left_of_it_out_of_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open(folder.path());
    desk.studio.set_paused(true).unwrap();
    let id = desk.studio.start_sheet(&desk.small(7, 1), &steps("1-3"), None).unwrap();
    desk.wait(|event| matches!(event, Event::Sheets(sheets) if sheets.len() == 1).then_some(()));
    desk.studio.delete_sheet(id).unwrap();
    ended(&desk, JobState::Cancelled, 3);
    desk.wait(|event| matches!(event, Event::Sheets(sheets) if sheets.is_empty()).then_some(()));
    let nothing = desk.studio.start_sheet(&desk.small(7, 1), &steps("1"), None).unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidParams { field: "sheet" });
    let error = desk.studio.plan_sheet(&desk.small(7, 1), &steps("1-401"), None).unwrap_err();
    assert!(error.message().contains("400"), "{error:?}");
}
