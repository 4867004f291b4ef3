//! Adapters: numbers against PEFT and LyCORIS, names against complete lists of modules, and what
//! happens to files that do not fit.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use engine::{
    Error,
    adapter::{Adapter, AdapterReport, Base, Delta, Fit, Problem},
    architecture::Modules,
    checkpoint::header::TensorFile,
};
use serde_json::{Map, Value, json};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A tensor of a file that a test writes.
type Part = (String, Vec<usize>, f32);

/// Writes a safetensors file of f32, each tensor filled with one value.
fn write(path: &Path, parts: &[Part]) {
    write_with(path, parts, &json!({}));
}

fn write_with(path: &Path, parts: &[Part], metadata: &Value) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    header.insert("__metadata__".into(), metadata.clone());
    for (name, shape, value) in parts {
        let begin = data.len();
        for _ in 0..shape.iter().product() {
            data.extend(value.to_le_bytes());
        }
        let info = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] });
        assert!(header.insert(name.clone(), info).is_none(), "{name} twice");
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

/// A LoRA of rank 1 for a module under any name: `down` 1, `up` 2.
fn lora(spelling: &str, shape: &[usize]) -> [Part; 2] {
    let [outputs, inputs, ref kernel @ ..] = *shape else { panic!("{shape:?}") };
    let (down, up) = match *kernel {
        [height, width] => (vec![1, inputs, height, width], vec![outputs, 1, 1, 1]),
        _ => (vec![1, inputs], vec![outputs, 1]),
    };
    [
        (format!("{spelling}.lora_down.weight"), down, 1.0),
        (format!("{spelling}.lora_up.weight"), up, 2.0),
    ]
}

/// A folder for a test's files and the path of the one that it writes.
fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("style.safetensors");
    (folder, path)
}

/// Every convolution and linear layer of a family's UNet and of CLIP-L: canonical name, original
/// name, shape. From lists of facts that are complete.
fn full_size(unet: &str) -> Vec<(String, String, Vec<usize>)> {
    let read =
        |name: &str| fs::read_to_string(repository("tests/fixtures/keymaps").join(name)).unwrap();
    let shape = |text: &str| -> Vec<usize> {
        text.split(',').map(|number| number.parse().unwrap()).collect()
    };
    let mut modules = Vec::new();
    for line in read(unet).lines().skip(1) {
        let columns: Vec<_> = line.split('\t').collect();
        let (Some(ldm), Some(diffusers)) =
            (columns[0].strip_suffix(".weight"), columns[1].strip_suffix(".weight"))
        else {
            continue;
        };
        modules.push((format!("unet.{diffusers}"), ldm.to_owned(), shape(columns[2])));
    }
    for line in read("clip_l_hf.tsv").lines().skip(1) {
        let columns: Vec<_> = line.split('\t').collect();
        if let Some(name) = columns[0].strip_suffix(".weight") {
            modules.push((format!("text_encoder.{name}"), String::new(), shape(columns[1])));
        }
    }
    modules.retain(|(name, _, shape)| shape.len() > 1 && !name.contains("embeddings."));
    assert!(modules.len() > 300);
    modules
}

fn sd1() -> Modules {
    full_size("unet_sd1.tsv").into_iter().map(|(name, _, shape)| (name, shape)).collect()
}

/// UNet and text encoder of the model that ships with the program.
fn starter() -> Modules {
    let files = [
        ("unet.", "unet/diffusion_pytorch_model.safetensors"),
        ("text_encoder.", "text_encoder/model.safetensors"),
    ];
    let mut modules = Modules::new();
    for (component, name) in files {
        let file = TensorFile::open(&repository("assets/starter/model").join(name)).unwrap();
        for (name, info) in file.tensors() {
            if let Some(module) = name.strip_suffix(".weight") {
                modules.insert(format!("{component}{module}"), info.shape.clone());
            }
        }
    }
    modules
}

/// A module for algorithms that only look at its shape.
fn without_weights(shape: &[usize]) -> Base<'_> {
    fn nothing() -> engine::Result<Vec<f32>> {
        panic!("this algorithm needs no base weight")
    }
    Base::new(shape, None, &nothing)
}

fn delta(adapter: &Adapter, fit: &Fit, module: &str, shape: &[usize], weight: f64) -> Delta {
    let mut delta = Delta::default();
    adapter.outline().add_delta(fit, module, &without_weights(shape), weight, &mut delta).unwrap();
    delta
}

/// Largest difference, relative to the largest value.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
    let scale = largest(&mut expected.iter().map(|value| value.abs()));
    largest(&mut found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()))
        / scale
}

#[test]
fn changes_are_those_of_peft_and_lycoris() {
    let folder = repository("tests/golden/adapter");
    let text = fs::read_to_string(folder.join("modules.json")).unwrap();
    let modules: Modules = serde_json::from_str(&text).unwrap();
    let deltas: BTreeMap<String, Tensor> =
        candle_core::safetensors::load(folder.join("deltas.safetensors"), &Device::Cpu)
            .unwrap()
            .into_iter()
            .collect();
    let values = |tensor: &Tensor| -> Vec<f32> { tensor.flatten_all().unwrap().to_vec1().unwrap() };

    let mut compared = 0;
    for (name, file, unet_only) in [
        ("locon", "locon.safetensors", false),
        ("tucker", "tucker.safetensors", false),
        ("loha", "loha.safetensors", false),
        ("loha_tucker", "loha_tucker.safetensors", false),
        ("half", "half.safetensors", false),
        ("peft", "peft", false),
        ("peft_loha", "peft_loha", true),
    ] {
        let adapter = Adapter::open(&folder.join(file)).unwrap();
        let fit = adapter.outline().fit(&modules);
        assert_eq!((fit.unmatched.as_slice(), fit.wrong_shape.as_slice()), (&[][..], &[][..]));
        for (module, shape) in &modules {
            if unet_only && module.starts_with("text_encoder.") {
                assert!(!fit.changes(module));
                continue;
            }
            let expected = values(&deltas[&format!("{name}/{module}")]);
            let found = delta(&adapter, &fit, module, shape, 1.0);
            let off = distance(&found.weight(shape), &expected);
            assert!(off < 1e-6, "{name}, {module}: {off:e} from the reference");
            let bias = deltas.get(&format!("{name}/{module}.bias")).map(values);
            assert_eq!(found.bias.is_some(), bias.is_some(), "{name}, {module}");
            if let (Some(found), Some(expected)) = (found.bias, bias) {
                let off = distance(&found, &expected);
                assert!(off < 1e-6, "{name}, bias of {module}: {off:e} from the reference");
            }

            // Half of it the other way round, on top of a quarter.
            let mut sum = delta(&adapter, &fit, module, shape, 0.25);
            adapter
                .outline()
                .add_delta(&fit, module, &without_weights(shape), -0.5, &mut sum)
                .unwrap();
            let expected: Vec<f32> = expected.iter().map(|value| -0.25 * value).collect();
            assert!(distance(&sum.weight(shape), &expected) < 1e-6, "{name}, {module} twice");
            compared += 1;
        }
    }
    assert_eq!(compared, 7 * 8 - 2);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let modules = starter();
    let path = repository("assets/starter/adapters/watercolor.safetensors");
    let adapter = Adapter::open(&path).unwrap();
    let fit = adapter.outline().fit(&modules);
    let all = || -> Vec<Delta> {
        fit.modules().map(|name| delta(&adapter, &fit, name, &modules[name], 0.7)).collect()
    };
    let expected = all();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(all) == expected, "{threads} threads");
    }
}

#[test]
fn every_starter_adapter_fits_the_starter() {
    let modules = starter();
    for (name, count) in [
        ("ink", 93),
        ("neon", 93),
        ("pixel", 93),
        ("pixel-diffusers-naming", 93),
        ("twemoji", 117),
        ("watercolor", 93),
    ] {
        let path = repository("assets/starter/adapters").join(format!("{name}.safetensors"));
        let adapter = Adapter::open(&path).unwrap();
        let report = AdapterReport::new(adapter.outline(), &adapter.outline().fit(&modules));
        assert_eq!(report.name, name);
        assert_eq!(report.applied.len(), count, "{name}");
        assert_eq!((report.unmatched, report.wrong_shape), (vec![], vec![]), "{name}");
    }
}

#[test]
fn one_adapter_in_two_spellings_is_the_same() {
    let modules = starter();
    let open = |name: &str| {
        let path = repository("assets/starter/adapters").join(format!("{name}.safetensors"));
        let adapter = Adapter::open(&path).unwrap();
        let fit = adapter.outline().fit(&modules);
        (adapter, fit)
    };
    let ((kohya, kohya_fit), (peft, peft_fit)) = (open("pixel"), open("pixel-diffusers-naming"));
    assert_ne!(kohya.hash(), peft.hash());
    for name in kohya_fit.modules() {
        let shape = &modules[name];
        let delta = delta(&kohya, &kohya_fit, name, shape, 1.0);
        assert_eq!(self::delta(&peft, &peft_fit, name, shape, 1.0), delta, "{name}");
    }
}

#[test]
fn every_module_is_found_under_every_spelling() {
    let all = full_size("unet_sd1.tsv");
    let modules = sd1();
    type Spell = fn(&str, &str) -> Option<String>;
    let spellings: &[(&str, Spell)] = &[
        ("kohya", |canonical, _| {
            let (component, path) = canonical.split_once('.')?;
            let prefix = if component == "unet" { "lora_unet_" } else { "lora_te_" };
            Some(format!("{prefix}{}", path.replace('.', "_")))
        }),
        ("kohya, original blocks", |_, ldm| {
            (!ldm.is_empty()).then(|| format!("lora_unet_{}", ldm.replace('.', "_")))
        }),
        ("diffusers", |canonical, _| Some(canonical.to_owned())),
        ("PEFT", |canonical, _| Some(format!("base_model.model.{}", canonical.split_once('.')?.1))),
        ("ComfyUI", |_, ldm| (!ldm.is_empty()).then(|| format!("diffusion_model.{ldm}"))),
        ("LyCORIS", |canonical, _| {
            Some(format!("lycoris_{}", canonical.split_once('.')?.1.replace('.', "_")))
        }),
    ];
    let (_folder, path) = file();
    for (trainer, spell) in spellings {
        let mut expected = Vec::new();
        let mut parts = Vec::new();
        for (canonical, ldm, shape) in &all {
            if let Some(spelling) = spell(canonical, ldm) {
                parts.extend(lora(&spelling, shape));
                expected.push(canonical.as_str());
            }
        }
        expected.sort_unstable();
        write(&path, &parts);
        let fit = Adapter::open(&path).unwrap().outline().fit(&modules);
        assert_eq!((fit.unmatched.as_slice(), fit.wrong_shape.as_slice()), (&[][..], &[][..]));
        assert_eq!(fit.modules().collect::<Vec<_>>(), expected, "{trainer}");
    }
}

#[test]
fn the_first_attention_processors_are_understood() {
    let block = "unet.mid_block.attentions.0.transformer_blocks.0.attn1";
    let layer = "text_encoder.text_model.encoder.layers.3.self_attn";
    let rows = [
        (format!("{block}.processor.to_q_lora"), format!("{block}.to_q")),
        (format!("{block}.processor.to_out_lora"), format!("{block}.to_out.0")),
        (format!("{layer}.to_v_lora"), format!("{layer}.v_proj")),
        (format!("{layer}.to_out_lora"), format!("{layer}.out_proj")),
    ];
    let modules = sd1();
    let parts: Vec<Part> = rows
        .iter()
        .flat_map(|(spelling, module)| {
            let shape = &modules[module];
            [
                (format!("{spelling}.down.weight"), vec![4, shape[1]], 1.0),
                (format!("{spelling}.up.weight"), vec![shape[0], 4], 1.0),
            ]
        })
        .collect();
    let (_folder, path) = file();
    write(&path, &parts);
    let fit = Adapter::open(&path).unwrap().outline().fit(&modules);
    assert_eq!(fit.unmatched, []);
    assert_eq!(fit.modules().count(), rows.len());
    assert!(rows.iter().all(|(_, module)| fit.changes(module)));
}

#[test]
fn factors_are_matched_by_their_elements() {
    let modules: Modules = [
        ("unet.conv_in".to_owned(), vec![6, 4, 1, 1]),
        ("unet.time_embedding.linear_1".to_owned(), vec![6, 4]),
    ]
    .into();
    let (_folder, path) = file();
    write(
        &path,
        &[
            // Matrices for a 1 × 1 convolution, 1 × 1 convolutions for a linear layer.
            ("lora_unet_conv_in.lora_down.weight".into(), vec![2, 4], 1.0),
            ("lora_unet_conv_in.lora_up.weight".into(), vec![6, 2], 3.0),
            ("lora_unet_conv_in.alpha".into(), vec![1], 1.0),
            ("lora_unet_time_embedding_linear_1.lora_down.weight".into(), vec![2, 4, 1, 1], 1.0),
            ("lora_unet_time_embedding_linear_1.lora_up.weight".into(), vec![6, 2, 1, 1], 3.0),
        ],
    );
    let adapter = Adapter::open(&path).unwrap();
    let fit = adapter.outline().fit(&modules);
    assert_eq!(fit.modules().count(), 2);
    let found = delta(&adapter, &fit, "unet.conv_in", &[6, 4, 1, 1], 1.0);
    assert_eq!(found.weight(&[6, 4]), [3.0; 24], "alpha 1 at rank 2 halves it");
    let found = delta(&adapter, &fit, "unet.time_embedding.linear_1", &[6, 4], 1.0);
    assert_eq!(found.weight(&[6, 4]), [6.0; 24], "without alpha, it is the rank");
}

#[test]
fn a_module_under_two_names_is_used_once() {
    let modules = sd1();
    let shape = &modules["unet.down_blocks.0.resnets.0.conv1"];
    let (_folder, path) = file();
    let mut parts = lora("lora_unet_down_blocks_0_resnets_0_conv1", shape).to_vec();
    parts.extend(lora("lora_unet_input_blocks_1_0_in_layers_2", shape));
    write(&path, &parts);
    let fit = Adapter::open(&path).unwrap().outline().fit(&modules);
    assert_eq!(fit.modules().collect::<Vec<_>>(), ["unet.down_blocks.0.resnets.0.conv1"]);
    let [Problem { name, reason }] = fit.unmatched.as_slice() else { panic!("{fit:?}") };
    assert_eq!(name, "lora_unet_input_blocks_1_0_in_layers_2");
    assert!(reason.contains("another name"), "{reason}");
}

#[test]
fn what_does_not_fit_is_listed_with_its_reason() {
    let modules = sd1();
    let attention = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
    let (_folder, path) = file();
    let mut parts = lora(attention, &[1280, 1280]).to_vec();
    parts.extend(lora("lora_unet_conv_in", &[320, 9, 3, 3]));
    parts.extend(lora("lora_te_text_model_encoder_layers_0_mlp_fc1", &[3072, 768]));
    parts.push(("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha".into(), vec![2], 1.0));
    parts.extend(lora("lora_unet_nowhere", &[4, 4]));
    parts.push((format!("{attention}.diff_b"), vec![1280], 0.5));
    parts.push(("lora_unet_conv_out.lora_up.weight".into(), vec![4, 1, 1, 1], 1.0));
    parts.push(("lora_unet_conv_out.strange".into(), vec![1], 1.0));
    let wrong_bias = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k";
    parts.extend(lora(wrong_bias, &[1280, 1280]));
    parts.push((format!("{wrong_bias}.diff_b"), vec![1279], 0.5));
    parts.push(("bundle_emb.cat.string_to_param.*".into(), vec![1, 768], 1.0));
    parts.push(("lora_unet_conv_norm_out.w_norm".into(), vec![320], 1.0));
    let mut modules_with_norm = modules.clone();
    modules_with_norm.insert("unet.conv_norm_out".into(), vec![320]);
    write(&path, &parts);
    let fit = Adapter::open(&path).unwrap().outline().fit(&modules_with_norm);

    let mut used = fit.modules();
    assert_eq!(used.next(), Some("unet.conv_norm_out"));
    assert_eq!(used.next(), Some("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"));
    assert_eq!(used.next(), None);
    // A change of the bias may stand beside any other.
    let changed = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let adapter = Adapter::open(&path).unwrap();
    let bias = delta(&adapter, &fit, changed, &[1280, 1280], 2.0).bias;
    assert_eq!(bias, Some(vec![1.0; 1280]));
    let expect = |problems: &[Problem], rows: &[(&str, &str)]| {
        assert_eq!(problems.len(), rows.len(), "{problems:#?}");
        for (problem, (name, reason)) in problems.iter().zip(rows) {
            assert!(problem.name.contains(name) && problem.reason.contains(reason), "{problem}");
        }
    };
    expect(
        &fit.unmatched,
        &[
            ("lora_unet_conv_out", "make up no known change"),
            ("lora_unet_conv_out.strange", "no known algorithm"),
            ("lora_unet_nowhere", "no module of this name"),
        ],
    );
    expect(
        &fit.wrong_shape,
        &[
            (
                "text_encoder.text_model.encoder.layers.0.mlp.fc1",
                "its alpha is not a single number",
            ),
            (
                "unet.conv_in",
                "lora_down.weight [1, 9, 3, 3], lora_up.weight [320, 1, 1, 1] for a weight",
            ),
            (
                "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k",
                "diff_b [1279], lora_down.weight",
            ),
        ],
    );
}

/// Every algorithm that needs the base weight, or is no product of two factors, against LyCORIS and PEFT at
/// weight 1; at other weights what its definition says.
#[test]
fn algorithms_change_what_their_libraries_change() {
    let folder = repository("tests/golden/adapter");
    let golden =
        candle_core::safetensors::load(folder.join("algorithms.safetensors"), &Device::Cpu)
            .unwrap();
    let values = |name: &str| -> Option<Vec<f32>> {
        golden.get(name).map(|tensor| tensor.flatten_all().unwrap().to_vec1().unwrap())
    };
    let modules: Modules = golden
        .iter()
        .filter_map(|(name, tensor)| {
            let module = name.strip_prefix("base/")?.strip_suffix(".weight")?;
            Some((module.to_owned(), tensor.dims().to_vec()))
        })
        .collect();
    let mut seen = 0;
    for entry in fs::read_dir(folder.join("algorithms")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let adapter = Adapter::open(&path).unwrap();
        let fit = adapter.outline().fit(&modules);
        assert_eq!((&fit.unmatched, &fit.wrong_shape), (&vec![], &vec![]), "{name}");
        for module in fit.modules() {
            let shape = &modules[module];
            let bias = values(&format!("base/{module}.bias"));
            let read = || Ok(values(&format!("base/{module}.weight")).unwrap());
            let base = Base::new(shape, bias.as_deref(), &read);
            let change = |weight: f64| {
                let mut delta = Delta::default();
                adapter.outline().add_delta(&fit, module, &base, weight, &mut delta).unwrap();
                delta
            };
            let expected = values(&format!("{name}/{module}")).unwrap();
            let found = change(1.0);
            let apart = distance(&found.weight(shape), &expected);
            println!("{apart:.1e} {name} {module}");
            assert!(apart < 2e-5, "{name} {module}: {apart:e}");
            let of_bias = values(&format!("{name}/{module}.bias"));
            assert_eq!(found.bias.is_some(), of_bias.is_some(), "{name} {module}");
            if let (Some(found), Some(expected)) = (&found.bias, of_bias) {
                assert!(distance(found, &expected) < 2e-5, "{name} {module}");
            }
            assert!(change(0.0).weight(shape).iter().all(|value| *value == 0.0), "{name}");
            // What is a sum, or is defined as a part of the way, is linear in the weight.
            if !["boft", "oft_rescaled"].contains(&name.as_str()) {
                let half: Vec<f32> = change(0.5).weight(shape).iter().map(|v| v * 2.0).collect();
                assert!(distance(&half, &expected) < 2e-5, "{name} {module} at one half");
            }
            seen += 1;
        }
    }
    assert!(seen > 75, "{seen} modules");
}

/// What an adapter that cannot be used at all is told.
fn refusal(path: &Path, modules: &Modules) -> String {
    let adapter = Adapter::open(path).unwrap();
    let fit = adapter.outline().fit(modules);
    assert!(fit.is_empty());
    adapter.outline().refusal(&fit, "model", "SD 1.x").unwrap().to_string()
}

#[test]
fn algorithms_without_a_formula_are_named() {
    let module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
    type Parts<'a> = &'a [(&'a str, &'a [usize])];
    let rows: &[(&str, Parts<'_>)] = &[
        ("BOFT of inputs", &[("boft_R", &[1, 2, 4, 4]), ("boft_s", &[1280, 1])]),
        ("VeRA", &[("vera_lambda_b", &[1280]), ("vera_lambda_d", &[4])]),
        ("FourierFT", &[("fourierft_spectrum", &[100])]),
        ("a replaced weight", &[("set_weight", &[1280, 1280])]),
        // As LyCORIS writes it.
        (
            "T-LoRA (ortho) without its first state",
            &[
                ("q_layer.weight", &[4, 1280]),
                ("p_layer.weight", &[1280, 4]),
                ("lambda_layer", &[1, 4]),
                ("alpha", &[]),
            ],
        ),
    ];
    let modules = sd1();
    let (_folder, path) = file();
    for (algorithm, parts) in rows {
        let parts: Vec<Part> = parts
            .iter()
            .map(|(suffix, shape)| (format!("{module}.{suffix}"), shape.to_vec(), 1.0))
            .collect();
        write(&path, &parts);
        let fit = Adapter::open(&path).unwrap().outline().fit(&modules);
        assert_eq!(fit.unmatched.len(), 1, "{fit:?}");
        assert_eq!(fit.unmatched[0].reason, format!("{algorithm} is not supported yet"));
        let message = refusal(&path, &modules);
        assert!(message.contains(&format!("made with {algorithm}")), "{message}");
    }
}

/// The same tensors mean one rotation in PEFT, and its reverse in OneTrainer, but for linear layers.
#[test]
fn rotations_of_convolutions_need_to_say_whose_they_are() {
    let modules: Modules = [
        ("unet.conv_in".to_owned(), vec![6, 4, 3, 3]),
        ("unet.time_embedding.linear_1".to_owned(), vec![6, 8]),
    ]
    .into();
    let parts = |prefix: &str, linear: &str| {
        [
            (format!("{prefix}conv_in.oft_R.weight"), vec![9, 6], 0.1),
            (format!("{prefix}{linear}.oft_R.weight"), vec![2, 6], 0.1),
        ]
    };
    let (folder, path) = file();
    write(&path, &parts("lora_unet_", "time_embedding_linear_1"));
    let fit = Adapter::open(&path).unwrap().outline().fit(&modules);
    assert_eq!(fit.modules().collect::<Vec<_>>(), ["unet.time_embedding.linear_1"]);
    let [Problem { name, .. }] = fit.wrong_shape.as_slice() else { panic!("{fit:?}") };
    assert_eq!(name, "unet.conv_in");
    let mut marked = parts("lora_unet_", "time_embedding_linear_1").to_vec();
    marked.push(("lora_unet_conv_in.oft_R.scaled_oft".to_owned(), vec![1], 1.0));
    write(&path, &marked);
    let fit = Adapter::open(&path).unwrap().outline().fit(&modules);
    assert_eq!((fit.modules().count(), fit.wrong_shape), (2, vec![]), "OneTrainer's own form");

    let peft = folder.path().join("unet");
    fs::create_dir(&peft).unwrap();
    fs::write(peft.join("adapter_config.json"), "{\"peft_type\": \"OFT\"}").unwrap();
    let parts = parts("base_model.model.", "time_embedding.linear_1");
    write(&peft.join("adapter_model.safetensors"), &parts);
    let fit = Adapter::open(&peft).unwrap().outline().fit(&modules);
    assert_eq!((fit.modules().count(), fit.unmatched, fit.wrong_shape), (2, vec![], vec![]));
}

#[test]
fn an_adapter_for_another_family_is_refused() {
    let (_folder, path) = file();
    let sd1 = sd1();
    // Linear layers of the transformers, as most adapters have them.
    let attention = |unet: &str, spell: fn(&str, &str) -> String| -> Vec<Part> {
        full_size(unet)
            .iter()
            .filter(|(name, ..)| name.contains("transformer_blocks"))
            .flat_map(|(canonical, ldm, shape)| lora(&spell(canonical, ldm), shape))
            .collect()
    };
    let kohya = |canonical: &str, _: &str| format!("lora_{}", canonical.replace('.', "_"));
    let kohya_ldm = |_: &str, ldm: &str| format!("lora_unet_{}", ldm.replace('.', "_"));
    // SDXL's first text encoder is that of SD 1.x, so these would fit.
    let text_encoder = lora("lora_te1_text_model_encoder_layers_0_mlp_fc1", &[3072, 768]);
    for (unet, spell, family) in [
        ("unet_sdxl.tsv", kohya_ldm as fn(&str, &str) -> String, "SDXL"),
        ("unet_sdxl.tsv", kohya, "SDXL"),
        ("unet_sd2.tsv", kohya, "SD 2.x"),
    ] {
        let mut parts = attention(unet, spell);
        parts.extend(text_encoder.clone());
        write(&path, &parts);
        let message = refusal(&path, &sd1);
        assert!(message.contains(&format!("`style` was made for {family}, but `model` is SD 1.x")));
    }
    // Self-attention alone has the same shapes in both.
    let mut parts = attention("unet_sdxl.tsv", kohya);
    parts.retain(|(name, ..)| name.contains("attn1"));
    write(&path, &parts);
    assert!(refusal(&path, &sd1).contains("was made for SDXL"));

    // Another family's by name alone.
    write(&path, &lora("lora_unet_double_blocks_0_img_attn_qkv", &[8, 8]));
    assert!(refusal(&path, &sd1).contains("was made for FLUX"));

    // The same family in another size, which must not read as a contradiction.
    let message = refusal(&repository("assets/starter/adapters/ink.safetensors"), &sd1);
    assert!(message.contains("SD 1.x with text embeddings of 256 numbers, but"), "{message}");
    assert!(message.contains("is SD 1.x with text embeddings of 768 numbers"), "{message}");
}

#[test]
fn a_pruned_model_takes_what_it_has() {
    // Half of the attention is gone, as in distilled models; the adapter was made for all of it.
    let full = sd1();
    let mut pruned = full.clone();
    pruned.retain(|name, _| !name.contains("attentions.1") && !name.contains("mid_block"));
    let parts: Vec<Part> = full
        .iter()
        .filter(|(name, _)| name.contains("transformer_blocks"))
        .flat_map(|(name, shape)| lora(name, shape))
        .collect();
    let (_folder, path) = file();
    write(&path, &parts);
    let fit = Adapter::open(&path).unwrap().outline().fit(&pruned);
    assert!(fit.modules().count() > 80 && fit.unmatched.len() > 50 && fit.wrong_shape.is_empty());
}

#[test]
fn names_that_nothing_has_are_not_guessed() {
    // A conversion that doubled the prefix and glued the suffix.
    let (_folder, path) = file();
    write(
        &path,
        &[
            (
                "lora_unet_unet_mid_block_attentions_0_to_k_lora_down.weight".into(),
                vec![4, 320],
                1.0,
            ),
            ("lora_unet_unet_mid_block_attentions_0_to_k_lora_up.weight".into(), vec![320, 4], 1.0),
        ],
    );
    let error = Adapter::open(&path).unwrap_err();
    assert!(matches!(error, Error::WrongKind { .. }), "{error}");
}

#[test]
fn values_that_are_no_numbers_are_named() {
    let (_folder, path) = file();
    let modules: Modules = [("unet.conv_in".to_owned(), vec![4, 4])].into();
    for (part, bad) in [("lora_down.weight", f32::NAN), ("alpha", f32::INFINITY)] {
        let mut parts = lora("lora_unet_conv_in", &[4, 4]).to_vec();
        parts.push(("lora_unet_conv_in.alpha".into(), vec![], 1.0));
        for (name, _, value) in &mut parts {
            if name.ends_with(part) {
                *value = bad;
            }
        }
        write(&path, &parts);
        let adapter = Adapter::open(&path).unwrap();
        let fit = adapter.outline().fit(&modules);
        match adapter.outline().add_delta(
            &fit,
            "unet.conv_in",
            &without_weights(&[4, 4]),
            1.0,
            &mut Delta::default(),
        ) {
            Err(Error::NotFinite { tensor, .. }) => assert!(tensor.ends_with(part), "{tensor}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_file_that_changes_is_noticed() {
    let (_folder, path) = file();
    let modules: Modules = [("unet.conv_in".to_owned(), vec![4, 4])].into();
    write(&path, &lora("lora_unet_conv_in", &[4, 4]));
    let adapter = Adapter::open(&path).unwrap();
    let fit = adapter.outline().fit(&modules);
    assert!(adapter.is_current());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
    assert!(!adapter.is_current());
    let mut delta = Delta::default();
    let error = adapter
        .outline()
        .add_delta(&fit, "unet.conv_in", &without_weights(&[4, 4]), 1.0, &mut delta)
        .unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

#[test]
fn the_hash_is_the_contents() {
    let (folder, path) = file();
    let other = folder.path().join("other.safetensors");
    write(&path, &lora("lora_unet_conv_in", &[4, 4]));
    fs::copy(&path, &other).unwrap();
    let hash = Adapter::open(&path).unwrap().hash();
    assert_eq!(Adapter::open(&other).unwrap().hash(), hash, "the name does not count");
    write_with(&other, &lora("lora_unet_conv_in", &[4, 4]), &json!({ "a": "b" }));
    assert_ne!(Adapter::open(&other).unwrap().hash(), hash);

    // In a PEFT folder the configuration changes the picture, so it counts.
    let golden = repository("tests/golden/adapter/peft/unet");
    let copy = folder.path().join("unet");
    fs::create_dir(&copy).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(golden.join(name), copy.join(name)).unwrap();
    }
    let hash = Adapter::open(&golden).unwrap().hash();
    let adapter = Adapter::open(&copy).unwrap();
    assert_eq!(adapter.hash(), hash);
    let config = fs::read_to_string(copy.join("adapter_config.json")).unwrap();
    let config = config.replace("\"lora_alpha\": 6", "\"lora_alpha\": 7");
    fs::write(copy.join("adapter_config.json"), config).unwrap();
    assert!(!adapter.is_current());
    assert_ne!(Adapter::open(&copy).unwrap().hash(), hash);
}

#[test]
fn other_files_are_told_what_they_are() {
    let (folder, path) = file();
    let refused = |expected: &str| {
        let error = Adapter::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    write(&path, &[("emb_params".into(), vec![2, 768], 0.0)]);
    refused("as an adapter: it is a textual-inversion embedding");
    write(&path, &[("decoder.mid.block_1.norm1.weight".into(), vec![2], 0.0)]);
    refused("as an adapter: it is a VAE alone");
    write(&path, &[]);
    refused("without changes of any known kind");
    fs::write(&path, "<html>").unwrap();
    refused("it is a web page");

    write(
        &path,
        &[
            ("base_model.model.conv_in.lora_A.one.weight".into(), vec![1, 4], 0.0),
            ("base_model.model.conv_in.lora_A.two.weight".into(), vec![1, 4], 0.0),
        ],
    );
    refused("several adapters in one file (`one`, `two`)");

    let peft = folder.path().join("peft");
    fs::create_dir(&peft).unwrap();
    fs::write(peft.join("adapter_config.json"), "{}").unwrap();
    let error = Adapter::open(&peft).unwrap_err().to_string();
    assert!(error.contains("it has no weights (`adapter_model.safetensors`)"), "{error}");
    fs::write(peft.join("adapter_model.bin"), "PK\x03\x04").unwrap();
    let error = Adapter::open(&peft).unwrap_err().to_string();
    assert!(error.contains("adapter_model.bin") && error.contains("damaged"), "{error}");
}

#[test]
fn a_second_text_encoders_adapter_does_not_change_the_first() {
    let modules: Modules =
        [("text_encoder.text_model.encoder.layers.0.mlp.fc1".to_owned(), vec![4, 4])].into();
    let folder = tempfile::tempdir().unwrap();
    let component = folder.path().join("text_encoder_2");
    fs::create_dir(&component).unwrap();
    fs::write(component.join("adapter_config.json"), "{\"lora_alpha\": 1}").unwrap();
    let name = "base_model.model.text_model.encoder.layers.0.mlp.fc1";
    write(&component.join("adapter_model.safetensors"), &lora(name, &[4, 4]));
    let adapter = Adapter::open(folder.path()).unwrap();
    assert!(adapter.outline().fit(&modules).is_empty());
}

/// Real adapters' names and shapes. They are third parties', so they lie beside the project, if at
/// all. Ranks are cut to 1 to make the files small.
#[test]
fn third_party_adapters_fit() {
    let shared = repository("../shared/files");
    if !shared.exists() {
        return;
    }
    let modules = sd1();
    let text =
        fs::read_to_string(shared.join("headers-only/sd15_kohya_shinkai_makoto_offset.json"))
            .unwrap();
    let listing: Map<String, Value> = serde_json::from_str(&text).unwrap();
    let parts: Vec<Part> = listing
        .iter()
        .filter_map(|(name, info)| {
            let mut shape: Vec<usize> = serde_json::from_value(info.get("shape")?.clone()).ok()?;
            let rank = usize::from(name.ends_with("lora_up.weight"));
            if let Some(rank) = shape.get_mut(rank) {
                *rank = 1;
            }
            Some((name.clone(), shape, 0.0))
        })
        .collect();
    let (_folder, path) = file();
    write(&path, &parts);
    let fit = Adapter::open(&path).unwrap().outline().fit(&modules);
    assert_eq!((fit.modules().count(), fit.unmatched, fit.wrong_shape), (264, vec![], vec![]));

    let open = |name: &str| Adapter::open(&shared.join(name)).unwrap();
    let fit = open("lora/diffusers_current_sd15_pokemon.safetensors").outline().fit(&modules);
    assert_eq!((fit.modules().count(), fit.unmatched, fit.wrong_shape), (128, vec![], vec![]));
    let fit = open("peft/anime-style/sd15/text_encoder").outline().fit(&modules);
    assert_eq!((fit.modules().count(), fit.unmatched, fit.wrong_shape), (24, vec![], vec![]));

    // LoKr in the old form, which divides the kernels of convolutions as well.
    let adapter = open("lora/smart_falcon_16_lokr.safetensors");
    let fit = adapter.outline().fit(&modules);
    assert_eq!((fit.modules().count(), &fit.unmatched, &fit.wrong_shape), (350, &vec![], &vec![]));
    for module in fit.modules() {
        let change = delta(&adapter, &fit, module, &modules[module], 1.0);
        let change = change.weight(&modules[module]);
        assert!(change.iter().all(|value| value.is_finite()), "{module}");
    }
    assert_eq!(adapter.outline().trained_for(), "SD 1.x");

    // Numbered, with embeddings beside the modules.
    let adapter = open("lora/simo_sd15_lora_disney.safetensors");
    let fit = adapter.outline().fit(&modules);
    assert_eq!((fit.modules().count(), &fit.unmatched, &fit.wrong_shape), (192, &vec![], &vec![]));
    let names: Vec<_> = adapter.embeddings().iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["<s1>", "<s2>"]);
    let fit = open("lora/simo_sd15_analog_svd_rank4.safetensors").outline().fit(&modules);
    assert_eq!((fit.modules().count(), fit.unmatched, fit.wrong_shape), (192, vec![], vec![]));
    // A list for another family: nothing of it is used.
    let list = open("lora/simo_sd2_lora_kiriko.text_encoder.pt");
    let fit = list.outline().fit(&modules);
    assert_eq!(fit.modules().count(), 0);
    let refusal = list.outline().refusal(&fit, "model", "SD 1.x").unwrap().to_string();
    assert!(refusal.contains("SD 2.x"), "{refusal}");
}

/// PEFT's LoRA of a table: `ΔE = (B · A)ᵀ`, one row for each token.
#[test]
fn tables_of_token_embeddings_are_changed() {
    let table = "text_encoder.text_model.embeddings.token_embedding";
    let modules: Modules = [(table.to_owned(), vec![5, 3])].into();
    let (_folder, path) = file();
    let name = "base_model.model.text_model.embeddings.token_embedding.lora_embedding_";
    let parts = [(format!("{name}A"), vec![2, 5], 1.5), (format!("{name}B"), vec![3, 2], 2.0)];
    write(&path, &parts);
    let adapter = Adapter::open(&path).unwrap();
    let fit = adapter.outline().fit(&modules);
    assert_eq!((fit.modules().count(), &fit.unmatched, &fit.wrong_shape), (1, &vec![], &vec![]));
    let change = delta(&adapter, &fit, table, &[5, 3], 0.5).weight(&[5, 3]);
    assert_eq!(change, [3.0; 15]);
    // Of another vocabulary.
    let other: Modules = [(table.to_owned(), vec![6, 3])].into();
    assert_eq!(adapter.outline().fit(&other).wrong_shape.len(), 1);
}

/// What cannot be used of them is left out, and keeps nothing else from being used.
#[test]
fn embeddings_lie_beside_the_modules() {
    let (_folder, path) = file();
    let part = |name: &str, shape: &[usize], value: f32| (name.to_owned(), shape.to_vec(), value);
    let mut parts = lora("lora_unet_conv_in", &[4, 4]).to_vec();
    parts.extend([
        part("bundle_emb.a.b.clip_l", &[2, 768], 1.0),
        part("bundle_emb.a.b.clip_g", &[2, 1280], 2.0),
        part("bundle_emb.a.b.clip_l_out", &[2, 768], 9.0),
        part("bundle_emb.old.string_to_param.*", &[3, 768], 3.0),
        part("bundle_emb.bad.clip_l", &[1, 768], f32::NAN),
        part("bundle_emb.odd.clip_l", &[1, 1, 768], 1.0),
        part("<s1>", &[768], 4.0),
    ]);
    write_with(&path, &parts, &json!({ "<s1>": "<embed>" }));
    let adapter = Adapter::open(&path).unwrap();
    let vectors = |rows: &Option<Vec<Vec<f32>>>| rows.as_ref().map_or(0, Vec::len);
    let found: Vec<_> = adapter
        .embeddings()
        .iter()
        .map(|one| (one.name.as_str(), vectors(&one.first), vectors(&one.second)))
        .collect();
    assert_eq!(found, [("<s1>", 1, 0), ("a.b", 2, 2), ("old", 3, 0)]);
    let modules: Modules = [("unet.conv_in".to_owned(), vec![4, 4])].into();
    let fit = adapter.outline().fit(&modules);
    assert_eq!((fit.modules().count(), fit.unmatched), (1, vec![]));
}

/// Numbers stand for the layers in the order of the network; one layer of another shape, and nothing of
/// the file is used.
#[test]
fn numbered_modules_are_counted_out() {
    let te = |layer: &str| format!("text_encoder.text_model.encoder.layers.0.self_attn.{layer}");
    let unet = |at: &str, layer: &str| format!("unet.{at}.attentions.0.{layer}");
    let mut modules = Modules::new();
    for at in ["down_blocks.0", "mid_block", "up_blocks.0"] {
        let width = if at == "mid_block" { 6 } else { 4 };
        modules.insert(format!("unet.{at}.resnets.0.conv1"), vec![width, width, 3, 3]);
        modules.insert(unet(at, "proj_in"), vec![width, width]);
        for attention in ["attn1", "attn2"] {
            for layer in ["to_q", "to_k", "to_v", "to_out.0"] {
                let name = unet(at, &format!("transformer_blocks.0.{attention}.{layer}"));
                modules.insert(name, vec![width, width]);
            }
        }
        modules.insert(unet(at, "transformer_blocks.0.ff.net.0.proj"), vec![8 * width, width]);
    }
    for layer in ["q_proj", "k_proj", "v_proj", "out_proj"] {
        modules.insert(te(layer), vec![5, 5]);
    }
    let lora = |start: &str, count: usize, shape: &dyn Fn(usize) -> (usize, usize)| {
        let parts = (0..count).flat_map(|at| {
            let (outputs, inputs) = shape(at);
            [
                (format!("{start}:{at}:up"), vec![outputs, 1], at as f32 + 1.0),
                (format!("{start}:{at}:down"), vec![1, inputs], 1.0),
            ]
        });
        parts.collect::<Vec<_>>()
    };
    // Nine layers for each of three attentions, the middle last; the feed-forward network is the fifth.
    let shape = |at: usize| {
        let width = if at >= 18 { 6 } else { 4 };
        if at % 9 == 4 { (8 * width, width) } else { (width, width) }
    };
    let (_folder, path) = file();
    let all = [lora("unet", 27, &shape), lora("text_encoder", 4, &|_| (5, 5))].concat();
    write(&path, &all);
    let adapter = Adapter::open(&path).unwrap();
    let fit = adapter.outline().fit(&modules);
    assert_eq!((fit.modules().count(), &fit.unmatched, &fit.wrong_shape), (31, &vec![], &vec![]));
    let number = |module: &str| {
        delta(&adapter, &fit, module, &modules[module], 1.0).weight(&modules[module])[0]
    };
    assert_eq!(number(&unet("down_blocks.0", "transformer_blocks.0.ff.net.0.proj")), 5.0);
    assert_eq!(number(&unet("up_blocks.0", "transformer_blocks.0.attn1.to_q")), 10.0);
    assert_eq!(number(&unet("mid_block", "transformer_blocks.0.attn2.to_out.0")), 27.0);
    assert_eq!(number(&te("k_proj")), 1.0);
    assert_eq!(number(&te("q_proj")), 3.0);

    // Without the feed-forward networks there are eight for each.
    write(&path, &lora("unet", 24, &|at| if at >= 16 { (6, 6) } else { (4, 4) }));
    let fit = Adapter::open(&path).unwrap().outline().fit(&modules);
    assert_eq!((fit.modules().count(), fit.unmatched, fit.wrong_shape), (24, vec![], vec![]));

    // The middle in front of the way up.
    write(&path, &lora("unet", 24, &|at| if (8..16).contains(&at) { (6, 6) } else { (4, 4) }));
    let fit = Adapter::open(&path).unwrap().outline().fit(&modules);
    assert_eq!(fit.modules().count(), 0);
    assert_eq!(fit.wrong_shape.len(), 16);
    assert!(fit.unmatched[0].reason.contains("numbers"), "{:?}", fit.unmatched[0]);
    write(&path, &lora("unet", 23, &shape));
    let fit = Adapter::open(&path).unwrap().outline().fit(&modules);
    assert!(fit.is_empty() && fit.unmatched[0].reason.contains("number of layers"));
}
