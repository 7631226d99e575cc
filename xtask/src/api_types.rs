//! `cargo xtask api-types`: the facts about the API's types, from its own Go sources. Only facts are
//! taken: field names, protobuf tags, types, and the markers of patches and lists.
//!
//! One block a type, its fields indented. A field's line is its protobuf tag (0: none), its JSON name
//! (-: an inlined struct), its type, and flags:
//!
//! ```text
//! ?                    a pointer: absent and zero differ
//! !                    required, and serialised even when zero;  !o  serialised so, but optional
//! p=STRATEGY, k=KEY    patchStrategy, patchMergeKey
//! l=set|atomic|map:KEY,KEY    listType, listMapKey
//! m=atomic             mapType or structType
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::{Progress, Workspace};

/// Where the table lies in the repository.
const TABLE: &str = "api/src/schema/types.txt";

/// Which release of the API is served.
const VERSION: &str = "v0.37";

/// The types that requests and answers are of; what these are made of follows.
const ROOTS: [&str; 24] = [
    "core.v1.Namespace",
    "core.v1.Node",
    "core.v1.Pod",
    "core.v1.Service",
    "core.v1.Endpoints",
    "core.v1.ConfigMap",
    "core.v1.Secret",
    "core.v1.ServiceAccount",
    "core.v1.Event",
    "core.v1.Binding",
    "apps.v1.Deployment",
    "apps.v1.ReplicaSet",
    "discovery.v1.EndpointSlice",
    "coordination.v1.Lease",
    "policy.v1.Eviction",
    "autoscaling.v1.Scale",
    "authentication.v1.TokenRequest",
    "authentication.v1.SelfSubjectReview",
    "authorization.v1.SelfSubjectAccessReview",
    "authorization.v1.SelfSubjectRulesReview",
    "authorization.v1.SubjectAccessReview",
    "authorization.v1.LocalSubjectAccessReview",
    "meta.v1.DeleteOptions",
    "meta.v1.ListMeta",
];

/// Packages of k8s.io/api that these are declared in.
const PACKAGES: [&str; 8] = [
    "core/v1",
    "apps/v1",
    "discovery/v1",
    "coordination/v1",
    "policy/v1",
    "autoscaling/v1",
    "authentication/v1",
    "authorization/v1",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A checkout of github.com/kubernetes/api; a bare one will do.
    #[arg(long, value_name = "FOLDER")]
    api: PathBuf,
    /// The same of github.com/kubernetes/apimachinery.
    #[arg(long, value_name = "FOLDER")]
    apimachinery: PathBuf,
}

/// Writes the table.
///
/// # Errors
/// A source is missing, or has a form that is not expected.
pub(crate) fn run(options: &Options, workspace: &Workspace, progress: &Progress) -> Result<()> {
    let mut declared = Declared::default();
    for package in PACKAGES {
        let text = source(&options.api, &format!("{package}/types.go"))?;
        declared.read(&text, &package.replace('/', "."));
    }
    let text = source(&options.apimachinery, "pkg/apis/meta/v1/types.go")?;
    declared.read(&text, "meta.v1");
    let path = workspace.root().join(TABLE);
    fs::write(&path, declared.table()?).with_context(|| format!("write {}", path.display()))?;
    progress.step(format!("wrote {}", path.display()));
    Ok(())
}

/// A file of the newest commit.
fn source(checkout: &Path, path: &str) -> Result<String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(checkout);
    git.arg("show").arg(format!("HEAD:{path}"));
    let shown = git.output().context("run git")?;
    ensure!(
        shown.status.success(),
        "{} has no {path}: {}",
        checkout.display(),
        String::from_utf8_lossy(&shown.stderr).trim()
    );
    String::from_utf8(shown.stdout).with_context(|| format!("{path} is no text"))
}

/// A field of a struct, as Go has it.
#[derive(Debug)]
struct Field {
    go_type: String,
    tags: String,
    /// The values of `+name=value` above it, by name; empty without a value.
    markers: BTreeMap<String, Vec<String>>,
}

/// What another name stands for.
#[derive(Debug)]
enum Alias {
    Type(String),
    List(String),
    Map(String),
}

/// What the sources declare, by qualified name: `core.v1.Container`.
#[derive(Debug, Default)]
struct Declared {
    structs: HashMap<String, Vec<Field>>,
    aliases: HashMap<String, Alias>,
}

/// A field's type as the table has it, and the struct that has to be in the table for it.
struct Named {
    text: String,
    of: Option<String>,
}

impl Declared {
    /// Takes what the file of a package declares.
    fn read(&mut self, text: &str, home: &str) {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some((name, target)) = line
                .strip_prefix("type ")
                .and_then(|declared| declared.split_once(' '))
            else {
                continue;
            };
            let name = format!("{home}.{name}");
            if target == "struct {" {
                let body = lines.by_ref().take_while(|line| *line != "}");
                self.structs.insert(name, fields(body));
            } else if !target.contains(' ') {
                let alias = if let Some(item) = target.strip_prefix("[]") {
                    Alias::List(qualify(item, home))
                } else if let Some(item) = map_item(target) {
                    Alias::Map(qualify(item, home))
                } else {
                    Alias::Type(qualify(target, home))
                };
                self.aliases.insert(name, alias);
            }
        }
    }

    /// The roots, and all that they are made of.
    fn table(&self) -> Result<String> {
        let mut wanted: Vec<String> = ROOTS.map(str::to_owned).into();
        let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some(name) = wanted.pop() {
            if blocks.contains_key(&name) {
                continue;
            }
            let fields = self.structs.get(&name);
            let fields = fields.with_context(|| format!("no struct {name} is declared"))?;
            let (home, _) = name.rsplit_once('.').context("types are in packages")?;
            let mut lines = Vec::new();
            for field in fields
                .iter()
                .filter(|field| !field.tags.contains("json:\"-\""))
            {
                let named = self.name(&field.go_type, home);
                let line = field.line(&named.text);
                lines.push(line.with_context(|| format!("a field of {name}"))?);
                wanted.extend(named.of);
            }
            blocks.insert(name, lines);
        }
        let mut text = format!(
            "# Written by `cargo xtask api-types` from k8s.io/api and k8s.io/apimachinery {VERSION}. Do not edit.\n"
        );
        for (name, lines) in blocks {
            text.push_str(&format!("{name}\n"));
            for line in lines {
                text.push_str(&format!(" {line}\n"));
            }
        }
        Ok(text)
    }

    /// What the table calls a type that is named in the package `home`.
    fn name(&self, go_type: &str, home: &str) -> Named {
        let within = |shape: &str, item: &str| {
            let item = self.name(item, home);
            Named {
                text: format!("{shape}{}", item.text),
                of: item.of,
            }
        };
        if let Some(pointed_to) = go_type.strip_prefix('*') {
            return self.name(pointed_to, home);
        }
        if let Some(text) = scalar(go_type) {
            return Named {
                text: text.to_owned(),
                of: None,
            };
        }
        if let Some(item) = go_type.strip_prefix("[]") {
            return within("[]", item);
        }
        if let Some(item) = map_item(go_type) {
            return within("{}", item);
        }
        let name = qualify(go_type, home);
        match self.aliases.get(&name) {
            Some(Alias::List(item)) => within("[]", item),
            Some(Alias::Map(item)) => within("{}", item),
            Some(Alias::Type(target)) => self.name(target, home),
            None => match scalar(&name) {
                Some(text) => Named {
                    text: text.to_owned(),
                    of: None,
                },
                None => Named {
                    text: name.clone(),
                    of: Some(name),
                },
            },
        }
    }
}

/// The fields of a struct's body. Those without tags are not serialised.
fn fields<'a>(body: impl Iterator<Item = &'a str>) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut markers = BTreeMap::new();
    for line in body.map(str::trim) {
        if let Some(comment) = line.strip_prefix("//") {
            if let Some((name, value)) = marker(comment) {
                let values: &mut Vec<String> = markers.entry(name).or_default();
                values.push(value);
            }
        } else if let Some((go_type, tags)) = field(line) {
            fields.push(Field {
                go_type: go_type.to_owned(),
                tags: tags.to_owned(),
                markers: std::mem::take(&mut markers),
            });
        } else if line.is_empty() {
            markers.clear();
        }
    }
    fields
}

/// `+name` or `+name=value`.
fn marker(comment: &str) -> Option<(String, String)> {
    let told = comment.strip_prefix(' ').unwrap_or(comment);
    let told = told.strip_prefix('+')?.split_whitespace().next()?;
    let (name, value) = told.split_once('=').unwrap_or((told, ""));
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    // `+k8s:optional` is another generator's.
    let name: String = name.chars().take_while(|c| is_word(*c)).collect();
    (!name.is_empty()).then(|| (name, value.to_owned()))
}

/// A field's type and tags: `Name Type` and the tags, or an inlined struct's `Type` and tags.
fn field(line: &str) -> Option<(&str, &str)> {
    let (declared, tags) = line.split_once('`')?;
    let (tags, _) = tags.rsplit_once('`')?;
    let words: Vec<&str> = declared.split_whitespace().collect();
    match words[..] {
        [go_type] | [_, go_type] => Some((go_type, tags)),
        _ => None,
    }
}

impl Field {
    /// As the table has it.
    fn line(&self, type_text: &str) -> Result<String> {
        let tag = self.tag("protobuf").and_then(|tag| tag.split(',').nth(1));
        let json = self.tag("json").context("has no name in JSON")?;
        let mut json = json.split(',');
        let name = json.next().unwrap_or_default();
        let is_omitted = json.any(|option| matches!(option, "omitempty" | "omitzero"));
        let mut words = vec![
            tag.unwrap_or("0").to_owned(),
            if name.is_empty() { "-" } else { name }.to_owned(),
            type_text.to_owned(),
        ];
        if self.go_type.starts_with('*') {
            words.push("?".to_owned());
        } else if !is_omitted && !name.is_empty() {
            let is_optional = self.markers.contains_key("optional");
            words.push(if is_optional { "!o" } else { "!" }.to_owned());
        }
        for (key, flag) in [("patchStrategy", "p"), ("patchMergeKey", "k")] {
            words.extend(self.tag(key).map(|value| format!("{flag}={value}")));
        }
        let values = |marker| self.markers.get(marker).map(Vec::as_slice);
        if let Some([kind, ..]) = values("listType") {
            let keys = values("listMapKey").unwrap_or_default().join(",");
            words.push(if kind == "map" {
                format!("l=map:{keys}")
            } else {
                format!("l={kind}")
            });
        }
        let mut shapes = ["mapType", "structType"].into_iter().filter_map(values);
        if shapes.any(|shapes| shapes.iter().any(|shape| shape == "atomic")) {
            words.push("m=atomic".to_owned());
        }
        Ok(words.join(" "))
    }

    /// The value of a struct tag.
    fn tag(&self, key: &str) -> Option<&str> {
        let (_, rest) = self.tags.split_once(&format!("{key}:\""))?;
        rest.split_once('"').map(|(value, _)| value)
    }
}

fn map_item(go_type: &str) -> Option<&str> {
    let (_, item) = go_type.strip_prefix("map[")?.split_once(']')?;
    Some(item)
}

/// A type's name with its package's: other packages are named by what they are imported as.
fn qualify(go_type: &str, home: &str) -> String {
    if scalar(go_type).is_some() {
        return go_type.to_owned();
    }
    match go_type.split_once('.') {
        Some(("v1", name)) => format!("core.v1.{name}"),
        Some(("metav1", name)) => format!("meta.v1.{name}"),
        Some(_) => go_type.to_owned(),
        None => format!("{home}.{go_type}"),
    }
}

/// What the table calls types that are no structs to it.
fn scalar(go_type: &str) -> Option<&'static str> {
    Some(match go_type {
        "string" | "types.UID" | "types.NodeName" => "string",
        "bool" => "bool",
        "int" | "int32" | "uint32" => "int32",
        "int64" | "uint64" => "int64",
        "float64" => "float64",
        "byte" => "byte",
        "[]byte" => "bytes",
        "meta.v1.Time" | "metav1.Time" => "Time",
        "meta.v1.MicroTime" | "metav1.MicroTime" => "MicroTime",
        "resource.Quantity" => "Quantity",
        "intstr.IntOrString" => "IntOrString",
        "runtime.RawExtension" | "meta.v1.FieldsV1" | "metav1.FieldsV1" => "Raw",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO: &str = r#"
type Names []string

type Size string

// Thing is one.
type Thing struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	Size Size `json:"size" protobuf:"bytes,1,opt,name=size,casttype=Size"`

	// +patchStrategy=merge
	// +listType=map
	// +listMapKey=name
	// +listMapKey=port
	Parts []Part `json:"parts,omitempty" patchStrategy:"merge" patchMergeKey:"name" protobuf:"bytes,2,rep,name=parts"`
	Since *metav1.Time `json:"since,omitempty" protobuf:"bytes,3,opt,name=since"`
	// +mapType=atomic
	Labels map[string]Names `json:"labels,omitempty" protobuf:"bytes,4,rep,name=labels"`
	Data []byte `json:"data" protobuf:"bytes,5,opt,name=data"`
	hidden string
}
"#;

    #[test]
    fn fields_are_told_with_their_types_and_flags() {
        let mut declared = Declared::default();
        declared.read(GO, "core.v1");
        let lines = declared.structs["core.v1.Thing"].iter().map(|field| {
            let named = declared.name(&field.go_type, "core.v1");
            field.line(&named.text).unwrap()
        });
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "0 - meta.v1.TypeMeta",
                "1 size string !o",
                "2 parts []core.v1.Part p=merge k=name l=map:name,port",
                "3 since Time ?",
                "4 labels {}[]string m=atomic",
                "5 data bytes !",
            ]
        );
        let missing = declared.table().unwrap_err().to_string();
        assert!(missing.starts_with("no struct "), "{missing}");
    }
}
