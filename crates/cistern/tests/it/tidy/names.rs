//! What the names of a file stand for: `use` with braces, renames and globs, modules, `self` and `super`.

use std::collections::{HashMap, HashSet};

use syn::visit::{self, Visit};

use super::scanner::Path;

/// What the names of a file stand for. One table for the whole file, so a name may stand for several things.
#[derive(Default)]
pub struct Names {
    /// Whether `cistern` is our own crate's name.
    is_service: bool,
    module: Path,
    aliases: HashMap<String, Vec<Path>>,
    globs: Vec<Path>,
    /// Local variables, which a function of the same name would be taken for.
    pub locals: HashSet<String>,
}

impl Names {
    pub fn new(is_service: bool, module: Path) -> Self {
        Names {
            is_service,
            module,
            ..Names::default()
        }
    }

    fn add(&mut self, name: &str, path: Path) {
        self.aliases.entry(name.to_owned()).or_default().push(path);
    }

    pub fn add_tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        for (path, name) in leaves(prefix, tree) {
            let path = absolute(&self.module, path);
            match name {
                Some(name) => self.add(&name, path),
                None => self.globs.push(path),
            }
        }
    }

    /// Everything that a path may stand for. Without a name for its beginning it is an outside crate's, or came by a
    /// `*`.
    pub fn resolve(&self, module: &[String], path: Path) -> Vec<Path> {
        let path = absolute(module, path);
        let mut found = self.follow(&path, 8);
        if !self.aliases.contains_key(&path[0]) && path[0] != "crate" {
            found.extend(self.globs.iter().map(|glob| [&glob[..], &path[..]].concat()));
        }
        found
    }

    fn follow(&self, path: &[String], depth: usize) -> Vec<Path> {
        let targets = self.aliases.get(&path[0]).filter(|_| depth > 0);
        let Some(targets) = targets else {
            let is_own = self.is_service && path[0] == "cistern";
            let root = if is_own { "crate" } else { &path[0] };
            return vec![[&[root.to_owned()], &path[1..]].concat()];
        };
        targets
            .iter()
            .flat_map(|target| {
                let whole = [&target[..], &path[1..]].concat();
                if target[0] == path[0] {
                    vec![whole]
                } else {
                    self.follow(&whole, depth - 1)
                }
            })
            .collect()
    }
}

/// Takes `self` and `super` away from a path's beginning.
fn absolute(module: &[String], path: Path) -> Path {
    if path[0] != "self" && path[0] != "super" {
        return path;
    }
    let up = path.iter().take_while(|part| *part == "super" || *part == "self");
    let supers = up.clone().filter(|part| *part == "super").count();
    let base = &module[..module.len().saturating_sub(supers).max(1)];
    [base, &path[up.count()..]].concat()
}

/// Every path of a `use`, and the name that it gets; none for a glob.
pub fn leaves(prefix: &[String], tree: &syn::UseTree) -> Vec<(Path, Option<String>)> {
    let with = |ident: &syn::Ident| [prefix, &[plain(ident)]].concat();
    match tree {
        syn::UseTree::Path(path) => leaves(&with(&path.ident), &path.tree),
        syn::UseTree::Group(group) => group.items.iter().flat_map(|tree| leaves(prefix, tree)).collect(),
        syn::UseTree::Glob(_) => vec![(prefix.to_vec(), None)],
        syn::UseTree::Name(name) if name.ident == "self" => {
            vec![(prefix.to_vec(), prefix.last().cloned())]
        }
        syn::UseTree::Name(name) => vec![(with(&name.ident), Some(plain(&name.ident)))],
        syn::UseTree::Rename(name) if name.ident == "self" && !prefix.is_empty() => {
            vec![(prefix.to_vec(), Some(plain(&name.rename)))]
        }
        syn::UseTree::Rename(name) => vec![(with(&name.ident), Some(plain(&name.rename)))],
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = plain(&item.ident);
        let inner = [&self.module[..], std::slice::from_ref(&name)].concat();
        self.add(&name, inner.clone());
        let outer = std::mem::replace(&mut self.module, inner);
        visit::visit_item_mod(self, item);
        self.module = outer;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        if let Some((_, name)) = &item.rename {
            self.add(&plain(name), vec![plain(&item.ident)]);
        }
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        if let syn::Type::Path(path) = &*item.ty {
            let path = absolute(&self.module, segments(&path.path));
            self.add(&plain(&item.ident), path);
        }
    }

    fn visit_pat_ident(&mut self, pat: &'ast syn::PatIdent) {
        self.locals.insert(plain(&pat.ident));
        visit::visit_pat_ident(self, pat);
    }
}

pub fn segments(path: &syn::Path) -> Path {
    path.segments
        .iter()
        .map(|segment| plain(&segment.ident))
        .collect()
}

/// An identifier as it is meant: `r#env` is `env`.
pub fn plain(ident: &syn::Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}

/// `#[cfg(test)]`, and `#[cfg(all(test, …))]`.
pub fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .any(|attribute| {
            attribute
                .parse_args::<syn::Meta>()
                .is_ok_and(|meta| needs_test(&meta))
        })
}

fn needs_test(meta: &syn::Meta) -> bool {
    match meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("all") => {
            let each = syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
            list.parse_args_with(each)
                .is_ok_and(|all| all.iter().any(needs_test))
        }
        _ => false,
    }
}

pub fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    use syn::Item::{Const, Enum, Fn, Impl, Macro, Mod, Static, Struct, Trait, Type, Use};
    match item {
        Const(item) => &item.attrs,
        Enum(item) => &item.attrs,
        Fn(item) => &item.attrs,
        Impl(item) => &item.attrs,
        Macro(item) => &item.attrs,
        Mod(item) => &item.attrs,
        Static(item) => &item.attrs,
        Struct(item) => &item.attrs,
        Trait(item) => &item.attrs,
        Type(item) => &item.attrs,
        Use(item) => &item.attrs,
        _ => &[],
    }
}
