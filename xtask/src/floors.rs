//! Keeps the exporter's floors: which of its modules may use which. Reads source text only.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{cache, paths};

/// Values in, values out: no I/O, no clock, nothing from the floor above.
const PURE: &[&str] = &[
    "model",
    "prefetch",
    "texts",
    "state",
    "join",
    "labels",
    "ledger",
    "exposition",
    "history",
    "views",
];

/// Values that several modules' tests are made of.
const TESTS_OWN: &str = "fixture";

/// I/O. None of these knows another of them: `main` brings them together. Modules that are in
/// neither list (`host`) are tools of several of them.
const EDGES: &[&str] = &["kernel", "observer", "sockets", "web", "config", "resolver"];

/// What the host is asked through lies below all that does I/O.
const HOST: &str = "host";

/// What code without I/O and clock has no use for.
const IMPURE: &[&str] = &["tokio::", "aya::", "hyper::", "Instant::now", "SystemTime::now"];

#[test]
fn floors_are_kept() {
    let sources = paths::root().join("exporter/src");
    let mut faults = Vec::new();
    for file in cache::files_below(&sources).unwrap() {
        let relative = file.strip_prefix(&sources).unwrap();
        if relative.extension().is_some_and(|extension| extension == "rs") {
            let text = String::from_utf8(cache::read(&file).unwrap()).unwrap();
            let found = faults_of(module_of(relative), &text);
            faults
                .extend(found.into_iter().map(|fault| format!("{}: {fault}", relative.display())));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// `kernel` of `kernel/load.rs` and of `kernel.rs`.
fn module_of(file: &Path) -> &str {
    let first = file.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
    first.strip_suffix(".rs").unwrap_or(first)
}

fn faults_of(module: &str, text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(|line| [line, "\n"])
        .collect();
    let is_pure = PURE.contains(&module);
    let forbidden = |used: &str| match is_pure {
        true => !PURE.contains(&used) && used != TESTS_OWN,
        false if module == HOST => used != HOST && !PURE.contains(&used),
        false => EDGES.contains(&module) && EDGES.contains(&used) && used != module,
    };
    let mut faults: Vec<String> = used_modules(&code)
        .into_iter()
        .filter(|used| forbidden(used))
        .map(|used| format!("`{module}` uses `{used}`"))
        .collect();
    if is_pure {
        let impure = IMPURE.iter().filter(|word| code.contains(*word));
        faults.extend(impure.map(|word| format!("`{module}` is pure and uses `{word}`")));
    }
    faults
}

/// The modules that stand behind `crate::`, alone or in braces.
fn used_modules(code: &str) -> BTreeSet<&str> {
    let mut used = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        match path.strip_prefix('{') {
            Some(group) => used.extend(group_heads(group)),
            None => used.extend(identifier(path)),
        }
    }
    used
}

/// The first identifier of each member of a brace group, whose opening brace is gone already.
fn group_heads(group: &str) -> Vec<&str> {
    let (mut heads, mut depth, mut starts) = (Vec::new(), 1, true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => starts = true,
            _ if character.is_whitespace() => {}
            _ => {
                if depth == 1 && std::mem::take(&mut starts) {
                    heads.extend(identifier(&group[at..]));
                }
            }
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

fn identifier(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

#[track_caller]
fn check(module: &str, text: &str, expected: &[&str]) {
    assert_eq!(faults_of(module, text), expected);
}

#[test]
fn faults_are_found() {
    check("kernel", "use crate::model::Tuple;", &[]);
    check("kernel", "use crate::kernel::load;", &[]);
    check("kernel", "fn f() { crate::web::serve() }", &["`kernel` uses `web`"]);
    check(
        "join",
        "use crate::{model::{web, B}, web::{self, X},\n kernel};",
        &["`join` uses `kernel`", "`join` uses `web`"],
    );
    check("main", "use crate::{web, kernel};", &[]);
    check("kernel", "use crate::host::netlink;", &[]);
    check("host", "use crate::kernel::Options;", &["`host` uses `kernel`"]);
    check("ledger", "let now = Instant::now();", &["`ledger` is pure and uses `Instant::now`"]);
    check("ledger", "// Instant::now() is not asked.", &[]);
    check("web", "tokio::spawn(f())", &[]);
}
