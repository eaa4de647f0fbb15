//! Reads one source file: every path it names, with `use` (braces, renames, globs), `self` and `super` resolved, every
//! string and every method that is called. What stands under `#[cfg(test)]` is left out, and nothing else.

use proc_macro2::{Delimiter, Spacing, Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::names::{Names, attributes, is_for_tests, leaves, plain, segments};

pub type Path = Vec<String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Import,
    Reexport,
    /// In an expression: called, or handed on.
    Value,
    /// As a type, a trait, a pattern or a macro.
    Name,
}

#[derive(Debug)]
pub enum What {
    Path(Path, How),
    Text(String),
    Method(String),
    /// How long ago a `SystemTime` was.
    Age,
    Unsafe,
    /// clap's `#[arg(env)]`, or `env!` of something that Cargo does not set.
    Environment,
    /// `include!`, or `#[path]` on a module: code that is not read where it counts.
    Elsewhere,
}

pub struct Seen {
    pub line: usize,
    pub what: What,
}

#[derive(Default)]
pub struct Scan {
    pub seen: Vec<Seen>,
    /// Files and folders (these end in `/`) of modules under `#[cfg(test)]`.
    pub tests: Vec<String>,
    /// Those of all other modules.
    pub modules: Vec<String>,
}

/// `path` is from the repository's root.
pub fn scan(path: &str, text: &str) -> Scan {
    let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut names = Names::new(path.starts_with("crates/cistern/"), module_of(path));
    names.visit_file(&file);
    let mut reader = Reader {
        path,
        module: module_of(path),
        names,
        scan: Scan::default(),
    };
    reader.visit_file(&file);
    reader.unsafes(text.parse().expect("it was parsed above"));
    reader.scan
}

/// Where a file stands in its crate: `crates/cistern/src/images/api.rs` is `crate::images::api`.
pub fn module_of(path: &str) -> Path {
    let inside = path.split_once("/src/").map_or(path, |(_, inside)| inside);
    let mut module = vec!["crate".to_owned()];
    module.extend(inside.trim_end_matches(".rs").split('/').map(str::to_owned));
    if module
        .last()
        .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
    {
        module.pop();
    }
    module
}

/// Methods of a `Result`.
const RESULTS: [&str; 14] = [
    "and_then",
    "err",
    "expect",
    "is_err",
    "is_ok",
    "is_ok_and",
    "map",
    "map_err",
    "map_or",
    "map_or_else",
    "ok",
    "unwrap",
    "unwrap_or",
    "unwrap_or_default",
];

struct Reader<'a> {
    path: &'a str,
    module: Path,
    names: Names,
    scan: Scan,
}

impl Reader<'_> {
    fn see(&mut self, at: Span, what: What) {
        let line = at.start().line;
        self.scan.seen.push(Seen { line, what });
    }

    fn see_path(&mut self, at: Span, path: Path, how: How) {
        for path in self.names.resolve(&self.module, path) {
            self.see(at, What::Path(path, how));
        }
    }

    /// An import is seen as it is written, and as what its first name stands for.
    fn see_tree(&mut self, tree: &syn::UseTree, how: How) {
        for (path, name) in leaves(&[], tree) {
            let path = if name.is_none() {
                [&path[..], &["*".to_owned()]].concat()
            } else {
                path
            };
            self.see_path(tree.span(), path, how);
        }
    }

    /// The tokens of a macro or an attribute, where no grammar says what is a path.
    fn tokens(&mut self, stream: TokenStream) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while at < trees.len() {
            at += match &trees[at] {
                TokenTree::Ident(ident) if ident == "use" => self.tokens_use(&trees[at + 1..]),
                TokenTree::Ident(_) => self.tokens_path(&trees, at),
                TokenTree::Group(group) => {
                    self.tokens(group.stream());
                    1
                }
                TokenTree::Literal(literal) => {
                    self.visit_lit(&syn::Lit::new(literal.clone()));
                    1
                }
                TokenTree::Punct(_) => 1,
            };
        }
    }

    fn tokens_use(&mut self, rest: &[TokenTree]) -> usize {
        let tree: TokenStream = rest
            .iter()
            .take_while(|tree| !is_punct(Some(tree), ';'))
            .cloned()
            .collect();
        let Ok(tree) = syn::parse2::<syn::UseTree>(tree) else {
            return 1;
        };
        self.names.add_tree(&[], &tree);
        self.see_tree(&tree, How::Import);
        1
    }

    fn tokens_path(&mut self, trees: &[TokenTree], start: usize) -> usize {
        let mut path = Vec::new();
        let mut at = start;
        while let Some(TokenTree::Ident(ident)) = trees.get(at) {
            path.push(plain(ident));
            at += 1;
            if !is_colons(&trees[at..]) {
                break;
            }
            at += 2;
        }
        let after = trees.get(at);
        let is_called =
            matches!(after, Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis);
        let is_member = start > 0 && is_punct(trees.get(start - 1), '.');
        let span = trees[start].span();
        if is_member {
            self.see(span, What::Method(path.remove(0)));
        } else if path.len() > 1 || is_called {
            self.see_path(span, path, How::Value);
        }
        at - start
    }

    /// serde and clap take the name of a function as a text: `default = "Utc::now"`.
    fn paths_in_texts(&mut self, stream: TokenStream) {
        for tree in stream {
            match tree {
                TokenTree::Group(group) => self.paths_in_texts(group.stream()),
                TokenTree::Literal(literal) => {
                    let path = syn::parse2::<syn::LitStr>(TokenTree::Literal(literal).into())
                        .and_then(|text| text.parse::<syn::Path>());
                    if let Ok(path) = path {
                        self.see_path(path.span(), segments(&path), How::Value);
                    }
                }
                _ => {}
            }
        }
    }

    /// `elapsed` that can fail is `SystemTime`'s, which reads the clock; an `Instant`'s cannot.
    fn see_age(&mut self, expr: &syn::Expr) {
        if let syn::Expr::MethodCall(call) = expr
            && call.method == "elapsed"
        {
            self.see(call.method.span(), What::Age);
        }
    }

    fn unsafes(&mut self, stream: TokenStream) {
        for tree in stream {
            match tree {
                TokenTree::Ident(ident) if ident == "unsafe" => self.see(ident.span(), What::Unsafe),
                TokenTree::Group(group) => self.unsafes(group.stream()),
                _ => {}
            }
        }
    }

    /// Where the source of `mod x;` may stand.
    fn files_of(&self, item: &syn::ItemMod) -> Vec<String> {
        if item.content.is_some() {
            return Vec::new();
        }
        let (folder, file) = self.path.rsplit_once('/').expect("a path");
        if let Some(given) = path_attribute(&item.attrs) {
            return vec![format!("{folder}/{given}")];
        }
        let base = match file {
            "mod.rs" | "lib.rs" | "main.rs" => folder,
            _ => self.path.trim_end_matches(".rs"),
        };
        let name = plain(&item.ident);
        vec![format!("{base}/{name}.rs"), format!("{base}/{name}/")]
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            _ if !is_for_tests(attributes(item)) => visit::visit_item(self, item),
            syn::Item::Mod(item) => {
                let files = self.files_of(item);
                self.scan.tests.extend(files);
            }
            _ => {}
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if path_attribute(&item.attrs).is_some() {
            self.see(item.ident.span(), What::Elsewhere);
        }
        let files = self.files_of(item);
        self.scan.modules.extend(files);
        self.module.push(plain(&item.ident));
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_private = matches!(item.vis, syn::Visibility::Inherited);
        let how = if is_private { How::Import } else { How::Reexport };
        self.see_tree(&item.tree, how);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.see_path(item.ident.span(), vec![plain(&item.ident)], How::Import);
    }

    /// `pub(super)` is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let name = attribute.path();
        if name.is_ident("doc") {
            return;
        }
        let syn::Meta::List(list) = &attribute.meta else {
            return;
        };
        let is_clap = ["arg", "clap", "command", "cfg_attr"]
            .iter()
            .any(|word| name.is_ident(word));
        if is_clap && has_ident(list.tokens.clone(), "env") {
            self.see(name.span(), What::Environment);
        }
        self.tokens(list.tokens.clone());
        self.paths_in_texts(list.tokens.clone());
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        let name = plain(&call.path.segments.last().expect("a name").ident);
        let is_read = ["env", "option_env"].contains(&name.as_str());
        if is_read && !call.tokens.to_string().starts_with("\"CARGO_") {
            self.see(call.path.span(), What::Environment);
        }
        if name == "include" {
            self.see(call.path.span(), What::Elsewhere);
        }
        self.tokens(call.tokens.clone());
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(function) = &*call.func
            && function.path.segments.len() == 1
        {
            self.see_path(function.span(), segments(&function.path), How::Value);
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_path(&mut self, expr: &'ast syn::ExprPath) {
        let path = segments(&expr.path);
        if path.len() > 1 || !self.names.locals.contains(&path[0]) {
            self.see_path(expr.span(), path, How::Value);
        }
        if let Some(own) = &expr.qself {
            self.visit_qself(own);
        }
        visit::visit_path(self, &expr.path);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.see_path(path.span(), segments(path), How::Name);
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let name = plain(&call.method);
        if RESULTS.contains(&name.as_str()) {
            self.see_age(&call.receiver);
        }
        self.see(call.method.span(), What::Method(name));
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_try(&mut self, tried: &'ast syn::ExprTry) {
        self.see_age(&tried.expr);
        visit::visit_expr_try(self, tried);
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.see(text.span(), What::Text(text.value()));
    }

    fn visit_lit_byte_str(&mut self, text: &'ast syn::LitByteStr) {
        let value = String::from_utf8_lossy(&text.value()).into_owned();
        self.see(text.span(), What::Text(value));
    }

    fn visit_lit_cstr(&mut self, text: &'ast syn::LitCStr) {
        let value = text.value().to_string_lossy().into_owned();
        self.see(text.span(), What::Text(value));
    }
}

/// What `#[path = "…"]` says.
fn path_attribute(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => text_of(&pair.value),
        _ => None,
    })
}

fn text_of(expr: &syn::Expr) -> Option<String> {
    match expr {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) => Some(text.value()),
        _ => None,
    }
}

fn is_punct(tree: Option<&TokenTree>, wanted: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// Whether `::` and a name come next.
fn is_colons(trees: &[TokenTree]) -> bool {
    let is_joint =
        matches!(trees.first(), Some(TokenTree::Punct(punct)) if punct.spacing() == Spacing::Joint);
    is_joint
        && is_punct(trees.first(), ':')
        && is_punct(trees.get(1), ':')
        && matches!(trees.get(2), Some(TokenTree::Ident(_)))
}

fn has_ident(stream: TokenStream, wanted: &str) -> bool {
    stream.into_iter().any(|tree| match tree {
        TokenTree::Ident(ident) => ident == wanted,
        TokenTree::Group(group) => has_ident(group.stream(), wanted),
        _ => false,
    })
}
