//! `impasto list`.

use engine::{
    devices,
    sample::{SAMPLERS, schedule::SCHEDULES},
};
use serde_json::{Value, json};
use studio::{Kind, Result};

use crate::{
    args::{LibraryArgs, ListArgs, ListWhat},
    output,
};

pub(crate) fn list(args: &ListArgs) -> Result<()> {
    let (key, items) = match args.what {
        ListWhat::Models => ("models", files(&args.library, Kind::BaseModel)?),
        ListWhat::Adapters => ("adapters", files(&args.library, Kind::Adapter)?),
        ListWhat::Samplers => {
            let items = SAMPLERS.iter().map(|s| json!({"id": s.id, "name": s.name}));
            ("samplers", items.collect())
        }
        ListWhat::Schedules => {
            let items = SCHEDULES.iter().map(|s| json!({"id": s.id, "name": s.name}));
            ("schedules", items.collect())
        }
        ListWhat::Devices => {
            let items = devices().into_iter().map(|device| {
                json!({
                    "id": device.id.to_string(),
                    "name": device.name,
                    "memory_bytes": device.memory_bytes,
                    "driver": device.driver,
                    "unusable": device.unusable,
                })
            });
            ("devices", items.collect::<Vec<_>>())
        }
    };
    if args.json {
        output::json(&json!({ key: items }));
        return Ok(());
    }
    if items.is_empty() {
        output::note(&format!("no {key} were found; name their folder with --models"));
    }
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    output::table(&rows);
    Ok(())
}

/// What the library has of a kind.
fn files(args: &LibraryArgs, kind: Kind) -> Result<Vec<Value>> {
    let library = args.open()?;
    for problem in library.problems() {
        output::note(problem);
    }
    let entries = library.entries().iter().filter(|entry| entry.kind() == Some(kind));
    Ok(entries
        .map(|entry| json!({"name": entry.name, "title": entry.title, "path": entry.path}))
        .collect())
}

/// The values of an object that a person reads, in their order.
fn row(item: &Value) -> Vec<String> {
    let values = item.as_object().into_iter().flatten();
    values
        .map(|(key, value)| match value {
            Value::String(text) => text.clone(),
            Value::Number(bytes) if key == "memory_bytes" => {
                output::megabytes(bytes.as_u64().unwrap_or(0))
            }
            Value::Null => String::new(),
            other => other.to_string(),
        })
        .collect()
}
