//! The house rules that no compiler checks: who may import whom, who may spawn and read clocks, and how long a file may be.
//!
//! [`FLOORS`] is the table of ARCHITECTURE.md as data. A module imports downwards only, never its neighbours on the same floor.
//! The sources are read as text, without comments, strings and `#[cfg(test)]` parts; `crate::x` and `super::..::x` paths are the
//! edges. A failure names the file, the line and the edge.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the library, floor by floor from the ground up. Those of the ground may import each other.
const FLOORS: &[(&str, &[&str])] = &[
    ("ground", &["error", "event", "id", "units", "clock", "task", "planted"]),
    ("0", &["block", "model", "credentials"]),
    ("1", &["nbd", "tunnels"]),
    ("2", &["copy", "store", "platform"]),
    ("3a", &["jobs"]),
    ("3b", &["volumes", "guest", "platform::local", "platform::vsphere", "platform::cloudstack"]),
    ("4", &["replication", "failover", "inventory", "vmas"]),
    ("5", &["schedule"]),
    ("6", &["engine"]),
];

/// These see everything, and nobody sees `testing` outside tests.
const ROOF: [&str; 2] = ["lib", "testing"];

/// Words that only one module may use, with the rule they stand for.
const RESERVED: &[(&str, &str, &str)] = &[
    ("tokio::spawn", "task", "only `task` spawns"),
    ("spawn_blocking", "task", "only `task` spawns"),
    ("spawn_local", "task", "only `task` spawns"),
    ("JoinSet", "task", "only `task` spawns"),
    ("thread::spawn", "task", "only `task` spawns"),
    ("thread::Builder", "task", "only `task` spawns"),
    ("Instant::now", "clock", "only `clock` reads the time"),
    ("SystemTime::now", "clock", "only `clock` reads the time"),
    ("sqlx", "store", "only `store` writes SQL"),
];

/// The longest file that needs no reason, in lines.
const MAX_LINES: usize = 500;

/// Files that are longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];

#[test]
fn imports_go_downwards() {
    let root = crate_root();
    let lib = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let exports = root_exports(&code_of(&lib));
    let mut wrong = Vec::new();
    for (file, code) in library_code(&root) {
        let from = module_of(&file);
        for (line, to) in edges(&file, &code) {
            let to = exports.get(&to).cloned().unwrap_or(to);
            if let Err(why) = allowed(&from, &to) {
                wrong.push(format!("src/{file}:{line}: {from} -> {to}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "edges against the table of floors:\n{}", wrong.join("\n"));
}

#[test]
fn reserved_words_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for (file, code) in library_code(&crate_root()) {
        let module = module_of(&file);
        for (line, word, rule) in reserved(&module, &code) {
            wrong.push(format!("src/{file}:{line}: {word}: {rule}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn programs_that_are_started_do_not_inherit_the_key() {
    let core = crate_root();
    let mut started = 0;
    for root in [core.parent().unwrap().join("migratekit-cli"), core] {
        for (file, code) in library_code(&root) {
            let (starts, without) = (code.matches("Command::new(").count(), code.matches(".env_remove(KEY_VARIABLE)").count());
            started += starts;
            assert!(starts == without || file.starts_with("testing/"), "src/{file}: a program is started that inherits the key");
        }
    }
    assert!(started >= 2, "the programs we start were not found");
}

#[test]
fn every_file_is_short_and_begins_by_saying_what_it_is() {
    let workspace = crate_root().parent().unwrap().to_path_buf();
    let mut files = Vec::new();
    for entry in fs::read_dir(&workspace).unwrap() {
        let member = entry.unwrap().path();
        if member.join("Cargo.toml").is_file() {
            for part in ["src", "tests", "examples", "benches", "fuzz"] {
                rust_files(&member.join(part), &mut files);
            }
        }
    }
    assert!(files.len() > 10, "the sources were not found below {}", workspace.display());
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&workspace).unwrap().to_str().unwrap();
        let (lines, reason) = (text.lines().count(), LONG_FILES.iter().find(|(long, _)| *long == name));
        if !text.starts_with("//!") {
            wrong.push(format!("{name}: does not begin with `//!`"));
        }
        match reason {
            None if lines > MAX_LINES => {
                wrong.push(format!("{name}: {lines} lines, more than {MAX_LINES}; split it, or list it with a reason"))
            }
            Some(_) if lines <= MAX_LINES => wrong.push(format!("{name}: {lines} lines; it needs no reason any more")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether `from` may import `to`.
fn allowed(from: &str, to: &str) -> Result<(), String> {
    let family = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    if from == to || ROOF.contains(&from) || (family(from) == family(to) && floor(from) >= floor(to)) {
        return Ok(());
    }
    if to == "testing" {
        return Err("nobody imports `testing` outside tests".to_owned());
    }
    match (floor(from), floor(to)) {
        (None, _) => Err(format!("`{from}` has no floor yet; give it one in tests/architecture.rs and ARCHITECTURE.md")),
        (_, None) => Err(format!("`{to}` has no floor yet; give it one in tests/architecture.rs and ARCHITECTURE.md")),
        (Some(0), Some(0)) => Ok(()),
        (Some(a), Some(b)) if a > b => Ok(()),
        (Some(a), Some(b)) if a == b => Err("neighbours on one floor do not import each other".to_owned()),
        _ => Err("imports go downwards only; state a trait here and let the upper floor implement it".to_owned()),
    }
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, modules)| modules.contains(&module))
}

/// The module of a source file, as the table names it: `nbd/client/mod.rs` is `nbd`, `platform/local/x.rs` is `platform::local`.
fn module_of(file: &str) -> String {
    let parts: Vec<&str> = file.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    match parts.as_slice() {
        ["platform", adapter, _, ..] => format!("platform::{adapter}"),
        ["platform", adapter] if floor(&format!("platform::{adapter}")).is_some() => format!("platform::{adapter}"),
        [first, ..] => (*first).to_owned(),
        [] => "lib".to_owned(),
    }
}

/// Every `crate::x` and `super::..::x` that leaves its own module: line and x.
fn edges(file: &str, code: &str) -> Vec<(usize, String)> {
    let depth = file.trim_end_matches(".rs").split('/').filter(|part| *part != "mod" && *part != "lib").count();
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let start = i;
        if tokens[i].1 == "crate" && text(&tokens, i + 1) == "::" {
            i += 2;
        } else if tokens[i].1 == "super" && text(&tokens, i + 1) == "::" {
            let mut climbed = 0;
            while text(&tokens, i) == "super" && text(&tokens, i + 1) == "::" {
                (climbed, i) = (climbed + 1, i + 2);
            }
            if climbed < depth {
                continue;
            }
        } else {
            i += 1;
            continue;
        }
        // `pub(crate)` has no `::` behind it and does not come here.
        found.extend(heads(&tokens, i).into_iter().map(|head| (tokens[start].0, head)));
    }
    found
}

/// The first names of a path or of each path in a `{..}` group; of an adapter of `platform` its second name too.
fn heads(tokens: &[(usize, String)], at: usize) -> Vec<String> {
    let name_at = |at: usize| match (text(tokens, at), text(tokens, at + 1), text(tokens, at + 2)) {
        ("platform", "::", adapter) if floor(&format!("platform::{adapter}")).is_some() => format!("platform::{adapter}"),
        (name, ..) => name.to_owned(),
    };
    if text(tokens, at) != "{" {
        return vec![name_at(at)];
    }
    let (mut depth, mut names, mut expected) = (0, Vec::new(), false);
    for (i, (_, token)) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "{" => (depth, expected) = (depth + 1, depth == 0),
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," if depth == 1 => expected = true,
            _ if expected => {
                names.push(name_at(i));
                expected = false;
            }
            _ => {}
        }
    }
    names.retain(|name| name != "self");
    names
}

/// Names that `lib.rs` re-exports, and the module they come from: `crate::Error` is an edge to `error`.
fn root_exports(lib: &str) -> BTreeMap<String, String> {
    let tokens = tokens(lib);
    let mut exports = BTreeMap::new();
    for i in 0..tokens.len() {
        if text(&tokens, i) == "pub" && text(&tokens, i + 1) == "use" {
            let module = text(&tokens, i + 2).to_owned();
            for (_, name) in tokens[i + 3..].iter().take_while(|(_, token)| token != ";") {
                if name.starts_with(char::is_uppercase) {
                    exports.insert(name.clone(), module.clone());
                }
            }
        }
    }
    exports
}

fn reserved(module: &str, code: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for (word, owner, rule) in RESERVED {
            if module != *owner && module != "testing" && line.contains(word) {
                found.push((number + 1, *word, *rule));
            }
        }
    }
    found
}

/// Names, `::` and single signs, with their lines.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens: Vec<(usize, String)> = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = if word > 0 {
                word
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push((number + 1, rest[..length].to_owned()));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

fn text(tokens: &[(usize, String)], at: usize) -> &str {
    tokens.get(at).map_or("", |(_, token)| token)
}

/// The library's sources but test parts: path below `src`, and code.
fn library_code(root: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    let mut sources = BTreeMap::new();
    let mut test_files = Vec::new();
    for file in files {
        let code = code_of(&fs::read_to_string(&file).unwrap());
        let folder = if file.ends_with("mod.rs") || file.ends_with("lib.rs") {
            file.parent().unwrap().to_path_buf()
        } else {
            file.with_extension("")
        };
        let (code, modules) = without_tests(&code);
        for module in modules {
            test_files.extend([folder.join(format!("{module}.rs")), folder.join(module)]);
        }
        sources.insert(file, code);
    }
    sources.retain(|file, _| !test_files.iter().any(|test| file.starts_with(test)));
    let name = |file: &Path| file.strip_prefix(root.join("src")).unwrap().to_str().unwrap().to_owned();
    sources.into_iter().map(|(file, code)| (name(&file), code)).collect()
}

/// The code without `#[cfg(test)]` items (their lines stay, empty), and the names of test modules that are files of their own.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut kept, mut rest, mut modules) = (String::new(), code, Vec::new());
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let opened = item.find(['{', ';']).unwrap_or(item.len());
        let end = if item[opened..].starts_with('{') { closing(item, opened) } else { (opened + 1).min(item.len()) };
        if let Some(name) =
            item[..opened].trim().rsplit(' ').next().filter(|_| item[..opened].contains("mod ") && item[opened..].starts_with(';'))
        {
            modules.push(name.to_owned());
        }
        kept.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    kept.push_str(rest);
    (kept, modules)
}

/// Behind the brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (i, c) in code[open..].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return open + i + 1;
        }
    }
    code.len()
}

/// The text with comments and the insides of strings and characters blanked; lines stay where they are.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut code, mut i) = (String::new(), 0);
    while i < chars.len() {
        let skip_to = match (at(i), at(i + 1)) {
            ('/', '/') => (i..chars.len()).find(|&j| at(j) == '\n').unwrap_or(chars.len()),
            ('/', '*') => (i + 2..chars.len()).find(|&j| at(j) == '*' && at(j + 1) == '/').map_or(chars.len(), |j| j + 2),
            ('r', '"' | '#') if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') && raw_string(&chars, i).is_some() => {
                raw_string(&chars, i).unwrap_or(chars.len())
            }
            ('"', _) => quoted(&chars, i + 1, '"'),
            // A character, not a lifetime: 'x' or '\..'.
            ('\'', '\\') => quoted(&chars, i + 1, '\''),
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => i,
        };
        if skip_to == i {
            code.push(at(i));
            i += 1;
        } else {
            code.extend(chars[i..skip_to.min(chars.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            i = skip_to;
        }
    }
    code
}

/// Behind the quote that ends what began before `from`.
fn quoted(chars: &[char], from: usize, quote: char) -> usize {
    let mut i = from;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Behind a raw string that begins at `from`, if one does.
fn raw_string(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(from + 1 + hashes) != Some(&'"') {
        return None;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let inside = from + 2 + hashes;
    chars[inside..].windows(end.len()).position(|window| window == end).map(|at| inside + at + end.len())
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn crate_root() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned()))
}

mod the_rules_themselves {
    //! Planted faults: each must be found, or the tests above prove nothing.

    use super::*;

    fn found(file: &str, source: &str) -> Vec<String> {
        let (code, _) = without_tests(&code_of(source));
        edges(file, &code).into_iter().map(|(line, to)| format!("{line}:{to}")).collect()
    }

    #[test]
    fn edges_are_found_in_every_form() {
        assert_eq!(found("block/mod.rs", "use crate::nbd::wire;\nfn f() { crate::copy::run() }"), ["1:nbd", "2:copy"]);
        assert_eq!(found("block/file.rs", "use crate::{error::{Error, Result}, nbd, units::ByteRange};"), ["1:error", "1:nbd", "1:units"]);
        assert_eq!(found("block/file.rs", "use super::buffer;\nuse super::super::nbd;"), ["2:nbd"]);
        assert_eq!(found("units.rs", "use super::task;"), ["1:task"]);
        assert_eq!(
            found("jobs/x.rs", "use crate::platform::local::Disk; use crate::platform::Source;"),
            ["1:platform::local", "1:platform"]
        );
    }

    #[test]
    fn what_is_no_edge_is_not_found() {
        let none: [&str; 0] = [];
        let source =
            "// crate::nbd\n/* crate::nbd */ const A: &str = \"crate::nbd\"; const B: &str = r#\"crate::nbd\"#; pub(crate) fn f() {}";
        assert_eq!(found("block/mod.rs", source), none);
        assert_eq!(found("block/mod.rs", "#[cfg(test)]\nmod tests { use crate::testing::x; fn f() { if true {} } }\n"), none);
        assert_eq!(found("block/mod.rs", "const C: [char; 3] = ['\"', '\\'', '{']; fn f<'a>(x: &'a str) {} use crate::nbd;"), ["1:nbd"]);
    }

    #[test]
    fn the_table_allows_downwards_and_nothing_else() {
        for (from, to) in
            [("nbd", "block"), ("copy", "nbd"), ("block", "units"), ("units", "error"), ("testing", "engine"), ("lib", "copy")]
        {
            assert_eq!(allowed(from, to), Ok(()), "{from} -> {to}");
        }
        assert_eq!(allowed("platform::local", "platform"), Ok(()));
        for (from, to) in [("block", "nbd"), ("nbd", "copy"), ("nbd", "tunnels"), ("error", "block"), ("copy", "testing"), ("nbd", "utils")]
        {
            assert!(allowed(from, to).is_err(), "{from} -> {to}");
        }
        assert!(allowed("platform", "platform::local").is_err());
        assert!(allowed("volumes", "platform::local").is_err());
    }

    #[test]
    fn re_exports_lead_to_their_module() {
        let exports = root_exports("pub mod error; pub use error::{Error, Result}; pub use copy::Copy;");
        assert_eq!(exports.get("Error").map(String::as_str), Some("error"));
        assert_eq!(exports.get("Copy").map(String::as_str), Some("copy"));
    }

    #[test]
    fn reserved_words_are_found_outside_their_module() {
        assert_eq!(reserved("nbd", "\nlet t = Instant::now();")[0].0, 2);
        assert_eq!(reserved("nbd", "tokio::spawn(x)")[0].1, "tokio::spawn");
        assert!(reserved("clock", "Instant::now()").is_empty());
    }

    #[test]
    fn modules_are_named_after_their_folder() {
        for (file, module) in [("nbd/client/mod.rs", "nbd"), ("units.rs", "units"), ("lib.rs", "lib"), ("platform/mod.rs", "platform")] {
            assert_eq!(module_of(file), module);
        }
        assert_eq!(module_of("platform/local/source.rs"), "platform::local");
        let (_, tests) = without_tests("#[cfg(test)]\nmod tests;\nfn f() {}");
        assert_eq!(tests, ["tests"]);
    }
}
