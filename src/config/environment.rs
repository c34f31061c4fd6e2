//! Environment variables as the last layer: `TIDEGATE__STORE__DURABILITY=full` is `durability` in `[store]`.
//!
//! Segments are read without regard to case. After `LISTENER`, `UPLINK` or `STREAM` comes the name of an entry (without
//! regard to case, `_` standing for `-` and `.` too, which names of variables cannot have) or its number from 0; the number
//! after the last adds an entry, so that a container can do without a file: `TIDEGATE__UPLINK__0__URL=mqtt://broker`.
//! Values are read as what the key takes: numbers, `true`, sizes, durations; lists as `a,b` or as a TOML array.
//! One underscore after `TIDEGATE` is not ours: orchestrators set such variables by themselves (`TIDEGATE_PORT=...`).

use std::{ffi::OsString, path::PathBuf};

use ::config::{ConfigError, Map, Source, Value, ValueKind};

use super::{
    file::LISTS,
    nearest::nearest,
    origin::{Origin, Origins},
    problem::{Place, Problem, Severity},
    show::{as_list, as_table, as_text},
    tree,
};

const PREFIX: &str = "TIDEGATE__";

/// Most segments of a name; the deepest key there is has four.
const MAX_SEGMENTS: usize = 8;

/// What the environment sets, as a source for the `config` crate.
#[derive(Debug, Clone, Default)]
pub(super) struct EnvironmentLayer {
    settings: Vec<(Vec<Step>, Value)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Index(usize),
    Key(String),
}

impl Source for EnvironmentLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        tree::collected(|cache| self.collect_to(cache))
    }

    fn collect_to(&self, cache: &mut Value) -> Result<(), ConfigError> {
        let Some(tree) = tree::within(cache) else { return Ok(()) };
        for (steps, value) in &self.settings {
            set(tree, steps, value);
        }
        Ok(())
    }
}

/// Puts a value at the end of a path; tables and list entries that are missing on the way take the value's origin.
fn set(mut at: &mut Value, steps: &[Step], value: &Value) {
    let origin = value.origin().map(str::to_owned);
    for step in steps {
        at = match step {
            Step::Key(key) => {
                if !matches!(at.kind, ValueKind::Table(_)) {
                    *at = Value::new(origin.as_ref(), Map::<String, Value>::new());
                }
                let ValueKind::Table(table) = &mut at.kind else { return };
                table.entry(key.clone()).or_insert_with(|| Value::new(origin.as_ref(), ValueKind::Nil))
            }
            Step::Index(index) => {
                if !matches!(at.kind, ValueKind::Array(_)) {
                    *at = Value::new(origin.as_ref(), ValueKind::Array(Vec::new()));
                }
                let ValueKind::Array(list) = &mut at.kind else { return };
                if *index == list.len() {
                    list.push(Value::new(origin.as_ref(), Map::<String, Value>::new()));
                }
                // `resolve` has made sure that there is no gap.
                let Some(entry) = list.get_mut(*index) else { return };
                entry
            }
        };
    }
    *at = value.clone();
}

/// Picks our variables out of the environment. `below` is what the files say, for the names of the entries.
pub(super) fn read(
    environment: &[(OsString, OsString)],
    below: &Value,
    origins: &mut Origins,
    problems: &mut Vec<Problem>,
) -> EnvironmentLayer {
    let mut ours: Vec<(String, &OsString)> = environment
        .iter()
        .filter_map(|(name, value)| Some((name.to_str().filter(|name| name.starts_with(PREFIX))?.to_owned(), value)))
        .collect();
    // Numbers in their order, so that entry 9 is there before entry 10 is added behind it.
    ours.sort_by_cached_key(|(name, _)| (segments(name).into_iter().map(numbered).collect::<Vec<_>>(), name.clone()));
    let mut names = Names::of(below);
    let mut layer = EnvironmentLayer::default();
    for (variable, value) in ours {
        let label = format!("environment variable {variable}");
        let mut refuse = |key: &str, said: Option<&str>, expected: String, hint| {
            problems.push(Problem {
                severity: Severity::Error,
                place: Some(Place { source: label.clone(), line: None }),
                key: key.to_owned(),
                name: None,
                said: said.map(str::to_owned),
                expected,
                hint,
                may_pass: false,
            });
        };
        let Some(value) = value.to_str() else {
            refuse("", None, "is not UTF-8".to_owned(), None);
            continue;
        };
        match names.resolve(segments(&variable)) {
            Ok(steps) => {
                let origin = Origin { label: label.clone(), folder: PathBuf::new(), is_environment: true };
                let id = origins.add(origin);
                layer.settings.push((steps, Value::new(Some(&Origins::encode(id, None)), value)));
            }
            Err(Unresolved { key, said, expected, hint }) => refuse(&key, said.as_deref(), expected, hint),
        }
    }
    layer
}

fn segments(variable: &str) -> Vec<String> {
    let names = variable.strip_prefix(PREFIX).unwrap_or_default();
    names.splitn(MAX_SEGMENTS, "__").map(str::to_lowercase).collect()
}

fn numbered(segment: String) -> Step {
    segment.parse().map_or(Step::Key(segment), Step::Index)
}

/// Why the name of a variable leads nowhere.
struct Unresolved {
    key: String,
    said: Option<String>,
    expected: String,
    hint: Option<String>,
}

/// Names of the entries of each list, as they will be when the variables so far are applied.
struct Names(Vec<(&'static str, Vec<String>)>);

impl Names {
    fn of(root: &Value) -> Self {
        let name = |entry: &Value| as_text(as_table(entry)?.get("name")?).map(str::to_owned);
        let entries = |list: &str| {
            let entries = as_table(root).and_then(|root| as_list(root.get(list)?)).unwrap_or_default();
            entries.iter().map(|entry| name(entry).unwrap_or_default()).collect()
        };
        Self(LISTS.map(|list| (list, entries(list))).into())
    }

    /// Turns the segments of a name into a path.
    fn resolve(&mut self, segments: Vec<String>) -> Result<Vec<Step>, Unresolved> {
        if segments.iter().any(String::is_empty) {
            let expected =
                "expected names between the double underscores, as in TIDEGATE__STORE__DURABILITY".to_owned();
            return Err(Unresolved { key: String::new(), said: None, expected, hint: None });
        }
        let mut rest = segments.into_iter();
        let first = rest.next().unwrap_or_default();
        let mut steps = vec![Step::Key(first.clone())];
        // The next segment names an entry in lists only, so it is taken only there.
        if let Some((_, names)) = self.0.iter_mut().find(|(list, _)| **list == first)
            && let Some(entry) = rest.next()
        {
            steps.push(Step::Index(find_entry(&first, names, &entry)?));
        }
        steps.extend(rest.map(Step::Key));
        Ok(steps)
    }
}

fn find_entry(list: &str, names: &mut Vec<String>, entry: &str) -> Result<usize, Unresolved> {
    let as_variable = |name: &str| name.to_lowercase().replace(['-', '.'], "_");
    let matching: Vec<usize> = (0..names.len()).filter(|i| as_variable(&names[*i]) == as_variable(entry)).collect();
    let unresolved = |expected: String, hint| {
        Err(Unresolved { key: list.to_owned(), said: Some(format!("{entry:?}")), expected, hint })
    };
    match (matching.as_slice(), entry.parse::<usize>()) {
        ([index], _) => Ok(*index),
        ([], Ok(index)) if index < names.len() => Ok(index),
        ([], Ok(index)) if index == names.len() => {
            names.push(String::new());
            Ok(index)
        }
        ([], Ok(_)) => unresolved(format!("there are {} entries, so the next is {0}", names.len()), None),
        ([], Err(_)) => {
            let hint = nearest(entry, names.iter().map(String::as_str)).map(|near| format!("did you mean {near:?}?"));
            unresolved(format!("there is no {list} of this name; expected a name, or a number from 0"), hint)
        }
        (_, _) => unresolved("several have this name; use the number of one, counted from 0".to_owned(), None),
    }
}
