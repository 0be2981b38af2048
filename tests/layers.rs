//! Checks the structure of the sources, as `docs/architecture.md` describes it:
//!
//! - a layer uses only layers below it,
//! - within `http`, `query`, `db` and `store` the folders have an order, too,
//! - no file imports, directly or through others, a file that imports it back,
//! - the map in `src/lib.rs` names every folder and nothing else.
//!
//! Every file is read as tokens, so `use` lists, full paths, `super::super` and paths inside macros all count. Code for
//! tests only is left out. A name that a `mod.rs` re-exports counts for the file that declares it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The layers, the highest first. Layers of one line may not use each other.
const LAYERS: &[&[&str]] = &[
    &["program"],
    &["cli", "server"],
    &["http"],
    &["policy"],
    &["app"],
    &["config"],
    &["replicate"],
    &["query", "auth", "maintain", "net"],
    &["db"],
    &["store"],
    &["rev"],
    &["json"],
];

/// Modules that every layer may use, and that use no layer.
const SHARED: &[&str] =
    &["allocator", "audit", "blocking", "bounded_map", "clock", "error", "hex", "log", "musl_memory", "regex"];

/// Modules that may use every layer: the entry points of the fuzzer.
const ABOVE_ALL: &[&str] = &["fuzzing"];

/// The order inside a folder, the highest first. What is not listed is a file that all may use, and that uses nothing
/// that is listed.
const INSIDE: &[(&str, &[&[&str]])] = &[
    ("http", &[&["pipeline"], &["routing"], &["api"], &["security"], &["request"], &["connection"], &["response"]]),
    (
        "query",
        &[
            &["changes_filter", "cleanup", "validation"],
            &["index_list"],
            &["mango/find"],
            &["view"],
            &["mango/planner"],
            &["design"],
            &["mango", "script"],
            &["index"],
        ],
    ),
    (
        "db",
        &[
            &["nodes", "upkeep"],
            &["catalog"],
            &["write"],
            &["read"],
            &["freshness"],
            &["database"],
            &["commit"],
            &["auto_purge_record", "prefetched", "recent_changes"],
            &["record"],
            &["conflicted", "histories"],
            &["codec"],
        ],
    ),
    ("store", &[&["shared_memory"], &["faults", "memory", "postgres"], &["embedded"], &["blob"], &["crypto"]]),
];

type Name = Vec<String>;

/// A source file as a module of the crate.
#[derive(Default)]
struct Module {
    /// Below `src`.
    file: String,
    /// Paths that it uses, as written.
    paths: Vec<Name>,
    /// Names that it re-exports, with the paths that they stand for.
    exports: BTreeMap<String, Name>,
}

/// The module of a file below `src`; empty for `lib.rs`.
fn name_of(file: &str) -> Name {
    let mut name: Name = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if name.last().is_some_and(|last| last == "mod" || last == "lib") {
        name.pop();
    }
    name
}

fn is_for_tests(name: &Name) -> bool {
    let tests =
        |part: &String| part == "tests" || part.ends_with("_tests") || part == "conformance" || part == "random";
    name.iter().any(tests)
}

/// Collects the Rust files below `folder`, as paths below `src`.
fn sources(folder: &Path, root: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let inside = path.strip_prefix(root).expect("a file below the root");
            found.push(inside.to_str().expect("a name in UTF-8").to_owned());
        }
    }
}

fn is_punct(token: Option<&TokenTree>, what: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == what)
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

/// The path that starts at `at`, and where it ends: identifiers with `::` between them.
fn path_at(tokens: &[TokenTree], at: usize) -> (Name, usize) {
    let (mut path, mut end) = (Vec::new(), at);
    while let Some(part) = ident(tokens.get(end)) {
        path.push(part);
        end += 1;
        if !(is_punct(tokens.get(end), ':') && is_punct(tokens.get(end + 1), ':')) {
            break;
        }
        end += 2;
    }
    (path, end)
}

/// The leaves of a `use` tree, each with the name that it gets here.
fn leaves(tokens: &[TokenTree], before: &Name, found: &mut Vec<(Name, String)>) {
    for tree in tokens.split(|token| is_punct(Some(token), ',')) {
        let (path, end) = path_at(tree, 0);
        let whole: Name = before.iter().chain(&path).cloned().collect();
        match tree.get(end) {
            Some(TokenTree::Group(group)) => {
                let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                leaves(&inside, &whole, found);
            }
            _ if whole.len() > before.len() || is_punct(tree.get(end), '*') => {
                let alias = ident(tree.get(end)).filter(|word| word == "as").and_then(|_| ident(tree.get(end + 1)));
                let itself = whole.last().is_some_and(|last| last == "self") && whole.len() > 1;
                let whole = if itself { whole[..whole.len() - 1].to_vec() } else { whole };
                let alias = alias.or_else(|| whole.last().cloned()).unwrap_or_default();
                found.push((whole, alias));
            }
            _ => {}
        }
    }
}

/// Whether an attribute's content is `cfg(test)`.
fn is_cfg_test(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.stream().to_string().replace(' ', "") == "cfg(test)")
}

/// Reads the tokens of a module. `inner`: the inline modules around them.
fn read(stream: TokenStream, inner: &Name, module: &mut Module) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut at = 0;
    let mut is_public = false;
    while at < tokens.len() {
        if is_punct(tokens.get(at), '#') && is_cfg_test(tokens.get(at + 1)) {
            // The item ends with its braces or with a semicolon.
            at += 2;
            while at < tokens.len() {
                let ends = is_punct(tokens.get(at), ';')
                    || matches!(&tokens[at], TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
                at += 1;
                if ends {
                    break;
                }
            }
            continue;
        }
        match ident(tokens.get(at)).as_deref() {
            Some("pub") => {
                is_public = true;
                at += 1;
                if matches!(tokens.get(at), Some(TokenTree::Group(_))) {
                    at += 1;
                }
                continue;
            }
            Some("use") => {
                let end = (at..tokens.len()).find(|end| is_punct(tokens.get(*end), ';')).unwrap_or(tokens.len());
                let mut found = Vec::new();
                leaves(&tokens[at + 1..end], &Vec::new(), &mut found);
                for (path, alias) in found {
                    let path = outside(path, inner);
                    if is_public && inner.is_empty() {
                        module.exports.insert(alias, path);
                    } else {
                        module.paths.push(path);
                    }
                }
                at = end;
            }
            Some("mod") => {
                if let (Some(name), Some(TokenTree::Group(group))) = (ident(tokens.get(at + 1)), tokens.get(at + 2)) {
                    let inner: Name = inner.iter().cloned().chain([name]).collect();
                    read(group.stream(), &inner, module);
                    at += 2;
                }
            }
            Some("crate" | "super" | "self") => {
                let (path, end) = path_at(&tokens, at);
                if path.len() > 1 {
                    module.paths.push(outside(path, inner));
                }
                at = end;
                continue;
            }
            Some(_) => {}
            None => {
                if let Some(TokenTree::Group(group)) = tokens.get(at) {
                    read(group.stream(), inner, module);
                }
            }
        }
        is_public = false;
        at += 1;
    }
}

/// A path of an inline module as its file would write it.
fn outside(path: Name, inner: &Name) -> Name {
    let ups = path.iter().take_while(|part| *part == "super").count();
    if inner.is_empty() || ups == 0 {
        return path;
    }
    let left = ups.saturating_sub(inner.len());
    let kept = inner.len().saturating_sub(ups);
    let start = if left > 0 { vec!["super".to_owned(); left] } else { vec!["self".to_owned()] };
    start.into_iter().chain(inner[..kept].iter().cloned()).chain(path[ups..].iter().cloned()).collect()
}

/// The modules of the crate, and the files that each uses.
struct Crate {
    modules: BTreeMap<Name, Module>,
    uses: BTreeMap<Name, BTreeSet<Name>>,
}

impl Crate {
    fn read(root: &Path) -> Crate {
        let mut files = Vec::new();
        sources(root, root, &mut files);
        let mut modules = BTreeMap::new();
        for file in files.into_iter().filter(|file| file != "main.rs") {
            let name = name_of(&file);
            let text = fs::read_to_string(root.join(&file)).expect("a readable file");
            let mut module = Module { file, ..Module::default() };
            read(text.parse().expect("Rust tokens"), &Vec::new(), &mut module);
            modules.insert(name, module);
        }
        let mut read = Crate { modules, uses: BTreeMap::new() };
        read.uses = read
            .modules
            .keys()
            .filter(|name| !is_for_tests(name))
            .map(|name| (name.clone(), read.used(name)))
            .collect();
        read
    }

    /// The modules that a module uses, itself and the root left out.
    fn used(&self, name: &Name) -> BTreeSet<Name> {
        let found = self.modules[name].paths.iter().filter_map(|path| self.absolute(path, name));
        found
            .map(|path| self.declared(path))
            .filter(|used| used != name && !used.is_empty() && !is_for_tests(used))
            .collect()
    }

    /// A path from the crate's root; `None` for paths into other crates.
    fn absolute(&self, path: &Name, here: &Name) -> Option<Name> {
        let mut base = here.clone();
        let mut parts = path.iter().peekable();
        match path.first()?.as_str() {
            "crate" => {
                base.clear();
                parts.next();
            }
            "super" | "self" => {
                while let Some(part) = parts.next_if(|part| *part == "super" || *part == "self") {
                    if part == "super" {
                        base.pop();
                    }
                }
            }
            first => {
                let child: Name = here.iter().cloned().chain([first.to_owned()]).collect();
                self.modules.get(&child)?;
            }
        }
        Some(base.into_iter().chain(parts.cloned()).collect())
    }

    /// The module that declares what a path names, through re-exports.
    fn declared(&self, mut path: Name) -> Name {
        for _ in 0..8 {
            let length = (0..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length])).unwrap_or(0);
            let (owner, rest) = (path[..length].to_vec(), &path[length..]);
            let export = rest.first().and_then(|first| self.modules[&owner].exports.get(first));
            let Some(next) = export.and_then(|export| self.absolute(export, &owner)) else { return owner };
            path = next.into_iter().chain(rest[1..].iter().cloned()).collect();
        }
        path
    }

    fn file(&self, name: &Name) -> &str {
        &self.modules[name].file
    }

    /// Files from which `name` can be reached and which it can reach.
    fn circle(&self, name: &Name) -> BTreeSet<Name> {
        let reached = |from: &Name| {
            let (mut seen, mut left) = (BTreeSet::new(), vec![from.clone()]);
            while let Some(next) = left.pop() {
                for used in self.uses.get(&next).into_iter().flatten() {
                    if seen.insert(used.clone()) {
                        left.push(used.clone());
                    }
                }
            }
            seen
        };
        let all = reached(name);
        if !all.contains(name) {
            return BTreeSet::new();
        }
        all.into_iter().filter(|other| reached(other).contains(name)).collect()
    }
}

fn rank(order: &[&[&str]], name: &str) -> Option<usize> {
    order.iter().position(|line| line.contains(&name))
}

/// The place of a module in the order of its folder: by its folder there, or by that and the next one.
fn rank_inside(order: &[&[&str]], name: &Name) -> Option<usize> {
    let deeper = name.get(2).and_then(|next| rank(order, &format!("{}/{next}", name[1])));
    deeper.or_else(|| rank(order, &name[1]))
}

fn sources_of_settee() -> Crate {
    let read = Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(read.modules.len() > 150, "the sources were found");
    read
}

#[test]
fn no_layer_uses_a_higher_layer() {
    let sources = sources_of_settee();
    let mut broken = Vec::new();
    for (name, uses) in &sources.uses {
        let Some(layer) = name.first() else { continue };
        if ABOVE_ALL.contains(&layer.as_str()) {
            continue;
        }
        let own = rank(LAYERS, layer);
        assert!(own.is_some() || SHARED.contains(&layer.as_str()), "{layer} is in no list of this test");
        for used in uses.iter().filter(|used| used[0] != *layer) {
            let is_allowed = match (own, rank(LAYERS, &used[0])) {
                (_, None) => SHARED.contains(&used[0].as_str()),
                (Some(own), Some(other)) => other > own,
                (None, Some(_)) => false,
            };
            if !is_allowed {
                broken.push(format!("{} uses {}", sources.file(name), sources.file(used)));
            }
        }
    }
    assert!(broken.is_empty(), "layers reach up:\n{}", broken.join("\n"));
}

#[test]
fn folders_within_a_layer_keep_their_order() {
    let sources = sources_of_settee();
    let mut broken = Vec::new();
    for (name, uses) in sources.uses.iter().filter(|(name, _)| name.len() > 1) {
        let Some((_, order)) = INSIDE.iter().find(|(folder, _)| *folder == name[0]) else { continue };
        let own = rank_inside(order, name);
        for used in uses.iter().filter(|used| used.len() > 1 && used[0] == name[0] && used[1] != name[1]) {
            let is_allowed = match (own, rank_inside(order, used)) {
                (Some(own), Some(other)) => other > own,
                (None, Some(_)) => false,
                (_, None) => true,
            };
            if !is_allowed {
                broken.push(format!("{} uses {}", sources.file(name), sources.file(used)));
            }
        }
    }
    assert!(broken.is_empty(), "folders reach up:\n{}", broken.join("\n"));
}

#[test]
fn no_file_imports_a_file_that_imports_it_back() {
    let sources = sources_of_settee();
    let circles: BTreeSet<BTreeSet<Name>> =
        sources.uses.keys().map(|name| sources.circle(name)).filter(|circle| !circle.is_empty()).collect();
    let told: Vec<String> = circles
        .iter()
        .map(|circle| circle.iter().map(|name| sources.file(name)).collect::<Vec<_>>().join(", "))
        .collect();
    assert!(told.is_empty(), "circles:\n{}", told.join("\n"));
}

#[test]
fn the_map_names_every_folder() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("src/lib.rs")).expect("src/lib.rs");
    let page = fs::read_to_string(root.join("docs/architecture.md")).expect("docs/architecture.md");
    let folders = fs::read_dir(root.join("src")).expect("src").flatten().filter(|entry| entry.path().is_dir());
    for folder in folders.map(|entry| entry.file_name().into_string().expect("a name in UTF-8")) {
        if !map.contains(&format!("{folder}/")) || !page.contains(&format!("`{folder}/")) {
            panic!("src/{folder} is missing in the map of src/lib.rs or in docs/architecture.md");
        }
    }
    for named in page.split('`').filter(|word| word.starts_with("src/") || word.ends_with(".rs")) {
        let path = if named.starts_with("src/") { root.join(named) } else { root.join("src").join(named) };
        assert!(path.exists() || root.join(named).exists(), "docs/architecture.md names {named}, which is not there");
    }
}

/// The paths that the reader finds in a text.
fn found(text: &str) -> Vec<String> {
    let mut module = Module::default();
    read(text.parse().expect("tokens"), &Vec::new(), &mut module);
    module.paths.iter().map(|path| path.join("::")).collect()
}

#[test]
fn every_way_to_name_a_module_is_found() {
    for (text, paths) in [
        ("use crate::db::{A, read::{self, B}};", vec!["crate::db::A", "crate::db::read", "crate::db::read::B"]),
        ("fn f() -> super::super::rev::Tree { crate::http::x() }", vec!["super::super::rev::Tree", "crate::http::x"]),
        ("fn f() { format!(\"{}\", crate::json::quote(x)) }", vec!["crate::json::quote"]),
        ("use crate::a::b as c;", vec!["crate::a::b"]),
        ("// crate::no\nconst A: &str = \"crate::no\";", vec![]),
        ("#[cfg(test)]\nmod tests { use crate::no::No; }\nuse crate::yes::Yes;", vec!["crate::yes::Yes"]),
        ("mod inline { use super::a::A; use super::super::b::B; }", vec!["self::a::A", "super::b::B"]),
    ] {
        assert_eq!(found(text), paths, "{text}");
    }
}
