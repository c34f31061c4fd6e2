//! The nearest known word for a misspelt one.

/// The known word that `said` most likely was meant to be: at most one mistake in three letters, two at least.
pub(super) fn nearest<'k>(said: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // The distance is quadratic in the length, and no word of ours comes near this.
    if said.len() > 64 {
        return None;
    }
    let said = said.to_lowercase().replace('-', "_");
    let distance = |word: &str| strsim::osa_distance(&said, &word.to_lowercase().replace('-', "_"));
    let allowed = |word: &str| (said.len().max(word.len()) / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|word| (distance(word), word))
        .filter(|(distance, word)| *distance <= allowed(word) || (word.len() > 3 && said.starts_with(*word)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn misspelt_words_find_their_neighbour_and_strange_ones_do_not() {
        let known = ["durability", "commit_delay", "max_bytes", "min_free", "qos", "to", "bind"];
        let table = [
            ("durabilty", Some("durability")),
            ("commit-delay", Some("commit_delay")),
            ("commitDelay", Some("commit_delay")),
            ("MAX_BYTES", Some("max_bytes")),
            ("max_byte", Some("max_bytes")),
            ("qso", Some("qos")),
            ("binds", Some("bind")),
            ("bindaddress", Some("bind")),
            ("colour", None),
            ("", None),
        ];
        for (said, expected) in table {
            assert_eq!(nearest(said, known), expected, "{said}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }
}
