//! Checks the direction of the dependencies between layers: finds every `crate::` path in the sources and
//! compares it with the table of `docs/architecture.md`.

use std::fs;
use std::path::{Path, PathBuf};

/// Each layer with the layers that it may use. Every layer may use modules that are not listed, such as
/// `error`.
const LAYERS: [(&str, &[&str]); 10] = [
    ("rev", &[]),
    ("json", &["rev"]),
    ("store", &["json", "rev"]),
    ("db", &["store", "json", "rev"]),
    ("config", &["store", "json", "rev"]),
    ("maintain", &["db", "store", "json", "rev"]),
    ("query", &["db", "store", "json", "rev"]),
    ("auth", &["db", "store", "json", "rev"]),
    ("replicate", &["query", "auth", "db", "store", "json", "rev"]),
    ("http", &["replicate", "query", "auth", "maintain", "config", "db", "store", "json", "rev"]),
];

/// Collects the Rust files below `folder`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the names that follow `crate::` in a line of source.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end =
            rest.find(|character: char| !character.is_ascii_lowercase() && character != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn no_layer_uses_a_higher_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut broken = Vec::new();
    for file in &files {
        let inside = file.strip_prefix(&root).expect("a file of the sources");
        let layer = inside.iter().next().and_then(|first| first.to_str()).unwrap_or("").trim_end_matches(".rs");
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else { continue };
        let text = fs::read_to_string(file).expect("a readable file");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for used in named(code) {
                let known = LAYERS.iter().any(|(name, _)| *name == used);
                if known && used != layer && !allowed.contains(&used) {
                    broken.push(format!("{}:{}: {layer} uses {used}", inside.display(), number + 1));
                }
            }
        }
    }
    assert!(files.len() > 50, "the sources were found");
    assert!(broken.is_empty(), "layers reach up:\n{}", broken.join("\n"));
}

#[test]
fn named_finds_every_name_in_a_line() {
    let line = "use crate::db::{A, B}; fn f() -> crate::rev::Tree { crate::http::x() }";
    assert_eq!(named(line).collect::<Vec<_>>(), ["db", "rev", "http"]);
}
