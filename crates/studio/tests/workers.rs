//! Several devices on one queue: each job is made once, by one of them, and is the picture that it would be.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use common::{Desk, files, pixels};
use engine::{
    DeviceId::{self, Cpu, Cuda},
    Precision,
    testing::write_folder,
};
use studio::{FileRef, GenerationParams, Settings, event::Event, live::LiveState, queue::JobState};

/// More steps than any test waits for.
const LONG: u32 = 1000;

/// A card that nobody has.
const MISSING: DeviceId = Cuda(77);

const EMULATED: DeviceId = DeviceId::Emulated { refuses: None, memory: None };

/// What the queue said from when jobs waited to when all had ended.
#[derive(Debug, Default)]
struct Course {
    /// In the order in which they were begun.
    begun: Vec<u32>,
    running: BTreeSet<u32>,
    /// How many ran at once, at most.
    most: usize,
    ended: BTreeMap<u32, JobState>,
    notices: Vec<String>,
}

impl Course {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Job(job) if job.state == JobState::Running => {
                assert!(self.running.insert(job.id), "{} is made twice", job.id);
                self.begun.push(job.id);
                self.most = self.most.max(self.running.len());
            }
            Event::Job(job) if job.state.ended() => {
                assert!(self.running.remove(&job.id), "{} was not being made", job.id);
                assert_eq!(self.ended.insert(job.id, job.state), None, "{} ends twice", job.id);
            }
            Event::Job(job) => drop(self.running.remove(&job.id)),
            Event::Progress(progress) => {
                assert!(self.running.contains(&progress.job), "{progress:?} of {:?}", self.running);
            }
            Event::Notice(notice) => self.notices.push(notice.message.clone()),
            _ => {}
        }
    }
}

/// Lets jobs begin together, and waits for the end of all.
fn course(desk: &Desk, params: &GenerationParams, count: u32) -> (Vec<u32>, Course) {
    desk.studio.set_paused(true).unwrap();
    let ids = desk.studio.enqueue(params, count).unwrap();
    let mut course = Course::default();
    desk.wait(|event| {
        matches!(event, Event::Queue { paused: true, order } if *order == ids).then_some(())
    });
    desk.studio.set_paused(false).unwrap();
    desk.wait(|event| {
        course.hear(event);
        (course.ended.len() == ids.len()).then_some(())
    });
    (ids, course)
}

/// Every picture by its seed, and what made it.
fn pictures(desk: &Desk) -> BTreeMap<u64, (Vec<u8>, String)> {
    let images = desk.studio.images(&desk.all()).unwrap();
    let picture = |image: &studio::gallery::GalleryImage| {
        let bytes = desk.studio.pixels(&format!("/picture/{}", image.id)).unwrap().bytes;
        let seed = image.params.as_ref().unwrap().seed.unwrap();
        (seed, (pixels(&bytes), image.device.clone().unwrap()))
    };
    let pictures: BTreeMap<_, _> = images.iter().map(picture).collect();
    assert_eq!(pictures.len(), images.len(), "a seed was made twice");
    pictures
}

#[test]
fn two_workers_make_what_one_makes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let alone = Desk::open_on(one.path(), &[Cpu]);
    let (ids, lone) = course(&alone, &alone.small(20, 6), 6);
    assert_eq!((lone.most, lone.begun), (1, ids));

    let both = Desk::open_on(two.path(), &[Cpu, Cpu]);
    assert!(both.first.device.starts_with("2 cards"), "{}", both.first.device);
    let (ids, course) = course(&both, &both.small(20, 6), 6);
    assert_eq!((course.most, course.begun), (2, ids), "in the order of the queue");
    assert!(course.ended.values().all(|state| *state == JobState::Done), "{:?}", course.ended);
    assert_eq!(files(two.path(), ".png").len(), 6);
    assert!(pictures(&both) == pictures(&alone), "other pictures than those of one worker");
}

#[test]
fn jobs_that_run_are_told_and_stopped_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open_on(folder.path(), &[Cpu, Cpu]);
    let ids = desk.studio.enqueue(&desk.small(1, LONG), 2).unwrap();
    let preview = |wanted: u32| {
        desk.wait(|event| match event {
            Event::Progress(progress) if progress.job == wanted => progress.preview,
            _ => None,
        })
    };
    for &id in &ids {
        assert!(preview(id) > 0);
        assert!(desk.studio.pixels(&format!("/preview/{id}")).unwrap().bytes.len() > 100);
    }
    // A window that opens now hears of both.
    let (sender, late) = std::sync::mpsc::channel();
    desk.studio.subscribe(move |event| sender.send(event.clone()).is_ok()).unwrap();
    let Event::Snapshot(snapshot) = late.recv().unwrap() else { panic!("no snapshot") };
    let told: BTreeSet<_> = snapshot.progress.iter().map(|progress| progress.job).collect();
    assert_eq!(told, BTreeSet::from_iter(ids.clone()));

    desk.studio.cancel_job(ids[1]).unwrap();
    desk.wait_for(ids[1], JobState::Cancelled);
    // The other one goes on, and the next is begun beside it.
    let next = desk.enqueue(&desk.small(3, 1));
    desk.wait_for(next, JobState::Done);
    desk.wait(|event| match event {
        Event::Progress(progress) => (progress.job == ids[0] && progress.step > 2).then_some(()),
        Event::Job(job) => panic!("{job:?}"),
        _ => None,
    });
    desk.studio.cancel_job(ids[0]).unwrap();
    desk.wait_for(ids[0], JobState::Cancelled);
    assert_eq!(files(folder.path(), ".png").len(), 1);
}

#[test]
fn settings_let_workers_go_and_come_at_the_next_picture() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open_on(folder.path(), &[Cpu, Cpu]);
    let set = |device: &str, threads| {
        let settings = Settings { device: device.into(), threads, ..desk.studio.settings() };
        desk.studio.set_settings(settings).unwrap();
    };
    // Both are at work when one of them is to leave: it does so when its picture has ended.
    let long = desk.studio.enqueue(&desk.small(1, LONG), 2).unwrap();
    let short = desk.studio.enqueue(&desk.small(3, 4), 4).unwrap();
    let mut course = Course::default();
    desk.wait(|event| {
        course.hear(event);
        (course.running.len() == 2).then_some(())
    });
    set("cpu", Some(1));
    for id in &long {
        desk.studio.cancel_job(*id).unwrap();
    }
    desk.wait(|event| {
        course.hear(event);
        let left = long.iter().all(|id| course.ended.contains_key(id));
        assert!(!left || course.running.len() <= 1, "{course:?}");
        (course.ended.len() == 6).then_some(())
    });
    assert!(short.iter().all(|id| course.ended[id] == JobState::Done), "{:?}", course.ended);
    assert_eq!(course.begun, [long, short].concat());

    let most = |seed| self::course(&desk, &desk.small(seed, 4), 4).1.most;
    assert_eq!(most(10), 1);
    set("auto", None);
    assert_eq!(most(20), 2);
    set("cpu", None);
    assert_eq!(most(30), 1);
}

#[test]
fn live_does_not_wait_for_the_worker_of_a_job() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open_on(folder.path(), &[Cpu, Cpu]);
    let frame = |number| {
        desk.studio.live(desk.small(5, 4), number, false).unwrap();
        desk.wait(|event| match event {
            Event::Live(live) if live.state == LiveState::Shown => {
                (live.wish == number).then_some(())
            }
            Event::Live(live) if live.state == LiveState::Waiting => panic!("{live:?}"),
            _ => None,
        });
    };
    frame(1);
    let long = desk.enqueue(&desk.small(1, LONG));
    desk.wait_for(long, JobState::Running);
    let next = desk.enqueue(&desk.small(2, LONG));
    frame(2);
    frame(3);
    // Live has the first worker: the second job was left for the second worker, until Live ends.
    desk.studio.live_off();
    desk.wait(|event| {
        matches!(event, Event::Live(live) if live.state == LiveState::Off).then_some(())
    });
    desk.wait_for(next, JobState::Running);
    for id in [next, long] {
        desk.studio.cancel_job(id).unwrap();
        desk.wait_for(id, JobState::Cancelled);
    }
}

#[test]
fn a_card_that_fails_leaves_the_queue_to_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny");
    write_folder("tiny", &model);
    let desk = Desk::open_on(folder.path(), &[MISSING, EMULATED]);
    let model = FileRef::named(model.to_string_lossy());
    let tiny = GenerationParams { model, precision: Precision::F32, ..desk.small(1, 1) };
    let (ids, mut course) = course(&desk, &tiny, 3);
    assert!(course.ended.values().all(|state| *state == JobState::Done), "{course:?}");
    let notice = course.notices.remove(0);
    assert!(notice.contains("without cuda:77") && notice.contains("Cannot use"), "{notice}");
    let devices = pictures(&desk).into_values().map(|(_, device)| device);
    assert!(devices.into_iter().all(|device| device == "EMULATED · f32"));
    assert_eq!(ids.len(), 3);

    // Alone, it says at the job why it cannot be used.
    drop(desk);
    let desk = Desk::open_on(folder.path(), &[MISSING]);
    let error = desk.wait_for(desk.enqueue(&tiny), JobState::Failed).error.unwrap();
    assert!(error.message.starts_with("Cannot use cuda:77"), "{error:?}");
}

#[test]
fn a_fault_in_one_worker_leaves_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open_on(folder.path(), &[Cpu, Cpu]);
    // What listens is called by the worker, in the middle of its picture.
    let (fault, listening) = std::sync::mpsc::channel::<u32>();
    let mut faulty = None;
    desk.studio.listen(move |event| {
        faulty = listening.try_recv().ok().or(faulty);
        if let Event::Progress(progress) = event {
            assert_ne!(Some(progress.job), faulty, "a fault on purpose");
        }
        true
    });
    let ids = desk.studio.enqueue(&desk.small(1, LONG), 2).unwrap();
    let goes_on = || {
        let step = |event: &Event| match event {
            Event::Progress(progress) if progress.job == ids[1] => Some(progress.step),
            Event::Job(job) if job.id == ids[1] && job.state.ended() => panic!("{job:?}"),
            _ => None,
        };
        let before = desk.wait(step);
        desk.wait(|event| step(event).filter(|now| *now > before))
    };
    goes_on();
    fault.send(ids[0]).unwrap();
    let error = desk.wait_for(ids[0], JobState::Failed).error.unwrap();
    assert!(error.message.contains("fault on purpose"), "{error:?}");
    // Both work: one at what it was at, one at what comes next.
    goes_on();
    let next = desk.enqueue(&desk.small(3, 1));
    desk.wait_for(next, JobState::Done);
    goes_on();
    desk.studio.cancel_job(ids[1]).unwrap();
    desk.wait_for(ids[1], JobState::Cancelled);
}

/// Started and killed by the test below.
#[test]
#[ignore = "the other half of `killed_workers_lose_nothing`"]
fn work_until_they_are_killed() {
    let Some(folder) = std::env::var_os("STUDIO_FOLDER") else { return };
    let desk = Desk::open_on(Path::new(&folder), &[Cpu, Cpu]);
    desk.studio.enqueue(&desk.small(1, LONG), 3).unwrap();
    let mut course = Course::default();
    desk.wait(|event| {
        course.hear(event);
        (course.running.len() == 2).then_some(())
    });
    println!("both are at work");
    desk.wait(|_| None::<()>);
}

#[test]
fn killed_workers_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "work_until_they_are_killed", "--ignored", "--nocapture"])
        .env("STUDIO_FOLDER", folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let began = lines.any(|line| line.is_ok_and(|line| line.contains("both are at work")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(began, "the workers did not begin");

    let desk = Desk::open_on(folder.path(), &[Cpu, Cpu]);
    let states: Vec<_> = desk.first.jobs.iter().map(|job| job.state).collect();
    assert_eq!(states[..2], [JobState::Interrupted; 2]);
    // What waited goes on by itself.
    assert!(matches!(states[2], JobState::Queued | JobState::Running), "{states:?}");
    desk.studio.cancel_job(desk.first.jobs[2].id).unwrap();
}
