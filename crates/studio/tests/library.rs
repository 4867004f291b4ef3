//! The library through the studio: what is listed, dropped, copied, noted, and what is refused and why.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::path::{Path, PathBuf};

use common::{Desk, files};
use fs_err as fs;
use serde_json::json;
use studio::{
    Code,
    cards::{DropKind, Dropped, ModelCard, ModelKind, ModelNote},
    event::Event,
    starter::Starter,
};

fn starter() -> Starter {
    Starter::open(&Starter::folder().expect("it is in the repository")).unwrap()
}

fn style(name: &str) -> PathBuf {
    starter().folder.join(format!("adapters/{name}.safetensors"))
}

/// Copies a folder with what is in it.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_folder(&path, &to),
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}

impl Desk {
    fn cards(&self) -> Vec<ModelCard> {
        self.studio.library().unwrap().cards
    }

    fn card(&self, name: &str) -> ModelCard {
        let found = self.cards().into_iter().find(|card| card.name == name);
        found.unwrap_or_else(|| panic!("no `{name}` in {:?}", self.names()))
    }

    fn names(&self) -> Vec<String> {
        self.cards().into_iter().map(|card| card.name).collect()
    }

    /// Waits until the library is as it should be.
    fn wait_until(&self, mut done: impl FnMut(&[ModelCard]) -> bool) {
        if done(&self.cards()) {
            return;
        }
        self.wait(|event| match event {
            Event::Library { .. } => done(&self.cards()).then_some(()),
            _ => None,
        });
    }

    fn drop_one(&self, path: &Path) -> Dropped {
        let mut dropped = self.studio.drop_files(&[path.to_owned()]);
        assert_eq!(dropped.len(), 1, "{dropped:?}");
        dropped.remove(0)
    }

    fn refusal(&self, path: &Path) -> String {
        match self.drop_one(path) {
            Dropped::Refused { failure, .. } => {
                format!("{} {}", failure.message, failure.hint.unwrap_or_default())
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_starter_comes_first_and_its_styles_fit() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open(folder.path());
    let cards = desk.cards();
    let ground = &cards[0];
    assert_eq!(
        (ground.name.as_str(), ground.kind, ground.usable),
        ("starter", ModelKind::Checkpoint, true)
    );
    assert_eq!(ground.summary, "v-prediction");
    assert_eq!(ground.defaults.as_ref().unwrap().width, 128);
    let neon = desk.card("neon");
    assert_eq!(neon.family.as_deref(), Some("SD 1.x"));
    assert!(
        neon.starter && neon.usable && neon.trigger_words.contains(&"neon style".into()),
        "{neon:?}"
    );
    assert!(neon.rank.is_some() && neon.summary.contains("rank"), "{neon:?}");
    let pigments: std::collections::BTreeSet<u8> = cards.iter().map(|card| card.pigment).collect();
    assert_eq!(pigments.len(), cards.len(), "few files have a pigment each");

    let styles: Vec<u32> = cards[1..].iter().map(|card| card.id).collect();
    let fits = desk.studio.fits(ground.id, &styles).unwrap();
    assert_eq!(fits.len(), styles.len());
    for fit in fits {
        assert_eq!((fit.refusal, fit.applied), (None, fit.total));
        assert!(fit.total > 0);
    }
    let listing = desk.studio.key_listing(neon.id).unwrap();
    let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
    assert!(listing.as_object().unwrap().len() as u32 >= neon.modules);
}

#[test]
fn a_dropped_adapter_is_copied_once_with_its_sidecars() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let desk = Desk::open(folder.path());
    let (path, other) =
        (elsewhere.path().join("wet.safetensors"), elsewhere.path().join("b/wet.safetensors"));
    // The starter's own are here already, so these are others: a byte in the metadata differs.
    let changed = |from: &str, to: &Path, letter: u8| {
        let mut bytes = fs::read(style(from)).unwrap();
        let at = bytes.windows(3).position(|part| part == b"ss_").expect("it has metadata");
        bytes[at + 3] = letter;
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    };
    changed("ink", &path, b'X');
    changed("ink", &other, b'Y');
    fs::write(
        elsewhere.path().join("wet.json"),
        r#"{"activation text": "inkwash", "preferred weight": 0.7}"#,
    )
    .unwrap();
    image::RgbImage::from_pixel(900, 600, image::Rgb([9, 8, 7]))
        .save(elsewhere.path().join("wet.png"))
        .unwrap();

    let items = desk.studio.describe_drop(std::slice::from_ref(&path), Some(desk.cards()[0].id));
    assert_eq!((items[0].kind, items[0].usable), (DropKind::Adapter, true));
    assert!(items[0].what.contains("modules match · trigger “inkwash”"), "{}", items[0].what);

    let Dropped::Adapter { card, usable: true, note: None } = desk.drop_one(&path) else {
        panic!()
    };
    let wet = desk.card("wet");
    assert_eq!((wet.id, wet.default_weight), (card, 0.7));
    assert_eq!(wet.trigger_words, ["inkwash"]);
    assert!(Path::new(&wet.path).starts_with(folder.path().join("models/adapters")));
    let cover = desk.studio.pixels(&format!("cover/{card}")).unwrap();
    assert_eq!(image::load_from_memory(&cover.bytes).unwrap().width(), 512);

    let again = desk.drop_one(&path);
    assert!(matches!(again, Dropped::Adapter { card: same, .. } if same == card), "{again:?}");
    let copy = elsewhere.path().join("renamed.safetensors");
    fs::copy(&path, &copy).unwrap();
    let again = desk.drop_one(&copy);
    assert!(matches!(again, Dropped::Adapter { card: same, .. } if same == card), "{again:?}");
    let known = desk.drop_one(&style("neon"));
    let neon = desk.card("neon").id;
    assert!(matches!(known, Dropped::Adapter { card, .. } if card == neon), "{known:?}");

    // Another file of the same name.
    let Dropped::Adapter { card: second, .. } = desk.drop_one(&other) else { panic!() };
    assert_ne!(second, card);
    assert_eq!(desk.card("wet-2").id, second);
    assert_eq!(files(&folder.path().join("models"), ".tmp").len(), 0);
    assert!(path.exists() && other.exists(), "the originals stay");
}

#[test]
fn a_dropped_checkpoint_is_used_where_it_lies_until_it_is_copied() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = elsewhere.path().join("my model v1.5");
    copy_folder(&starter().model(), &model);
    let id = {
        let desk = Desk::open(folder.path());
        let items = desk.studio.describe_drop(std::slice::from_ref(&model), None);
        assert_eq!(items[0].kind, DropKind::Checkpoint);
        assert_eq!(items[0].fate, "offered as ground");
        let Dropped::Checkpoint { card, usable: true, note: None } = desk.drop_one(&model) else {
            panic!()
        };
        card
    };
    // The next day.
    let desk = Desk::open(folder.path());
    let card = desk.card("my model v1.5");
    assert_eq!((card.id, card.folder, card.usable), (id, None, true));
    let params = studio::GenerationParams {
        model: card.defaults.clone().unwrap().model,
        ..desk.small(3, 1)
    };
    let job = desk.enqueue(&params);
    desk.wait_for(job, studio::queue::JobState::Done);
    desk.wait_until(|cards| cards.iter().any(|card| card.id == id && card.used_at.is_some()));

    desk.studio.copy_into_library(id).unwrap();
    let done = desk.wait(|event| match event {
        Event::Copying(copy) if copy.done == copy.total || copy.error.is_some() => {
            Some(copy.clone())
        }
        _ => None,
    });
    assert_eq!((done.card, done.error), (id, None));
    let card = desk.card("my model v1.5");
    assert_eq!((card.id, card.folder), (id, Some(0)));
    assert!(Path::new(&card.path).starts_with(folder.path().join("models/checkpoints")));
    assert!(desk.studio.copy_into_library(id).is_err(), "it is there already");
    assert!(desk.studio.forget_model(id).is_err(), "it is in our folder");
    // The hashes, too, are written under another name first.
    desk.wait_until(|_| files(folder.path(), ".tmp").is_empty());
    // What was copied works without the original.
    fs::remove_dir_all(&model).unwrap();
    desk.studio.rescan();
    let job = desk.enqueue(&studio::GenerationParams { seed: Some(4), ..params });
    desk.wait_for(job, studio::queue::JobState::Done);

    let twin = elsewhere.path().join("twin");
    copy_folder(&starter().model(), &twin);
    let Dropped::Checkpoint { card, .. } = desk.drop_one(&twin) else { panic!() };
    desk.wait_until(|cards| {
        cards.iter().any(|other| other.id == card && other.duplicate_of.is_some())
    });
    desk.studio.forget_model(card).unwrap();
    assert!(desk.cards().iter().all(|other| other.id != card));
    assert!(twin.join("unet").is_dir(), "its file stays");
}

#[test]
fn what_cannot_be_used_is_told_with_its_reason() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let desk = Desk::open(folder.path());
    let put = |name: &str, bytes: &[u8]| {
        let path = elsewhere.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let whole = fs::read(style("ink")).unwrap();
    let bomb = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    for (path, part) in [
        (put("notes.txt", b"just words"), "text"),
        (put("empty.safetensors", b""), "empty"),
        (put("cut.safetensors", &whole[..whole.len() / 2]), "cut.safetensors"),
        (put("bomb.safetensors", &bomb), "bomb.safetensors"),
        (put("page.safetensors", b"<!DOCTYPE html><html></html>"), "web page"),
        (put("model.ckpt", b"PK\x03\x04 and so on, and so on, and so on"), "zip archive"),
        (put("pickle.pt", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00."), "pickle"),
        (elsewhere.path().join("gone.safetensors"), "gone.safetensors"),
        (PathBuf::from("https://example.org/a.safetensors"), "link"),
    ] {
        let refusal = desk.refusal(&path);
        assert!(refusal.contains(part), "{}: {refusal}", path.display());
        assert!(
            refusal.chars().next().unwrap().is_uppercase() || refusal.starts_with('`'),
            "{refusal}"
        );
        let items = desk.studio.describe_drop(std::slice::from_ref(&path), None);
        assert_eq!((items[0].kind, items[0].usable), (DropKind::Other, false), "{items:?}");
    }
    #[cfg(unix)]
    {
        let link = elsewhere.path().join("link.safetensors");
        std::os::unix::fs::symlink(elsewhere.path().join("moved"), &link).unwrap();
        let refusal = desk.refusal(&link);
        assert!(refusal.contains("is a link to") && refusal.contains("moved"), "{refusal}");
    }
    // What hovers is told once, and without the folders that it lies in.
    let cut = elsewhere.path().join("cut.safetensors");
    let item = desk.studio.describe_drop(std::slice::from_ref(&cut), None).remove(0);
    assert!(item.what.starts_with("Cannot read `cut.safetensors`"), "{item:?}");
    let text = elsewhere.path().join("notes.txt");
    let item = desk.studio.describe_drop(std::slice::from_ref(&text), None).remove(0);
    assert_eq!(item.what, "a text file · Nothing to paint with.");
    fs::create_dir(elsewhere.path().join("nothing")).unwrap();
    assert!(desk.refusal(&elsewhere.path().join("nothing")).contains("folder without models"));
    assert_eq!(files(&folder.path().join("models"), "").len(), 0, "nothing was kept");

    // In a folder of the library they are named, with the reason.
    fs::copy(
        elsewhere.path().join("cut.safetensors"),
        folder.path().join("models/adapters/cut.safetensors"),
    )
    .unwrap();
    desk.wait_until(|cards| cards.iter().any(|card| card.name == "cut"));
    let cut = desk.card("cut");
    assert!(!cut.usable && cut.kind == ModelKind::Other && !cut.notes.is_empty(), "{cut:?}");
}

#[test]
fn a_dropped_picture_offers_its_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open(folder.path());
    let job = desk.enqueue(&desk.small(11, 1));
    desk.wait_for(job, studio::queue::JobState::Done);
    let image = desk.studio.images(&desk.all()).unwrap().remove(0);
    let Dropped::Picture { picture, recipe: Some(recipe) } = desk.drop_one(Path::new(&image.path))
    else {
        panic!()
    };
    assert_eq!(recipe.params.seed, Some(11));
    assert_eq!((picture.width, picture.height), (64, 64));
    let plain = folder.path().join("plain.png");
    image::RgbImage::new(8, 8).save(&plain).unwrap();
    let plain = desk.drop_one(&plain);
    assert!(matches!(plain, Dropped::Picture { recipe: None, .. }), "{plain:?}");
}

#[test]
fn what_the_person_says_goes_with_the_contents() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("models/adapters");
    fs::create_dir_all(&own).unwrap();
    // No other file has these contents.
    let mut bytes = fs::read(style("pixel")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(own.join("a.safetensors"), bytes).unwrap();
    let desk = Desk::open(folder.path());
    desk.wait_until(|cards| cards.iter().any(|card| card.name == "a"));
    let card = desk.card("a");
    let note = ModelNote {
        title: Some("My own".into()),
        trigger_words: Some(vec!["mine".into()]),
        default_weight: Some(0.5),
        pigment: Some(11),
        prediction: Some(studio::Prediction::VPrediction),
        acceleration: Some("lcm".into()),
    };
    desk.studio.set_model_note(card.id, &note).unwrap();
    let wrong = ModelNote { pigment: Some(12), ..ModelNote::default() };
    let error = desk.studio.set_model_note(card.id, &wrong).unwrap_err();
    assert_eq!(error.code(), Code::InvalidParams { field: "pigment" });
    let wrong = ModelNote { acceleration: Some("magic".into()), ..ModelNote::default() };
    let error = desk.studio.set_model_note(card.id, &wrong).unwrap_err();
    assert_eq!(error.code(), Code::InvalidParams { field: "acceleration" });
    assert_eq!(
        desk.card("a").acceleration.map(|few| (few.name, few.steps)),
        Some(("LCM".into(), 6))
    );

    fs::rename(own.join("a.safetensors"), own.join("b.safetensors")).unwrap();
    desk.wait_until(|cards| cards.iter().any(|card| card.name == "b" && card.title == "My own"));
    let card = desk.card("b");
    assert_eq!((card.pigment, card.default_weight, card.note), (11, 0.5, note));
    assert_eq!(card.trigger_words, ["mine"]);
    assert!(!desk.names().contains(&"a".to_owned()));

    let job = desk.enqueue(&desk.small(1, 1));
    desk.wait_for(job, studio::queue::JobState::Done);
    let card = desk.card("b");
    assert_eq!(card.cover, None);
    desk.studio.set_cover(card.id, Some(desk.all()[0])).unwrap();
    assert!(desk.card("b").cover.is_some());
    let cover = desk.studio.pixels(&format!("/cover/{}", card.id)).unwrap();
    assert_eq!(image::load_from_memory(&cover.bytes).unwrap().width(), 64);
    desk.studio.set_cover(card.id, None).unwrap();
    assert_eq!(desk.card("b").cover, None);
    assert!(desk.studio.pixels(&format!("/cover/{}", card.id)).is_err());
}

#[test]
fn folders_of_others_are_watched_and_never_written() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(other.path().join("Lora")).unwrap();
    let missing = other.path().join("unplugged");
    let desk = Desk::open(folder.path());
    let mut settings = desk.studio.settings();
    settings.model_folders = [other.path(), &missing].map(|path| path.display().to_string()).into();
    desk.studio.set_settings(settings).unwrap();
    desk.wait_until(|_| desk.studio.library().unwrap().folders.len() == 3);
    let folders = desk.studio.library().unwrap().folders;
    assert!(folders[0].own && folders[1].problem.is_none() && folders[2].problem.is_some());

    fs::copy(style("ink"), other.path().join("Lora/theirs.safetensors")).unwrap();
    desk.wait_until(|cards| {
        cards.iter().any(|card| card.name == "theirs" && card.duplicate_of.is_some())
    });
    let theirs = desk.card("theirs");
    assert_eq!(theirs.folder, Some(1));
    assert_eq!(theirs.duplicate_of, Some(desk.card("ink").id));
    assert!(desk.studio.delete_model(theirs.id).is_err(), "it is not ours");
    assert!(desk.studio.forget_model(theirs.id).is_err());
    assert_eq!(files(other.path(), "").len(), 1);

    // A drive that is not there does not stand in the way of anything.
    let job = desk.enqueue(&desk.small(1, 1));
    desk.wait_for(job, studio::queue::JobState::Done);
    fs::remove_file(other.path().join("Lora/theirs.safetensors")).unwrap();
    desk.wait_until(|cards| cards.iter().all(|card| card.name != "theirs"));
}

/// A folder of another program shows whose it is, and only its models; what is wrong with its list of other
/// folders is told.
#[test]
fn folders_of_other_programs_are_known() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (loras, outputs) = (other.path().join("models/loras"), other.path().join("output"));
    for folder in [&loras, &outputs, &other.path().join("custom_nodes")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::copy(style("ink"), loras.join("theirs.safetensors")).unwrap();
    fs::copy(style("neon"), outputs.join("no.safetensors")).unwrap();
    fs::write(other.path().join("extra_model_paths.yaml"), "a: [").unwrap();
    let desk = Desk::open(folder.path());
    let mut settings = desk.studio.settings();
    settings.model_folders = vec![other.path().display().to_string()];
    desk.studio.set_settings(settings).unwrap();
    desk.wait_until(|cards| cards.iter().any(|card| card.name == "theirs"));
    let found = desk.studio.library().unwrap();
    assert_eq!(found.folders[1].program.as_deref(), Some("ComfyUI"));
    assert!(found.folders[1].problem.as_ref().unwrap().contains("extra_model_paths.yaml"));
    assert!(!desk.names().contains(&"no".to_owned()));

    // Mended, it counts at once.
    let more = tempfile::tempdir().unwrap();
    fs::copy(style("pixel"), more.path().join("elsewhere.safetensors")).unwrap();
    let yaml = format!("a:\n  base_path: {0}\n  loras: .\n", more.path().display());
    fs::write(other.path().join("extra_model_paths.yaml"), yaml).unwrap();
    desk.wait_until(|cards| cards.iter().any(|card| card.name == "elsewhere"));
    assert_eq!(desk.studio.library().unwrap().folders[1].problem, None);
}

/// Programs in their usual places are offered, once, and never added unasked.
#[test]
fn other_programs_are_offered_once() {
    let (folder, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let program = |name: &str| {
        let loras = home.path().join(name).join("models/Lora");
        fs::create_dir_all(&loras).unwrap();
        fs::create_dir_all(home.path().join(name).join("models/Stable-diffusion")).unwrap();
        fs::copy(style("ink"), loras.join("theirs.safetensors")).unwrap();
        fs::write(loras.join("nothing.safetensors"), "no model").unwrap();
        home.path().join(name)
    };
    let data = studio::DataFolder {
        others: vec![program("one"), program("two")],
        ..studio::DataFolder::at(folder.path())
    };
    let open = || studio::Studio::open(data.clone(), &[]).unwrap().expect("nobody has it");
    let offers = |studio: &studio::Studio| studio.library().unwrap().offers;
    let first = open();
    let begun = std::time::Instant::now();
    while offers(&first).len() < 2 {
        assert!(begun.elapsed().as_secs() < 20, "{:?}", offers(&first));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let found = offers(&first);
    assert!(found.iter().all(|one| one.program == "AUTOMATIC1111" && one.models == 1), "{found:?}");
    assert_eq!(first.library().unwrap().folders.len(), 1, "nothing was added");
    first.decline_folder(&found[0].path).unwrap();
    let mut settings = first.settings();
    settings.model_folders = vec![found[1].path.clone()];
    first.set_settings(settings).unwrap();
    assert_eq!(offers(&first), []);
    drop(first);
    let again = open();
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(offers(&again), []);
}

/// A model is written anew beside the old one, with its size known before, and shows up by itself.
#[test]
fn models_are_converted_in_the_library() {
    use studio::cards::{ConvertWish, StoredName};

    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("models/adapters");
    fs::create_dir_all(&own).unwrap();
    fs::copy(style("ink"), own.join("own.safetensors")).unwrap();
    fs::write(own.join("own.json"), r#"{"activation text": "inkwash"}"#).unwrap();
    let desk = Desk::open(folder.path());
    desk.wait_until(|cards| cards.iter().any(|card| card.name == "own"));
    let card = desk.card("own");
    assert_eq!(card.precision.as_deref(), desk.card("ink").precision.as_deref());

    let wish = ConvertWish { precision: Some(StoredName::F32), ..ConvertWish::default() };
    let plan = desk.studio.plan_conversion(card.id, &wish).unwrap();
    assert_eq!((plan.name.as_str(), plan.from_folder, &plan.problem), ("own-f32", false, &None));
    assert_eq!(Path::new(&plan.place), own);
    desk.studio.convert_model(card.id, &wish).unwrap();
    desk.wait_until(|cards| cards.iter().any(|card| card.name == "own-f32"));
    let new = desk.card("own-f32");
    assert_eq!((new.bytes, new.precision.as_deref()), (plan.bytes, Some("f32")));
    assert_eq!(new.trigger_words, ["inkwash"], "its sidecar came with it");

    // Nothing is replaced, and a name is a name.
    for (name, hint) in [("own", "nothing is replaced"), ("a/b", "slashes"), ("", "write one")] {
        let wish = ConvertWish { name: Some(name.into()), ..wish.clone() };
        let error = desk.studio.convert_model(card.id, &wish).unwrap_err();
        assert_eq!(error.code(), Code::InvalidParams { field: "name" });
        assert!(error.suggestion().unwrap().contains(hint), "{error}");
    }
    // What cannot be done so is said before it is begun; what lies elsewhere goes to our own folder.
    let starter = desk.card("starter");
    assert!(desk.studio.plan_conversion(starter.id, &wish).is_err());

    // A stack is written into the starter, and the blend is a ground like any other.
    let adapters = vec![studio::AdapterParams::new(studio::FileRef::named("ink"), 0.5)];
    let blend = ConvertWish { folder: true, adapters, ..ConvertWish::default() };
    let plan = desk.studio.plan_conversion(starter.id, &blend).unwrap();
    assert_eq!((plan.name.as_str(), &plan.problem), ("starter-blend", &None));
    desk.studio.convert_model(starter.id, &blend).unwrap();
    let is_blend = |card: &studio::cards::ModelCard| card.name == "starter-blend" && card.usable;
    desk.wait_until(|cards| cards.iter().any(is_blend));
    let elsewhere = desk.studio.plan_conversion(desk.card("ink").id, &wish).unwrap();
    assert_eq!(Path::new(&elsewhere.place), own);

    // From one file to a folder and back.
    let checkpoints = folder.path().join("models/checkpoints");
    engine::testing::write_single_file("sd21", &checkpoints.join("tiny.safetensors"));
    desk.wait_until(|cards| cards.iter().any(|card| card.name == "tiny"));
    let tiny = desk.card("tiny").id;
    let as_folder = ConvertWish { folder: true, ..ConvertWish::default() };
    desk.studio.convert_model(tiny, &as_folder).unwrap();
    let made = checkpoints.join("tiny");
    let at = |cards: &[studio::cards::ModelCard]| {
        let card = cards.iter().find(|card| Path::new(&card.path) == made && card.usable);
        card.map(|card| card.id)
    };
    desk.wait_until(|cards| at(cards).is_some());
    let made_id = at(&desk.studio.library().unwrap().cards).unwrap();
    let again = desk.studio.plan_conversion(made_id, &as_folder).unwrap();
    assert_eq!((again.name.as_str(), &again.problem), ("tiny-2", &None), "a folder again");
    let half = ConvertWish { precision: Some(StoredName::F16), ..ConvertWish::default() };
    assert!(desk.studio.plan_conversion(made_id, &half).unwrap().from_folder);
    desk.studio.convert_model(made_id, &half).unwrap();
    desk.wait_until(|cards| cards.iter().any(|card| card.name == "tiny-f16" && card.usable));
}

/// Words that an adapter in use brings are as long as the vectors that they stand for.
#[test]
fn words_of_adapters_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let info = |shape: &[usize], from: usize, to: usize| {
        let offsets = [from, to];
        json!({"dtype": "F32", "shape": shape, "data_offsets": offsets})
    };
    let header = json!({
        "lora_unet_conv_in.lora_down.weight": info(&[1, 4, 1, 1], 0, 16),
        "lora_unet_conv_in.lora_up.weight": info(&[4, 1, 1, 1], 16, 32),
        "bundle_emb.zorp.clip_l": info(&[8, 768], 32, 32 + 8 * 768 * 4),
    })
    .to_string();
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length[..], header.as_bytes(), &vec![0; 32 + 8 * 768 * 4]].concat();
    let path = folder.path().join("models/adapters/style.safetensors");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    let desk = Desk::open(folder.path());
    desk.wait_until(|cards| cards.iter().any(|card| card.name == "style"));
    let total =
        |adapters: &[u32]| desk.studio.count_tokens(None, adapters, "a Zorp fox").unwrap().total;
    let without = total(&[]);
    assert!((3..8).contains(&without), "{without}");
    assert_eq!(total(&[desk.card("style").id]), 10);
    // Others bring nothing, and one that is gone keeps nothing from being counted.
    assert_eq!(total(&[desk.card("neon").id, 999_999]), without);
}
