//! The subscription index: which subscribers want this topic. Pure.

use std::collections::HashMap;

use crate::topic::{TopicFilter, TopicName};

/// A trie over topic levels. A lookup costs one hash per level of the topic plus the wildcard branches that exist;
/// it visits no node twice, so no set of filters makes it explode.
#[derive(Debug)]
pub(super) struct Index<T> {
    root: Node<T>,
    len: usize,
    /// Bytes of the filters of all subscriptions.
    filter_bytes: usize,
    /// Nodes below the root.
    nodes: usize,
}

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Box<str>, Node<T>>,
    plus: Option<Box<Node<T>>>,
    /// Filters that end here.
    exact: Vec<T>,
    /// Filters that end here with a `#`.
    hash: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), plus: None, exact: Vec::new(), hash: Vec::new() }
    }
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0, filter_bytes: 0, nodes: 0 }
    }
}

impl<T> Index<T> {
    /// Number of subscriptions.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is a filter whose first level is this one, wildcards apart.
    pub(super) fn has_branch(&self, level: &str) -> bool {
        self.root.children.contains_key(level)
    }

    /// Bytes of the filters of all subscriptions.
    pub(super) fn filter_bytes(&self) -> usize {
        self.filter_bytes
    }

    /// Nodes of the trie.
    pub(super) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Enters a subscription; one for which `same` says yes is replaced and given back.
    pub(super) fn insert(&mut self, filter: &TopicFilter, entry: T, same: impl Fn(&T) -> bool) -> Option<T> {
        let entries = self.root.entries(filter.as_str(), &mut self.nodes);
        if let Some(old) = entries.iter_mut().find(|old| same(old)) {
            return Some(std::mem::replace(old, entry));
        }
        entries.push(entry);
        self.filter_bytes += filter.as_str().len();
        self.len += 1;
        None
    }

    /// Removes the subscription for which `same` says yes, and every node that nothing needs any more.
    pub(super) fn remove(&mut self, filter: &TopicFilter, same: impl Fn(&T) -> bool) -> Option<T> {
        let removed = self.root.remove(Some(filter.as_str()), &same, &mut self.nodes)?;
        self.len -= 1;
        self.filter_bytes -= filter.as_str().len();
        Some(removed)
    }

    /// The subscription to this very filter for which `same` says yes.
    pub(super) fn get(&self, filter: &TopicFilter, same: impl Fn(&T) -> bool) -> Option<&T> {
        let mut node = &self.root;
        for level in filter.as_str().split('/') {
            node = match level {
                "#" => return node.hash.iter().find(|entry| same(entry)),
                "+" => node.plus.as_deref()?,
                _ => node.children.get(level)?,
            };
        }
        node.exact.iter().find(|entry| same(entry))
    }

    /// The same, to change it.
    pub(super) fn get_mut(&mut self, filter: &TopicFilter, same: impl Fn(&T) -> bool) -> Option<&mut T> {
        let mut node = &mut self.root;
        for level in filter.as_str().split('/') {
            node = match level {
                "#" => return node.hash.iter_mut().find(|entry| same(entry)),
                "+" => node.plus.as_deref_mut()?,
                _ => node.children.get_mut(level)?,
            };
        }
        node.exact.iter_mut().find(|entry| same(entry))
    }

    /// Calls `found` for every subscription that matches, in no particular order.
    pub(super) fn matches<'i>(&'i self, topic: &TopicName, mut found: impl FnMut(&'i T)) {
        let topic = topic.as_str();
        if topic.starts_with('$') {
            let (head, tail) = split(topic);
            if let Some(child) = self.root.children.get(head) {
                child.walk(tail, &mut found);
            }
        } else {
            self.root.walk(Some(topic), &mut found);
        }
    }
}

fn split(rest: &str) -> (&str, Option<&str>) {
    match rest.split_once('/') {
        Some((head, tail)) => (head, Some(tail)),
        None => (rest, None),
    }
}

impl<T> Node<T> {
    fn entries(&mut self, filter: &str, nodes: &mut usize) -> &mut Vec<T> {
        let mut node = self;
        for level in filter.split('/') {
            node = match level {
                "#" => return &mut node.hash,
                "+" => {
                    *nodes += usize::from(node.plus.is_none());
                    node.plus.get_or_insert_default()
                }
                _ => node.children.entry(level.into()).or_insert_with(|| {
                    *nodes += 1;
                    Node::default()
                }),
            };
        }
        &mut node.exact
    }

    fn remove(&mut self, rest: Option<&str>, same: &impl Fn(&T) -> bool, nodes: &mut usize) -> Option<T> {
        let Some(rest) = rest else { return take(&mut self.exact, same) };
        let (head, tail) = split(rest);
        match head {
            "#" => take(&mut self.hash, same),
            "+" => {
                let plus = self.plus.as_mut()?;
                let removed = plus.remove(tail, same, nodes);
                if plus.is_unused() {
                    *nodes -= 1;
                    self.plus = None;
                }
                removed
            }
            _ => {
                let child = self.children.get_mut(head)?;
                let removed = child.remove(tail, same, nodes);
                if child.is_unused() {
                    *nodes -= 1;
                    self.children.remove(head);
                    if self.children.is_empty() {
                        self.children = HashMap::new();
                    }
                }
                removed
            }
        }
    }

    fn is_unused(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.exact.is_empty() && self.hash.is_empty()
    }

    fn walk<'i>(&'i self, rest: Option<&str>, found: &mut impl FnMut(&'i T)) {
        self.hash.iter().for_each(&mut *found);
        let Some(rest) = rest else { return self.exact.iter().for_each(found) };
        let (head, tail) = split(rest);
        if let Some(plus) = &self.plus {
            plus.walk(tail, found);
        }
        if !self.children.is_empty()
            && let Some(child) = self.children.get(head)
        {
            child.walk(tail, found);
        }
    }
}

fn take<T>(entries: &mut Vec<T>, same: &impl Fn(&T) -> bool) -> Option<T> {
    let at = entries.iter().position(same)?;
    let taken = entries.swap_remove(at);
    if entries.is_empty() {
        *entries = Vec::new();
    }
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_index_finds_exactly_the_filters_that_match(
            filters in proptest::collection::hash_set("(\\$x|[ab+])?(/[ab+]?){0,3}(/#)?", 0..20),
            topics in proptest::collection::vec("(\\$x|[ab])?(/[ab]?){0,3}", 1..10),
            removed in 0..10usize,
        ) {
            let mut filters: Vec<TopicFilter> = filters.into_iter().filter_map(|f| TopicFilter::new(f).ok()).collect();
            let mut index = Index::default();
            for filter in &filters {
                prop_assert!(index.insert(filter, filter.clone(), |other| other == filter).is_none());
                prop_assert!(index.insert(filter, filter.clone(), |other| other == filter).is_some());
                prop_assert_eq!(index.get(filter, |_| true), Some(filter));
                prop_assert_eq!(index.get_mut(filter, |other| other != filter), None);
            }
            for filter in filters.drain(..removed.min(filters.len())) {
                prop_assert_eq!(index.remove(&filter, |other| *other == filter), Some(filter.clone()));
                prop_assert!(index.remove(&filter, |other| *other == filter).is_none());
                prop_assert_eq!(index.get(&filter, |_| true), None);
            }
            prop_assert_eq!(index.len(), filters.len());
            for topic in topics.into_iter().filter_map(|t| TopicName::new(t).ok()) {
                let mut found: Vec<&TopicFilter> = Vec::new();
                index.matches(&topic, |filter| found.push(filter));
                let mut wanted: Vec<&TopicFilter> = filters.iter().filter(|f| f.matches(&topic)).collect();
                found.sort();
                wanted.sort();
                prop_assert_eq!(found, wanted, "{}", topic);
            }
            for filter in &filters {
                index.remove(filter, |other| other == filter);
            }
            prop_assert!(index.root.is_unused());
            prop_assert_eq!((index.len, index.filter_bytes, index.nodes), (0, 0, 0));
        }
    }
}
