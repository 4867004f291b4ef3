//! Small folder trees of every program.

use std::collections::BTreeMap;

use super::*;
use crate::library::Library;

/// Makes files; a text that begins with `->` makes a link.
fn plant(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix("->") {
            #[cfg(unix)]
            Some(to) => std::os::unix::fs::symlink(to, path).unwrap(),
            _ => fs::write(path, text).unwrap(),
        }
    }
}

/// Names as they are told apart, and the place.
fn listed(folder: &Path) -> (Vec<String>, Place) {
    let place = Place::at(folder);
    let mut walk = Walk::default();
    place.list(&mut walk);
    let mut names: Vec<_> = walk.entries.into_iter().map(|entry| entry.qualified_name).collect();
    names.sort();
    (names, place)
}

fn program(place: &Place) -> Option<&'static str> {
    place.program.map(|program| program.name)
}

const A1111: &[(&str, &str)] = &[
    ("webui.py", ""),
    ("venv/lib/weights.pt", "x"),
    ("outputs/a.safetensors", "x"),
    ("extensions/x/models/y.pth", "x"),
    ("models/Stable-diffusion/base.ckpt", "x"),
    ("models/Lora/styles/ink.safetensors", "x"),
    ("models/LyCORIS/wash.safetensors", "x"),
    ("models/VAE/clear.vae.pt", "x"),
    ("models/VAE-approx/model.pt", "x"),
    ("models/ESRGAN/4x.pth", "x"),
    ("models/embeddings/new.pt", "x"),
    ("embeddings/easy.pt", "x"),
];

#[test]
fn automatic1111_and_forge() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("stable-diffusion-webui");
    plant(&root, A1111);
    let (names, place) = listed(&root);
    let wanted = [
        "Lora/styles/ink",
        "LyCORIS/wash",
        "Stable-diffusion/base",
        "VAE-approx/model",
        "VAE/clear.vae",
        "embeddings/easy",
        "embeddings/new",
    ];
    assert_eq!(names, wanted);
    assert_eq!((program(&place), &place.problem), (Some("AUTOMATIC1111"), &None));

    plant(&root, &[("modules_forge/x.py", "")]);
    assert_eq!(program(&Place::at(&root)), Some("Forge"));
    // One-click packages have it in a folder.
    fs::rename(&root, folder.path().join("webui")).unwrap();
    let (names, place) = listed(folder.path());
    assert_eq!((names.len(), program(&place)), (wanted.len(), Some("Forge")));
}

#[test]
fn comfyui_and_its_folders_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("ComfyUI");
    plant(
        &root,
        &[
            ("folder_paths.py", ""),
            ("custom_nodes/x/y.safetensors", "x"),
            ("output/z.safetensors", "x"),
            ("models/checkpoints/base.safetensors", "x"),
            ("models/loras/ink.safetensors", "x"),
            ("models/unet/flux.gguf", "x"),
            ("models/diffusion_models/wan.safetensors", "x"),
            ("models/clip/l.safetensors", "x"),
            ("models/upscale_models/4x.pth", "x"),
        ],
    );
    let own = ["checkpoints/base", "clip/l", "diffusion_models/wan", "loras/ink", "unet/flux"];
    let (names, place) = listed(&root);
    assert_eq!((names, program(&place)), (own.map(str::to_owned).into(), Some("ComfyUI")));

    plant(
        folder.path(),
        &[
            ("webui/models/Stable-diffusion/old.ckpt", "x"),
            ("webui/models/Lora/a.safetensors", "x"),
            ("webui/models/LyCORIS/b.safetensors", "x"),
            ("webui/models/ControlNet/c.safetensors", "x"),
            ("more/vae/d.safetensors", "x"),
            ("more/fast/e.safetensors", "x"),
            ("home/loras/f.safetensors", "x"),
        ],
    );
    let yaml = "\
# folders of other programs
a111:
    base_path: ../webui/
    checkpoints: models/Stable-diffusion
    loras: |
        models/Lora
        models/LyCORIS
    controlnet: models/ControlNet
nothing:
comfyui:
    is_default: true
    base_path: $MORE/.
    vae: vae/
    checkpoints: [fast, missing]
third:
    loras: ~/loras
";
    fs::write(root.join(EXTRA_PATHS), yaml).unwrap();
    let variable =
        |name: &str| (name == "MORE").then(|| folder.path().join("more").display().to_string());
    let around = Surroundings { home: Some(folder.path().join("home")), variable: &variable };
    let place = Place::seen_from(&root, &around);
    assert_eq!(place.problem, None);
    let elsewhere: Vec<_> =
        place.shelves.iter().filter(|shelf| !shelf.starts_with(&root)).cloned().collect();
    let wanted = [
        "more/vae",
        "more/fast",
        "more/missing",
        "webui/models/Stable-diffusion",
        "webui/models/Lora",
        "webui/models/LyCORIS",
        "home/loras",
    ];
    assert_eq!(elsewhere, wanted.map(|name| folder.path().join(name)));
    assert_eq!(place.lost().collect::<Vec<_>>(), [folder.path().join("more/missing")]);
    let mut walk = Walk::default();
    place.list(&mut walk);
    assert_eq!(walk.entries.len(), own.len() + 6);

    // Both programs are added: nothing is there twice.
    Place::at(&folder.path().join("webui")).list(&mut walk);
    assert_eq!(walk.entries.len(), own.len() + 6);
}

#[test]
fn a_damaged_list_of_folders_costs_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    plant(root, &[("models/checkpoints/a.ckpt", "x"), ("more/b.ckpt", "x")]);
    let deep = format!("a: {}", "{b: ".repeat(40));
    let laughs = "a: &a [x, x]\nb: &b [*a, *a]\nc: {checkpoints: [*b, *b], loras: *a}\n";
    let long = "# ".repeat(200_000);
    for (yaml, names, problem) in [
        ("first:\n  checkpoints: more\nsecond: [unfinished\n", 2, true),
        ("first:\n  checkpoints: more\n\tsecond: x\n", 1, true),
        ("just words", 1, true),
        (&*deep, 1, true),
        (&*long, 1, true),
        ("- a\n- b\n", 1, false),
        (laughs, 1, false),
        ("", 1, false),
        ("first:\n  checkpoints: more\n  loras:\n  7: 8\n", 2, false),
    ] {
        fs::write(root.join(EXTRA_PATHS), yaml).unwrap();
        let (found, place) = listed(root);
        assert_eq!(found.len(), names, "{yaml:.60}: {found:?}");
        assert_eq!(place.problem.is_some(), problem, "{yaml:.60}: {:?}", place.problem);
        assert_eq!(program(&place), Some("ComfyUI"));
        if let Some(problem) = place.problem {
            assert!(problem.contains(EXTRA_PATHS) && problem.contains("Mend it"), "{problem}");
        }
    }
    fs::write(root.join(EXTRA_PATHS), [0xff, 0xfe, 0x00]).unwrap();
    let (found, place) = listed(root);
    assert!(found.len() == 1 && place.problem.unwrap().contains("UTF-8"));
}

#[test]
fn invokeai() {
    let folder = tempfile::tempdir().unwrap();
    plant(
        folder.path(),
        &[
            ("invokeai.yaml", ""),
            ("databases/invokeai.db", ""),
            ("outputs/images/a.safetensors", "x"),
            ("models/sd-1/main/dream/model_index.json", "{}"),
            ("models/sd-1/main/dream/unet/x.safetensors", "x"),
            ("models/sd-1/lora/ink.safetensors", "x"),
            ("models/core/convert/clip/model.safetensors", "x"),
            ("models/3f2a-77/new.safetensors", "x"),
            ("autoimport/main/old.ckpt", "x"),
        ],
    );
    let (names, place) = listed(folder.path());
    assert_eq!(program(&place), Some("InvokeAI"));
    assert_eq!(
        names,
        [
            "autoimport/main/old",
            "models/3f2a-77/new",
            "models/sd-1/lora/ink",
            "models/sd-1/main/dream"
        ]
    );
}

#[cfg(unix)]
#[test]
fn the_hugging_face_hub() {
    let folder = tempfile::tempdir().unwrap();
    let hub = folder.path().join("hub");
    plant(
        &hub,
        &[
            ("version.txt", "1"),
            ("datasets--a--b/snapshots/1/x.safetensors", "x"),
            // A diffusers folder of which links lead to blobs, and an older revision.
            ("models--org--dream/refs/main", "new\n"),
            ("models--org--dream/blobs/aa", "{}"),
            ("models--org--dream/blobs/bb", "weights"),
            ("models--org--dream/blobs/cc.incomplete", "half"),
            ("models--org--dream/snapshots/new/model_index.json", "->../../blobs/aa"),
            ("models--org--dream/snapshots/new/unet/x.safetensors", "->../../../blobs/bb"),
            ("models--org--dream/snapshots/old/old.ckpt", "->../../blobs/bb"),
            // Several files; one that is still being loaded; the same in two formats.
            ("models--org--files/refs/main", "r1"),
            ("models--org--files/blobs/one", "1"),
            ("models--org--files/blobs/two", "2"),
            ("models--org--files/snapshots/r1/a.safetensors", "->../../blobs/one"),
            ("models--org--files/snapshots/r1/vae/diffusion_pytorch_model.bin", "1"),
            ("models--org--files/snapshots/r1/vae/diffusion_pytorch_model.safetensors", "2"),
            ("models--org--files/snapshots/r1/half.safetensors", "->../../blobs/three"),
            ("models--org--files/snapshots/r1/four.incomplete", "x"),
            // One file, by its repository's name; a reference that leads out.
            ("models--org--one--more/snapshots/r/model.safetensors", "x"),
            ("models--org--bad/refs/main", "../../.."),
            ("models--org--bad/snapshots/r/x.safetensors", "x"),
            ("models--org--bad/snapshots/r/loop", "->.."),
        ],
    );
    let (names, place) = listed(&hub);
    assert_eq!(program(&place), Some("Hugging Face"));
    assert_eq!(
        names,
        ["org/bad", "org/dream", "org/files/a", "org/files/vae", "org/one/more"],
        "{place:?}"
    );
    let (same, place) = listed(folder.path());
    assert_eq!((same, program(&place)), (names, Some("Hugging Face")));
    let mut walk = Walk::default();
    place.list(&mut walk);
    let paths: BTreeMap<_, _> =
        walk.entries.into_iter().map(|entry| (entry.name, entry.path)).collect();
    assert!(paths["org/files/vae"].extension().is_some_and(|own| own == "safetensors"));
    assert!(paths["org/dream"].ends_with("snapshots/new"));

    // It can be called by that name.
    let folders = crate::Folders { models: vec![hub.clone()], ..crate::Folders::default() };
    let library = Library::open(folders).unwrap();
    let wanted = crate::FileRef::named("org/dream");
    let path = library.path(crate::Kind::BaseModel, &wanted).unwrap();
    assert!(path.ends_with("models--org--dream/snapshots/new"));
}

#[cfg(unix)]
#[test]
fn links_in_circles_end() {
    let folder = tempfile::tempdir().unwrap();
    plant(folder.path(), A1111);
    plant(
        folder.path(),
        &[
            ("models/Lora/again", "->../.."),
            ("models/Lora/styles/twin.safetensors", "->ink.safetensors"),
            ("models/VAE/VAE", "->."),
        ],
    );
    let (names, _) = listed(folder.path());
    let inks = names.iter().filter(|name| name.ends_with("ink")).count();
    assert_eq!(inks, 1, "{names:?}");
}

#[test]
fn plain_folders_stay_plain() {
    let folder = tempfile::tempdir().unwrap();
    plant(
        folder.path(),
        &[("checkpoints/a.ckpt", "x"), ("outputs/b.safetensors", "x"), ("venv/c.pt", "x")],
    );
    let (names, place) = listed(folder.path());
    assert_eq!(names, ["checkpoints/a", "outputs/b"]);
    assert_eq!(program(&place), None);
    let gone = Place::at(&folder.path().join("none"));
    assert!(gone.problem.is_some() && gone.lost().count() == 1);
}

#[test]
fn programs_are_found_where_they_usually_are() {
    let folder = tempfile::tempdir().unwrap();
    let (webui, comfy) = (folder.path().join("webui"), folder.path().join("comfy"));
    plant(&webui, A1111);
    plant(&comfy, &[("folder_paths.py", ""), ("models/loras/a.safetensors", "x")]);
    let plain = folder.path().join("plain");
    fs::create_dir_all(&plain).unwrap();
    let candidates = [webui.clone(), comfy.clone(), comfy.join("../comfy"), plain];
    let found: Vec<_> =
        programs_in(&candidates, &[webui]).into_iter().map(|place| place.folder).collect();
    assert_eq!(found, [comfy]);
    let usual = usual();
    assert!(usual.iter().any(|folder| folder.ends_with("ComfyUI")), "{usual:?}");
}
