//! Where our layers keep their tree in the `config` crate's cache: as the only element of a list under one key.
//!
//! The crate takes every key at the top for a path expression (`"a.b"` becomes a table `a`) and builds tables anew when it
//! merges, so that they forget where they came from. What is in a list it leaves as it is.

use ::config::{ConfigError, Map, Value, ValueKind};

const KEY: &str = "tree";

/// The tree in a cache, made where it is not there yet. Always `Some` in a cache that only our layers filled.
pub(super) fn within(cache: &mut Value) -> Option<&mut Value> {
    let ValueKind::Table(table) = &mut cache.kind else { return None };
    let empty = || Value::new(None, ValueKind::Array(vec![Value::new(None, Map::<String, Value>::new())]));
    let ValueKind::Array(list) = &mut table.entry(KEY.to_owned()).or_insert_with(empty).kind else { return None };
    list.first_mut()
}

/// What one layer alone collects.
pub(super) fn collected(
    collect_to: impl FnOnce(&mut Value) -> Result<(), ConfigError>,
) -> Result<Map<String, Value>, ConfigError> {
    let mut cache = Value::new(None, Map::<String, Value>::new());
    collect_to(&mut cache)?;
    cache.into_table()
}

/// Takes the tree out of a cache.
pub(super) fn take(mut cache: Value) -> Value {
    let empty = Value::new(None, Map::<String, Value>::new());
    within(&mut cache).map_or_else(|| empty.clone(), |tree| std::mem::replace(tree, empty.clone()))
}
