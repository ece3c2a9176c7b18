//! Keeps dependencies going one way: within each package no module may need, by whatever detour, a
//! module that needs it. Reads source text only; what tests need is left out.
//!
//! A name that a module hands on (`pub use`) is its maker's, not the module's: a room's front may hand
//! on what its parts make, and a part may take what another part makes by the room's name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, UseTree};

use crate::{cache, paths};

/// Packages that are held to it.
const PACKAGES: [&str; 4] = ["exporter/src", "exporter-ebpf/src", "tests/src", "xtask/src"];

/// A module's names from the package's root down; the root has none.
type Name = Vec<String>;

/// What a module says.
#[derive(Default)]
struct Module {
    /// Names of its own items.
    makes: BTreeSet<String>,
    /// Names that it brought in, and from where.
    brings: BTreeMap<String, Name>,
    /// Modules all of whose names it brought in.
    brings_all: Vec<Name>,
    /// Every path that it uses, as it is written.
    uses: BTreeSet<Name>,
}

#[test]
fn dependencies_go_one_way() {
    let mut faults = Vec::new();
    for package in PACKAGES {
        let modules = read(&paths::root().join(package));
        let circles = circles(&modules);
        faults.extend(circles.into_iter().map(|circle| format!("{package}: {circle}")));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn read(folder: &Path) -> BTreeMap<Name, Module> {
    let mut modules = BTreeMap::new();
    for file in cache::files_below(folder).unwrap() {
        let Some(name) = name_of(file.strip_prefix(folder).unwrap()) else { continue };
        let text = String::from_utf8(cache::read(&file).unwrap()).unwrap();
        modules.insert(name, module(&text));
    }
    modules
}

/// `["kernel", "attach"]` of `kernel/attach/mod.rs` and of `kernel/attach.rs`; none of tests.
fn name_of(file: &Path) -> Option<Name> {
    let mut name: Name =
        file.with_extension("").iter().map(|it| it.to_str().unwrap().to_owned()).collect();
    let is_tests = |it: &String| it == "tests" || it.ends_with("_tests");
    if file.extension()? != "rs" || name.iter().any(is_tests) {
        return None;
    }
    name.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
    Some(name)
}

fn module(text: &str) -> Module {
    let mut module = Module::default();
    for item in &syn::parse_file(text).unwrap().items {
        module.visit_item(item);
        if let Some(name) = made(item) {
            module.makes.insert(name);
        }
    }
    module
}

fn made(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(it) => &it.ident,
        Item::Enum(it) => &it.ident,
        Item::Fn(it) => &it.sig.ident,
        Item::Macro(it) => it.ident.as_ref()?,
        Item::Static(it) => &it.ident,
        Item::Struct(it) => &it.ident,
        Item::Trait(it) => &it.ident,
        Item::Type(it) => &it.ident,
        Item::Union(it) => &it.ident,
        _ => return None,
    };
    Some(name.to_string())
}

impl<'ast> Visit<'ast> for Module {
    fn visit_item(&mut self, item: &'ast Item) {
        let (Item::Const(syn::ItemConst { attrs, .. })
        | Item::Fn(syn::ItemFn { attrs, .. })
        | Item::Impl(syn::ItemImpl { attrs, .. })
        | Item::Mod(syn::ItemMod { attrs, .. })
        | Item::Struct(syn::ItemStruct { attrs, .. })
        | Item::Use(ItemUse { attrs, .. })) = item
        else {
            return visit::visit_item(self, item);
        };
        if !attrs.iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !function.attrs.iter().any(is_for_tests) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.bring(&mut Vec::new(), &item.tree);
    }

    /// `pub(in crate::kernel)` says who may use, and uses nobody.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.uses.insert(path.segments.iter().map(|it| it.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

impl Module {
    fn bring(&mut self, before: &mut Name, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.bring(before, &path.tree);
                before.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|it| self.bring(before, it)),
            UseTree::Glob(_) => {
                self.uses.insert(before.clone());
                self.brings_all.push(before.clone());
            }
            UseTree::Name(it) => self.bring_one(before, &it.ident, &it.ident),
            UseTree::Rename(it) => self.bring_one(before, &it.ident, &it.rename),
        }
    }

    fn bring_one(&mut self, before: &Name, name: &syn::Ident, called: &syn::Ident) {
        let mut from = before.clone();
        if *name == "self" {
            let Some(last) = from.last().cloned() else { return };
            self.brings
                .insert(if *called == "self" { last } else { called.to_string() }, from.clone());
        } else {
            from.push(name.to_string());
            self.brings.insert(called.to_string(), from.clone());
        }
        self.uses.insert(from);
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    let is_test = |list: &syn::MetaList| list.tokens.to_string().contains("test");
    attribute.path().is_ident("test")
        || (attribute.path().is_ident("cfg") && attribute.meta.require_list().is_ok_and(is_test))
}

/// Who makes what a path names, as seen from a module; `None`: nobody of this package.
fn maker(modules: &BTreeMap<Name, Module>, from: &Name, path: &[String], deep: u8) -> Option<Name> {
    let (mut at, mut rest) = match path.first()?.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (from.clone(), &path[1..]),
        "super" => {
            let ups = path.iter().take_while(|it| *it == "super").count();
            (from[..from.len().checked_sub(ups)?].to_vec(), &path[ups..])
        }
        first => {
            let brought = modules.get(from)?.brings.get(first).filter(|it| it[0] != first);
            if let (Some(brought), true) = (brought, deep < MOST_HOPS) {
                let path = [brought, &path[1..]].concat();
                return maker(modules, from, &path, deep + 1);
            }
            (from.clone(), path)
        }
    };
    while let Some((first, others)) = rest.split_first() {
        let below = [&at[..], std::slice::from_ref(first)].concat();
        if !modules.contains_key(&below) {
            break;
        }
        (at, rest) = (below, others);
    }
    let Some(name) = rest.first() else { return modules.contains_key(&at).then_some(at) };
    let module = modules.get(&at)?;
    if module.makes.contains(name) || deep == MOST_HOPS {
        return Some(at);
    }
    if let Some(path) = module.brings.get(name) {
        return maker(modules, &at, path, deep + 1);
    }
    let all = module.brings_all.iter().filter_map(|path| maker(modules, &at, path, deep + 1));
    let mut all = all.filter(|it| *it != at && modules[it].makes.contains(name));
    // An item that is not found by name is the module's own: a macro's, or another package's.
    let is_path = ["crate", "self", "super"].contains(&path[0].as_str()) || at != *from;
    all.next_back().or_else(|| is_path.then_some(at))
}

/// More names that hand a name on are not followed.
const MOST_HOPS: u8 = 8;

/// Modules that need one another, each circle in a line of its own.
fn circles(modules: &BTreeMap<Name, Module>) -> Vec<String> {
    let needs: BTreeMap<&Name, BTreeSet<Name>> = modules
        .iter()
        .map(|(name, module)| {
            let makers = module.uses.iter().filter_map(|path| maker(modules, name, path, 0));
            (name, makers.filter(|maker| maker != name).collect())
        })
        .collect();
    let reached = |from: &Name| {
        let (mut reached, mut todo) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(next) = todo.pop() {
            let new = needs[&next].iter().filter(|it| reached.insert((*it).clone()));
            todo.extend(new.cloned());
        }
        reached
    };
    let reach: BTreeMap<&Name, BTreeSet<Name>> =
        modules.keys().map(|name| (name, reached(name))).collect();
    let mut told = BTreeSet::new();
    for (name, reached) in &reach {
        if reached.contains(*name) {
            let circle = reached.iter().filter(|it| reach[it].contains(*name));
            let circle: Vec<_> = circle.map(shown).collect();
            told.insert(circle.join(" ⇄ "));
        }
    }
    told.into_iter().collect()
}

fn shown(name: &Name) -> String {
    if name.is_empty() { "the root".into() } else { name.join("::") }
}

#[track_caller]
fn check(files: &[(&str, &str)], expected: &[&str]) {
    let named = |(file, text): &(&str, &str)| (name_of(Path::new(file)).unwrap(), module(text));
    assert_eq!(circles(&files.iter().map(named).collect()), expected);
}

#[test]
fn circles_are_found() {
    check(&[("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", "struct B;")], &[]);
    let a = ("a.rs", "use crate::b::B; pub struct A;");
    check(&[a, ("b.rs", "pub struct B(super::a::A);")], &["a ⇄ b"]);
    check(&[a, ("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }")], &[]);
    check(&[a, ("b.rs", "pub(in crate::a) struct B;")], &[]);
    check(
        &[
            ("a.rs", "use crate::b; fn f() { b::g() }"),
            ("b.rs", "use crate::c::C; pub fn g() {}"),
            ("c.rs", "use crate::a::*; pub struct C;"),
        ],
        &["a ⇄ b ⇄ c"],
    );
    // A front hands on what its parts make.
    let front = ("a/mod.rs", "mod b; mod c; pub use b::B; use c::C;");
    check(&[front, ("a/b.rs", "pub struct B;"), ("a/c.rs", "use super::B; pub struct C;")], &[]);
    let front = ("a/mod.rs", "mod b; pub use b::B; pub struct Own;");
    check(&[front, ("a/b.rs", "use super::Own; pub struct B;")], &["a ⇄ a::b"]);
}
