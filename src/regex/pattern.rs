//! What is read from the text of a pattern: its verbs, and what one step of a match may cost.

/// Steps for each item of a pattern that is tried.
const ITEM: u64 = 4;
/// Bytes that cost one step to read.
const BYTES: u64 = 16;
/// PCRE2's limit for one starting position, of a pattern whose items are counted.
const COUNTED_LIMIT: u32 = 10_000_000;

/// What makes the items of a pattern costly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Weights {
    /// Whether the pattern may ignore case. PCRE2 looks for a letter that a match needs in both cases, and may read
    /// the whole text again at each starting position; such a pattern is compiled without that.
    pub(super) ignores_case: bool,
    /// Whether the pattern refers to what its groups matched. Comparing that reads up to the whole text.
    pub(super) has_references: bool,
    /// Whether there is a callout before every item, and not only at the start.
    pub(super) is_counted: bool,
    /// The highest count of a repetition: so many bytes are read before it fails.
    repetition: u64,
    /// 1, and the number of escapes and class names: properties of a class are tried one after the other for each
    /// byte.
    properties: u64,
}

/// What a match costs, in steps.
pub(super) struct Costs {
    /// Once, for reading the text.
    pub(super) text: u64,
    /// For each callout.
    pub(super) callout: u64,
    /// For each 16 bytes between two callouts.
    pub(super) move_weight: u64,
    /// Whether the bytes of the longest group count for each callout, too: a reference may have compared them in vain.
    pub(super) counts_groups: bool,
    /// PCRE2's own limit for each starting position.
    pub(super) limit: u32,
}

impl Costs {
    /// The steps of a callout, if the items before it read so many bytes.
    pub(super) fn of_callout(&self, bytes: usize) -> u64 {
        self.callout + bytes as u64 * self.move_weight / BYTES
    }
}

impl Weights {
    /// The costs of a match of a pattern of `source` bytes with a text of `text` bytes.
    pub(super) fn costs(&self, source: usize, text: usize) -> Costs {
        let (source, text) = (source as u64, text as u64);
        let (callout, limit) = if self.is_counted {
            (ITEM + text.min(self.repetition) * self.properties / BYTES, COUNTED_LIMIT)
        } else {
            // No more attempts than the pattern has bytes, and each may read the text.
            let attempts = source + 1000;
            (attempts / BYTES * (1 + text * self.properties / 256), attempts as u32)
        };
        let counts_groups = self.is_counted && self.has_references;
        Costs { text: 1 + text / BYTES, callout, move_weight: self.properties, counts_groups, limit }
    }
}

/// The length of the verbs at the start of a pattern, such as `(*UTF8)`.
fn leading_verbs(pattern: &str) -> usize {
    let mut length = 0;
    while pattern[length..].starts_with("(*") {
        let Some(end) = pattern[length..].find(')') else { break };
        let verb = &pattern[length + 2..length + end];
        if !verb.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"_=".contains(&byte)) {
            break;
        }
        length += end + 1;
    }
    length
}

/// The pattern in the words of PCRE2: `(*UTF8)`, which older versions of Erlang have, is `(*UTF)`.
pub(super) fn translated(pattern: &str) -> String {
    let (verbs, rest) = pattern.split_at(leading_verbs(pattern));
    verbs.replace("(*UTF8)", "(*UTF)") + rest
}

/// The pattern with a callout at its start, which is passed at each starting position.
pub(super) fn counting_starts(pattern: &str) -> String {
    let (verbs, rest) = pattern.split_at(leading_verbs(pattern));
    format!("{verbs}(?C1){rest}")
}

/// Whether a group of the pattern calls another, or the whole pattern.
pub(super) fn has_recursion(pattern: &str) -> bool {
    let calls = |after: &str| {
        let after = after.trim_start_matches(['+', '-']);
        after.starts_with(|first: char| first == 'R' || first == '&' || first.is_ascii_digit())
            || after.starts_with("P>")
    };
    pattern.match_indices("(?").any(|(at, open)| calls(&pattern[at + open.len()..]))
        || ["\\g<", "\\g'"].iter().any(|call| pattern.contains(call))
}

/// Reads the weights of a pattern, those that its text shows.
pub(super) fn weights(pattern: &str) -> Weights {
    Weights {
        ignores_case: ignores_case(pattern),
        has_references: false,
        is_counted: false,
        repetition: highest_repetition(pattern),
        properties: 1 + pattern.bytes().filter(|&byte| byte == b'\\').count() as u64 + class_names(pattern),
    }
}

fn class_names(pattern: &str) -> u64 {
    pattern.matches("[:").count() as u64
}

/// Whether options within the pattern contain `i`: `(?i)`, `(?i:...)`, `(?si)`.
fn ignores_case(pattern: &str) -> bool {
    let has_option = |after: &str| {
        let options = after.find(|option: char| !(option.is_ascii_alphabetic() || "^-".contains(option)));
        after[..options.unwrap_or(after.len())].contains('i')
    };
    pattern.match_indices("(?").any(|(at, open)| has_option(&pattern[at + open.len()..]))
}

/// The highest number after a `{`, which may open a repetition.
fn highest_repetition(pattern: &str) -> u64 {
    let number = |after: &str| {
        let after = after.trim_start();
        let end = after.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(after.len());
        after[..end.min(5)].parse().unwrap_or(0)
    };
    pattern.match_indices('{').map(|(at, _)| number(&pattern[at + 1..])).max().unwrap_or(0)
}
