//! `impasto inspect`.

use engine::{
    acceleration::Acceleration,
    inspect::{AdapterInfo, ComponentInfo, FileHashes, ModelFile},
};
use serde_json::{Value, json};
use studio::Result;

use crate::{args::InspectArgs, output};

pub(crate) fn inspect(args: &InspectArgs) -> Result<()> {
    let mut file = engine::inspect::inspect(&args.path)?;
    file.hash()?;
    if args.json {
        output::json(&to_json(&file));
    } else {
        output::line(file.to_string().trim_end());
    }
    Ok(())
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
