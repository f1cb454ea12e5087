//! The direction of knowledge between the modules of a crate: who reads one must not have to read a circle of them.
//!
//! The test reads imports and paths as text. It follows a re-exported name to its origin. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;

/// A module by its path in the crate; the root has none.
type Module = Vec<String>;

/// The imports between the modules of a crate.
#[derive(Default)]
pub(crate) struct Crate {
    sources: BTreeMap<Module, Source>,
}

/// The contents of a file.
struct Source {
    words: Vec<String>,
    /// Every imported path, by the name that it has here.
    imports: Vec<Import>,
}

struct Import {
    path: Vec<String>,
    name: String,
    /// Whether others can reach the name through this module.
    is_exported: bool,
}

impl Crate {
    /// Reads the library in a folder.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut read = Self::default();
        read.add(&folder.join("src/lib.rs"), Vec::new());
        read
    }

    /// Adds a file and the modules that it declares.
    fn add(&mut self, file: &Path, module: Module) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let words = words(&text);
        let folder = if module.is_empty() { file.parent().map(Path::to_owned) } else { Some(file.with_extension("")) };
        let folder = folder.unwrap_or_else(PathBuf::new);
        for position in 0..words.len().saturating_sub(2) {
            if words[position] == "mod" && words[position + 2] == ";" {
                let inner = [&*module, &[words[position + 1].clone()]].concat();
                let file = folder.join(format!("{}.rs", words[position + 1]));
                // A module whose file has another name is written for one feature, and stands alone.
                if file.exists() {
                    self.add(&file, inner);
                }
            }
        }
        let imports = imports(&words);
        self.sources.insert(module, Source { words, imports });
    }

    /// Returns for each module those that it takes something from.
    fn edges(&self) -> BTreeMap<&Module, BTreeSet<&Module>> {
        let edges = self.sources.iter().map(|(module, source)| {
            let imported = source.imports.iter().filter(|import| {
                let uses = source.words.iter().filter(|word| **word == import.name).count();
                !import.is_exported || uses > 1
            });
            let paths = imported.map(|import| import.path.clone()).chain(paths(&source.words));
            // A module and the modules above it are one thing in several files.
            let targets =
                paths.filter_map(|path| self.find(module, &path, 0)).filter(|target| !module.starts_with(target));
            (module, targets.collect())
        });
        edges.collect()
    }

    /// Returns the module with the last name of a path; `None` for a path outside this crate.
    fn find(&self, from: &[String], path: &[String], depth: usize) -> Option<&Module> {
        let (first, mut rest) = path.split_first()?;
        let mut at = match &**first {
            "crate" => Vec::new(),
            "self" => from.to_vec(),
            "super" => from.split_last()?.1.to_vec(),
            child => [from, &[child.to_owned()]].concat(),
        };
        while let Some((name, behind)) = rest.split_first() {
            let inner = [&*at, std::slice::from_ref(name)].concat();
            if name == "super" {
                at.pop();
            } else if self.sources.contains_key(&inner) {
                at = inner;
            } else {
                let export =
                    self.sources.get(&at)?.imports.iter().find(|import| import.is_exported && import.name == *name);
                return match export {
                    Some(export) if depth < 8 => self.find(&at, &[&*export.path, behind].concat(), depth + 1),
                    _ => self.key(&at),
                };
            }
            rest = behind;
        }
        self.key(&at)
    }

    fn key(&self, module: &Module) -> Option<&Module> {
        self.sources.get_key_value(module).map(|(key, _)| key)
    }

    /// Returns the circles: groups of modules each of which leads to all others of its group.
    pub(crate) fn circles(&self) -> BTreeSet<BTreeSet<String>> {
        let edges = self.edges();
        let reached: BTreeMap<&Module, BTreeSet<&Module>> = edges
            .keys()
            .map(|start| {
                let (mut reached, mut open) = (BTreeSet::new(), vec![*start]);
                while let Some(module) = open.pop() {
                    open.extend(edges[module].iter().filter(|next| reached.insert(**next)));
                }
                (*start, reached)
            })
            .collect();
        let circle = |module: &Module| -> BTreeSet<String> {
            let others = reached[module].iter().filter(|other| reached[**other].contains(module));
            others.map(|other| if other.is_empty() { "lib".to_owned() } else { other.join("/") }).collect()
        };
        edges.keys().map(|module| circle(module)).filter(|circle| !circle.is_empty()).collect()
    }

    /// Says which arrows tie a circle, for people.
    pub(crate) fn describe(&self, circle: &BTreeSet<String>) -> String {
        let name = |module: &Module| if module.is_empty() { "lib".to_owned() } else { module.join("/") };
        let edges = self.edges();
        let arrows =
            edges.iter().flat_map(|(from, targets)| targets.iter().map(move |target| (name(from), name(target))));
        let within = arrows.filter(|(from, target)| circle.contains(from) && circle.contains(target));
        within.map(|(from, target)| format!("  {from} → {target}\n")).collect()
    }
}

/// Cuts Rust's text into names and signs, without comments, texts and tests.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '/' if letters.peek() == Some(&'/') => while letters.next().is_some_and(|letter| letter != '\n') {},
            '"' => {
                while let Some(letter) = letters.next() {
                    match letter {
                        '\\' => drop(letters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '\'' => {
                // A letter in quotes; else a lifetime.
                let ahead: Vec<char> = letters.clone().take(3).collect();
                match ahead[..] {
                    ['\\', ..] => while letters.next().is_some_and(|letter| letter != '\'') {},
                    [_, '\'', ..] => drop((letters.next(), letters.next())),
                    _ => {}
                }
            }
            letter if letter.is_alphanumeric() || letter == '_' => {
                let mut word = letter.to_string();
                while let Some(more) = letters.next_if(|letter| letter.is_alphanumeric() || *letter == '_') {
                    word.push(more);
                }
                if ["r", "br"].contains(&&*word) && matches!(letters.peek(), Some('#' | '"')) {
                    raw(&mut letters);
                } else {
                    words.push(word);
                }
            }
            letter if letter.is_whitespace() => {}
            letter => words.push(letter.to_string()),
        }
    }
    let test = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    if let Some(end) = words.windows(test.len()).position(|window| window == test) {
        words.truncate(end);
    }
    words
}

/// Passes over the rest of a raw text, whose first letter is a sign of numbers or a quote.
fn raw(letters: &mut Peekable<Chars<'_>>) {
    let mut end = "\"".to_owned();
    while letters.next_if_eq(&'#').is_some() {
        end.push('#');
    }
    letters.next();
    let mut seen = String::new();
    for letter in letters {
        seen.push(letter);
        if seen.ends_with(&end) {
            return;
        }
    }
}

/// Returns the imports of a file.
fn imports(words: &[String]) -> Vec<Import> {
    let mut imports = Vec::new();
    for start in (0..words.len()).filter(|start| words[*start] == "use") {
        let before = start.checked_sub(1).map(|before| &*words[before]);
        let is_exported = matches!(before, Some("pub" | ")"));
        if let Some(length) = words[start..].iter().position(|word| word == ";") {
            tree(&words[start + 1..start + length], &[], is_exported, &mut imports);
        }
    }
    imports
}

/// Reads a tree of imports: `a::{b, c::d as e}`.
fn tree(words: &[String], before: &[String], is_exported: bool, imports: &mut Vec<Import>) {
    let mut path = before.to_vec();
    let mut position = 0;
    while let Some(word) = words.get(position) {
        match &**word {
            "{" => {
                let inner = &words[position + 1..words.len() - 1];
                let (mut depth, mut begin) = (0, 0);
                for (end, word) in inner.iter().enumerate() {
                    match &**word {
                        "{" => depth += 1,
                        "}" => depth -= 1,
                        "," if depth == 0 => {
                            tree(&inner[begin..end], &path, is_exported, imports);
                            begin = end + 1;
                        }
                        _ => {}
                    }
                }
                return tree(&inner[begin..], &path, is_exported, imports);
            }
            "as" => {
                let name = words.get(position + 1).cloned().unwrap_or_default();
                return imports.push(Import { path, name, is_exported });
            }
            ":" => {}
            "self" if !path.is_empty() => {}
            _ => path.push(word.clone()),
        }
        position += 1;
    }
    if let Some(name) = path.last().cloned().filter(|_| path.len() > before.len() || words.iter().any(|w| w == "self"))
    {
        imports.push(Import { path, name, is_exported });
    }
}

/// Returns the paths in a file's code: those that begin at the crate, at a module above, or with the name of a module.
fn paths(words: &[String]) -> impl Iterator<Item = Vec<String>> + '_ {
    let mut is_import = false;
    let mut is_start = move |start: usize| {
        is_import = words[start] == "use" || (is_import && words[start] != ";");
        let is_name = words[start].starts_with(|letter: char| letter.is_lowercase());
        let is_path = words.get(start + 1).is_some_and(|word| word == ":")
            && words.get(start + 2).is_some_and(|word| word == ":");
        !is_import && is_name && is_path && (start == 0 || words[start - 1] != ":")
    };
    (0..words.len()).filter(move |start| is_start(*start)).map(|start| {
        let mut path = vec![words[start].clone()];
        let mut position = start + 1;
        while words.get(position).is_some_and(|word| word == ":")
            && words.get(position + 1).is_some_and(|word| word == ":")
            && words.get(position + 2).is_some_and(|word| word.starts_with(|l: char| l.is_alphanumeric() || l == '_'))
        {
            path.push(words[position + 2].clone());
            position += 3;
        }
        path
    })
}
