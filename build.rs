//! Lists the files of the console (`src/console`), so that `src/http/api/console/files.rs` can embed all of them. A new
//! file needs no line of its own anywhere. Also sets how a static binary is linked.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=src/console");
    pack_relocations();
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let folder = Path::new(&root).join("src/console");
    let mut names = Vec::new();
    list(&folder, "", &mut names);
    names.sort_unstable();
    let mut text = String::from("&[\n");
    for name in names {
        // The compiler knows the folder anew: a checkout that was moved with its `target` still builds.
        let path = format!("/src/console/{name}");
        writeln!(text, "    ({name:?}, include_bytes!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))),")
            .expect("a string takes it");
    }
    text.push_str("]\n");
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("console_files.rs"), text).expect("the output folder is writable");
}

/// A binary with musl, which is static and can be loaded anywhere, has 28,000 addresses to correct at its start: 0.7 MB as a list,
/// a few KB packed. A binary with glibc would need a dynamic linker that knows the packed form, which older systems do not have.
fn pack_relocations() {
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Collects the files below `folder`, named relative to the console's folder. Hidden files and notes are left out.
fn list(folder: &Path, before: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let entry = entry.expect("a readable entry");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        if name.starts_with('.') || name.ends_with(".md") || name.ends_with('~') {
            continue;
        }
        let name = format!("{before}{name}");
        match entry.path().is_dir() {
            true => list(&entry.path(), &format!("{name}/"), names),
            false => names.push(name),
        }
    }
}
