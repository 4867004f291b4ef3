//! Files with changes that nobody meant are refused or read, and nothing else happens.
//!
//! The same targets as in `fuzz/`, with a fixed seed, for a few seconds.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::{fs, path::Path};

use engine::testing::{
    Dice, repository,
    targets::{TARGETS, header},
    write_adapter,
};

/// Numbers that formats like to hold where they matter.
const NUMBERS: &[u64] = &[0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX];

/// A few changes: bits, bytes, numbers, pieces cut out, doubled, or taken from another file.
fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=dice.roll(4) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.roll(bytes.len());
        let len = dice.roll(64).min(bytes.len() - at);
        match dice.roll(8) {
            0 => bytes[at] ^= 1 << dice.roll(8),
            1 => bytes[at] = dice.roll(256) as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + len)),
            4 => {
                let piece = bytes[at..at + len].to_vec();
                bytes.splice(at..at, piece);
            }
            5 if !other.is_empty() => {
                let from = dice.roll(other.len());
                let piece = other[from..(from + len).min(other.len())].to_vec();
                bytes.splice(at..at + len, piece);
            }
            6 => {
                let number = NUMBERS[dice.roll(NUMBERS.len())].to_le_bytes();
                let size = [1, 2, 4, 8][dice.roll(4)].min(bytes.len() - at);
                bytes[at..at + size].copy_from_slice(&number[..size]);
            }
            _ => {
                // Texts like JSON have their numbers in digits.
                let digits = NUMBERS[dice.roll(NUMBERS.len())].to_string();
                bytes.splice(at..at + len.min(3), digits.bytes());
            }
        }
    }
}

fn contents(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if wanted(path.file_name().unwrap().to_str().unwrap()) {
                files.push(path);
            }
        }
    }
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn mutated_files_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("a.safetensors");
    write_adapter("tiny", "a", &adapter);
    // Its header, with two of its tensors.
    let mut headers =
        contents(&repository("tests/fixtures/pickles"), |name| name.ends_with(".safetensors"));
    headers.extend(contents(&repository("fuzz/corpus/header"), |_| true));
    let pickles = contents(&repository("tests/fixtures/pickles"), |name| {
        [".pt", ".bin", ".ckpt"].iter().any(|ending| name.ends_with(ending))
    });
    let configs =
        contents(&repository("tests/golden/networks"), |name| name.ends_with("config.json"));
    assert!(pickles.len() > 20 && configs.len() > 6);
    header(&fs::read(&adapter).unwrap());
    let adapters = contents(&repository("fuzz/corpus/adapter"), |_| true);
    assert!(adapters.len() > 8);

    let mut dice = Dice(7);
    for (name, target) in TARGETS {
        let corpus = match *name {
            "header" => &headers,
            "config" => &configs,
            "adapter" => &adapters,
            _ => &pickles,
        };
        for _ in 0..2500 {
            let mut bytes = corpus[dice.roll(corpus.len())].clone();
            let other = &corpus[dice.roll(corpus.len())];
            mutate(&mut dice, &mut bytes, other);
            target(&bytes);
        }
    }
    // Kilobytes of files are no reason to hold more than megabytes.
    #[cfg(target_os = "linux")]
    {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kilobytes < 256 << 10, "at most {kilobytes} kB were held");
    }
}
