//! `impasto inspect`.

use std::{fmt::Write, path::Path, sync::atomic::AtomicBool};

use engine::{
    acceleration::Acceleration,
    adapter::{
        AdapterReport, Outline, Problem, Target,
        block::Block,
        strength::{Scale, Strength},
    },
    inspect::{AdapterInfo, ComponentInfo, FileHashes, ModelFile},
};
use serde_json::{Value, json};
use studio::{FileRef, Kind, Result};

use crate::{args::InspectArgs, output};

/// Problems that the summary lists; all are counted, and all are in the JSON.
const LISTED: usize = 5;

pub(crate) fn inspect(args: &InspectArgs) -> Result<()> {
    let mut file = engine::inspect::inspect(&args.path)?;
    file.hash()?;
    let effect = args.on.as_deref().map(|base| Effect::of(args, base)).transpose()?;
    if args.json {
        let mut json = to_json(&file);
        json["on"] = json!(effect.as_ref().map(Effect::to_json));
        output::json(&json);
    } else {
        output::line(file.to_string().trim_end());
        effect.iter().for_each(|effect| output::line(effect.summary().trim_end()));
    }
    Ok(())
}

/// What an adapter does to a base model.
struct Effect {
    base: String,
    report: AdapterReport,
    refusal: Option<String>,
    /// Changed modules and all modules, block by block.
    coverage: Vec<(Block, usize, usize)>,
    /// The norm of its change at weight 1, relative to what it changes.
    relative: Option<f64>,
    strength: Strength,
}

impl Effect {
    fn of(args: &InspectArgs, base: &str) -> Result<Effect> {
        let library = args.library.open()?;
        let found = library.find(Kind::BaseModel, &FileRef::named(base))?;
        let lender = library.lender(&found.path).map(|entry| entry.path.clone());
        Effect::on(&args.path, &found.path, lender.as_deref(), found.reference.name)
    }

    fn on(adapter: &Path, path: &Path, lender: Option<&Path>, base: String) -> Result<Effect> {
        let target = Target::open(path)?;
        let outline = Outline::open(adapter)?;
        let (report, refusal) = target.fit(&outline);
        let coverage = target.coverage(&report);
        let scale = Scale::open(path, lender)?;
        let stop = AtomicBool::new(false);
        let mut measures = scale.measure(&[outline], &|_, _| true, &stop)?;
        let strength = measures.strengths.remove(0);
        let relative = strength.relative(&measures.products[0]);
        let refusal = refusal.map(|error| error.to_string());
        Ok(Effect { base, report, refusal, coverage, relative, strength })
    }

    fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.report.unmatched.iter().chain(&self.report.wrong_shape)
    }

    fn summary(&self) -> String {
        let mut text = format!("on {}:\n", self.base);
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "  {label:<14}{value}");
        };
        let applied = self.report.applied.len();
        line("applies", format!("{applied} of {} modules", applied + self.problems().count()));
        self.refusal.iter().for_each(|refusal| line("but", refusal.clone()));
        let covered =
            self.coverage.iter().map(|(block, changed, of)| format!("{block} {changed}/{of}"));
        for row in covered.collect::<Vec<_>>().chunks(8) {
            line("coverage", row.join("  "));
        }
        if let Some(relative) = self.relative {
            line("strength", format!("{:.2} % of what it changes, at weight 1", 100.0 * relative));
        }
        if self.strength.without_effect > 0 {
            line("", format!("{} modules are changed by nothing", self.strength.without_effect));
        }
        self.strength.problem.iter().for_each(|problem| line("but", problem.clone()));
        let count = self.problems().count();
        self.problems().take(LISTED).for_each(|problem| line("left out", problem.to_string()));
        if count > LISTED {
            line("", format!("and {} more", count - LISTED));
        }
        text
    }

    fn to_json(&self) -> Value {
        let coverage = self.coverage.iter().map(|(block, changed, of)| {
            json!({"block": block.to_string(), "changed": changed, "of": of})
        });
        json!({
            "base": self.base,
            "applied": self.report.applied.len(),
            "refusal": self.refusal,
            "coverage": coverage.collect::<Vec<_>>(),
            "relative_strength": self.relative,
            "without_effect": self.strength.without_effect,
            "problem": self.strength.problem,
            "left_out": self.problems().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}

fn to_json(file: &ModelFile) -> Value {
    let embedding = file.embedding.iter().map(|(name, (vectors, width))| {
        (name.clone(), json!({"vectors": vectors, "width": width}))
    });
    json!({
        "path": file.path,
        "kind": file.kind.id(),
        "what": file.what,
        "usable": file.usable,
        "family": file.family.as_ref().map(|family| family.to_string()),
        "size": file.size,
        "tensors": file.tensors,
        "parameters": file.parameters,
        "precisions": file.precisions,
        "naming": file.naming,
        "prediction": file.prediction,
        "native_size": file.native_size,
        "acceleration": file.acceleration.map(|Acceleration { method, steps }| json!({
            "id": method.id,
            "name": method.name,
            "steps": steps,
            "guidance_scale": method.guidance_scale,
            "sampler": method.sampler,
            "schedule": method.schedule,
        })),
        "components": file.components.iter().map(component).collect::<Vec<_>>(),
        "adapter": file.adapter.as_ref().map(adapter),
        "embedding": embedding.collect::<serde_json::Map<_, _>>(),
        "metadata": file.metadata,
        "notes": file.notes,
        "hashes": file.hashes.as_ref().map(hashes),
    })
}

fn component(component: &ComponentInfo) -> Value {
    json!({
        "name": component.name,
        "tensors": component.tensors,
        "parameters": component.parameters,
    })
}

fn adapter(adapter: &AdapterInfo) -> Value {
    let algorithms = adapter.algorithms.iter().map(|(algorithm, modules)| {
        json!({
            "id": algorithm.id,
            "name": algorithm.name,
            "modules": modules,
            "supported": algorithm.is_supported(),
        })
    });
    let range = |range: Option<(Value, Value)>| range.map(|(low, high)| json!([low, high]));
    json!({
        "algorithms": algorithms.collect::<Vec<_>>(),
        "rank": range(adapter.rank.map(|(low, high)| (low.into(), high.into()))),
        "alpha": range(adapter.alpha.map(|(low, high)| (low.into(), high.into()))),
        "modules": adapter.modules,
        "trigger_words": adapter.trigger_words,
        "embeddings": adapter.embeddings,
        "leftovers": adapter.leftovers.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn hashes(hashes: &FileHashes) -> Value {
    json!({
        "sha256": hashes.sha256,
        "auto_v2": hashes.auto_v2,
        "auto_v3": hashes.auto_v3,
        "stored": hashes.stored,
        "stored_matches": hashes.stored_matches,
    })
}
