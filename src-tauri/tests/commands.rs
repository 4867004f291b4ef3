//! A command is named in five places; they agree.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::{collections::BTreeSet, path::Path};

use fs_err as fs;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What stands between `before` and `after`, wherever it looks like a command's name.
fn names(text: &str, before: &str, after: &str) -> BTreeSet<String> {
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let found = text.split(before).skip(1).filter_map(|rest| rest.split_once(after));
    found.map(|(name, _)| name.to_owned()).filter(|name| !name.is_empty() && plain(name)).collect()
}

#[test]
fn every_command_is_known_everywhere() {
    let called = names(&read("../ui/src/lib/ipc/client.ts"), "('", "'");
    assert!(called.len() > 40, "only {} commands were found", called.len());

    let handled = names(&read("src/commands/mod.rs"), "::", ",");
    assert_eq!(handled, called, "generate_handler! and client.ts");

    let declared = names(&read("build.rs"), "    \"", "\",");
    assert_eq!(declared, called, "build.rs and client.ts");

    let allowed = read("capabilities/main.json").replace('-', "_");
    assert_eq!(names(&allowed, "\"allow_", "\""), called, "capabilities/main.json and client.ts");

    let mut written = BTreeSet::new();
    for file in ["session", "queue", "sheet", "gallery", "library", "desktop"] {
        let text = read(&format!("src/commands/{file}.rs"));
        written.extend(names(&text, "pub(super) fn ", "("));
        written.extend(names(&text, "pub(super) async fn ", "("));
    }
    assert_eq!(written, called, "src/commands and client.ts");
}
