use std::time::{Duration, Instant};

use super::Regex;

const STEPS: u64 = 10_000_000;

fn regex(pattern: &str) -> Regex {
    Regex::compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"))
}

#[test]
fn patterns_are_pcre_on_bytes() {
    for (pattern, matching, others) in [
        // Bytes, with the letters of Latin-1: "é" is C3 A9, "ê" is C3 AA, and only the latter are two letters there.
        ("^..$", vec!["é", "ab"], vec!["a", "éé"]),
        (r"^\w+$", vec!["word_1", "ê"], vec!["schön", "é", "two words"]),
        (r"^\xc3\xa9$", vec!["é"], vec!["ê"]),
        (r"^[[:upper:]]", vec!["A", "é"], vec!["a"]),
        (r"^\d{2}$", vec!["12"], vec!["٣٣"]),
        // UTF-8 where the pattern asks for it.
        ("(*UTF8)^.$", vec!["é", "€"], vec!["éé", ""]),
        ("(*UTF)^.$", vec!["é"], vec!["éé"]),
        (r"(*UTF8)^\p{L}+$", vec!["schön", "αβγ"], vec!["a1"]),
        (r"(*UTF8)(*UCP)^\w+$", vec!["schön"], vec!["a b"]),
        ("(*UTF8)(?i)^É$", vec!["é", "É"], vec!["e"]),
        (r"(*UTF8)^\x{20ac}$", vec!["€"], vec!["$"]),
        // Properties know the bytes as Latin-1 where the pattern does not ask for UTF-8.
        (r"^\p{L}+$", vec!["abc", "ê"], vec!["a1"]),
        (r"^\P{L}+$", vec!["123"], vec!["a"]),
        // Code points, octal, references, recursion, conditions, duplicate names.
        (r"^\x{41}\101\x41$", vec!["AAA"], vec!["AA"]),
        (r"^(a)\g{1}\g1\g{-1}$", vec!["aaaa"], vec!["aaa"]),
        (r"^(\((?:[^()]|(?1))*\))$", vec!["(a(b)c)"], vec!["(a(b c)"]),
        (r"^(?:\((?R)?\)|\(\))$", vec![], vec!["("]),
        (r"^(?<open>\()?a(?(open)\)|b)$", vec!["(a)", "ab"], vec!["(ab", "a)"]),
        (r"^(?J)(?:(?<n>a)|(?<n>b))\k<n>$", vec!["aa", "bb"], vec!["ab"]),
        (r"^(?|(a)|(b))\1$", vec!["aa", "bb"], vec!["ab"]),
        (r"^\Q(a)\E\h\R$", vec!["(a) \r\n"], vec!["a \n"]),
        ("^a++b", vec!["aab"], vec!["aa"]),
        ("(?x) a b # comment", vec!["ab"], vec!["a b"]),
        ("(*ANYCRLF)(?m)^b$", vec!["a\rb\rc"], vec!["ab"]),
    ] {
        let regex = regex(pattern);
        for (texts, wanted) in [(matching, true), (others, false)] {
            for text in texts {
                assert_eq!(regex.is_match(text, &mut { STEPS }), wanted, "{pattern} on {text:?}");
            }
        }
    }
}

#[test]
fn what_pcre_refuses_is_refused() {
    for (pattern, why) in [
        ("(", "closing parenthesis"),
        ("a**", "quantifier"),
        ("*a", "quantifier"),
        ("[[:bogus:]]", "POSIX class"),
        (r"\u0041", r"\u"),
        (r"\U", r"\U"),
        (r"\N{DOLLAR SIGN}", r"\N"),
        ("(?R)", "loop"),
        ("(?R)?a", "loop"),
        ("a|(?R)|b", "loop"),
        (r"(\g<1>)", "loop"),
        (r"\p{Bogus}", "property"),
        ("(?<n>a)(?<n>b)", "same name"),
        (r"\2(a)", "reference"),
        ("(?<=a+)b", "lookbehind"),
        ("[b-a]", "range"),
        ("(*BOGUS)a", "VERB"),
        ("(?:abc){9000}", "too large"),
        (&"x".repeat(65_537), "too large"),
        (&"(".repeat(60_000), "nested"),
    ] {
        let error = Regex::compile(pattern).expect_err(pattern);
        assert!(error.contains(why), "{:.20}: {error}", pattern);
    }
    // It consumes a byte before it calls itself.
    assert!(Regex::compile(r"a(?R)?b").is_ok());
}

/// A hyphen after a set of characters in a class is itself, as in PCRE 8; PCRE2 refuses it. A hyphen before one is refused by
/// both. The texts are the characters that match.
#[test]
fn a_hyphen_after_a_set_is_itself() {
    let all = "a-.z@ ]w\\19QE_\n";
    for (class, wanted) in [
        (r"[\w-.]", "a-.zw19QE_"),
        (r"[\w-\.]", "a-.zw19QE_"),
        (r"[\d-z]", "-z19"),
        (r"[[:alpha:]-1]", "a-zw1QE"),
        (r"[[:alpha:]-[:digit:]]", "a-zw19QE"),
        (r"[\w-\d]", "a-zw19QE_"),
        (r"[\w-a-z]", "a-zw19QE_"),
        (r"[^\w-.]", "@ ]\\\n"),
        (r"[]\d-.]", "-.]19"),
        (r"[^]\d-.]", "az@ w\\QE_\n"),
        (r"[\d\Q-\E.]", "-.19"),
        (r"[\d-\Q.\E]", "-.19"),
        (r"[\E\d-\E.]", "-.19"),
        (r"(?x)[\d-.] # [\d-.]", "-.19"),
        (r"(?xx)[\d -.]", "-.19"),
        (r"(?#[\d-.])[\d-.]", "-.19"),
        (r"\Q[\d-.]\E|[\d-a]", "a-19"),
        (r"[\d--]", "-19"),
        (r"[\d--w]", "a-.@]w\\19QE_"),
        (r"[\s-x]", "- \n"),
        (r"[\p{L}-9]", "a-zw9QE"),
        (r"(*UTF8)é?[\p{L}-ü]", "a-zwQE"),
        (r"[[:^alnum:]-1]", "-.@ ]\\1_\n"),
        (r"[\d-\x41]", "-19"),
    ] {
        let regex = regex(class);
        let found: String = all.chars().filter(|one| regex.is_match(&one.to_string(), &mut { STEPS })).collect();
        let sorted = |text: &str| text.chars().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(sorted(&found), sorted(wanted), "{class}");
    }
    let mail = regex(r"^[\w-\.]+@([\w-]+\.)+[\w-]{2,4}$");
    assert!(mail.is_match("a.b-c@d-e.org", &mut { STEPS }) && !mail.is_match("a b@d.org", &mut { STEPS }));
    assert_eq!(mail.source(), r"^[\w-\.]+@([\w-]+\.)+[\w-]{2,4}$");
    for refused in [
        r"[a-\w]",
        "[a-[:digit:]]",
        r"[a-\d-z]",
        r"[\Q\w\E-.]",
        r"[\b-\w]",
        r"[\w-.",
        r"[\w-.]{3}**",
        "[[:bogus:]-z]",
        r"[\w-[.x.]]",
        r"[\w-z-a]",
        &r"[\w-.]".repeat(101),
    ] {
        assert!(Regex::compile(refused).is_err(), "{refused}");
    }
    assert!(Regex::compile(&r"[\w-.]".repeat(100)).is_ok());
}

/// An alternation of words, too long to have a callout before each letter.
#[test]
fn large_patterns_match() {
    let words: Vec<String> = (0..3000).map(|number| format!("word{number}")).collect();
    let large = regex(&format!("^(?:{})$", words.join("|")));
    assert!(!large.weights.is_counted && regex("^a").weights.is_counted);
    for (text, wanted) in [("word2999", true), ("word0", true), ("word3000", false), ("", false)] {
        assert_eq!(large.is_match(text, &mut { STEPS }), wanted, "{text}");
    }
    let anywhere = regex(&format!("(*UTF8){}", words.join("|")));
    assert!(!anywhere.weights.is_counted && anywhere.is_match("another word1234 é", &mut { STEPS }));
}

/// Patterns that need very many steps, each in a way that one part of the count covers. They end with a class: PCRE2
/// looks first for a single letter that every match needs.
#[test]
fn a_match_takes_bounded_time() {
    let a = |length: usize| "a".repeat(length);
    let names = format!("[{}]*+[xy]", r"\p{Lu}".repeat(5000));
    let words = format!("(?:{})*[xy]", vec![r"(a+)+"; 4000].join("|"));
    for (pattern, text) in [
        ("(a+)+[xy]", a(100_000)),
        ("(a|aa)+[xy]", a(1000)),
        ("(a|a)*[xy]", a(100_000)),
        (r"^(?=(a+)+[xy])\1", a(100_000)),
        (r"(a*)*\1[xy]", a(100_000)),
        // A start at every position.
        ("a.*[ab].*[xy]", a(1_000_000)),
        (".*?.*?.*?[xy]", a(100_000)),
        ("(?:a.*[xy]|[ab].*[xy])", a(4_000_000)),
        // An item that reads much in vain.
        ("(?:a{60000}[xy]|a{59999}[xy]|a{59998}[xy]|.)*[xy]", a(59_999)),
        (r"(a{20000})(?:\1[xy]|\1[xz]|.)*[xy]", a(100_000)),
        ("(?:[^c]*+[xy]|.)*[xy]", a(100_000)),
        ("(?i)a.*?B", format!("{}B", "A".repeat(1_000_000))),
        (&names, "é".repeat(50_000)),
        (&words, a(10_000)),
        // Recursion, and memory for backtracking.
        (r"^(a(?1)?a)+$", a(100_001)),
        (r"(?:(?:a)|(?:b))*[xy]", a(4_000_000)),
    ] {
        let regex = regex(pattern);
        let mut steps = STEPS;
        let started = Instant::now();
        regex.is_match(&text, &mut steps);
        let took = started.elapsed();
        println!("{pattern:.30}: {took:?}, {steps} steps left");
        // Some 0.1 s in an optimized build.
        assert!(took < Duration::from_secs(20), "{pattern:.30} took {took:?}");
    }
}

/// References and counted repetitions, on texts as long as notes are.
#[test]
fn ordinary_patterns_have_enough_steps() {
    let prose = "The quick brown fox jumps over the lazy dog. ".repeat(500);
    for (pattern, wanted) in [
        (r"(\w+) \1", false),
        (r"(\w)\1\w+ (?:fox|dogs)", false),
        (r"\b[a-z]{3,30}ed\b", false),
        (r"(?i)LAZY  DOG", false),
        (r"^(?=.*fox)(?=.*dog)(?!.*cat)", true),
        (r"(?s)^.*lazy.*\z", true),
        (r"(?:[A-Z][a-z]+ )(?:\w+ )*wolf", false),
    ] {
        let mut steps = STEPS;
        assert_eq!(regex(pattern).is_match(&prose, &mut steps), wanted, "{pattern}");
        println!("{pattern}: {} steps", STEPS - steps);
        assert!(steps > 0, "{pattern} used up its steps");
    }
}

#[test]
fn steps_are_taken_from_those_of_the_document() {
    let mut steps = 1000;
    assert!(regex("^[a-z]+$").is_match("abc", &mut steps));
    assert!((900..1000).contains(&steps), "{steps}");
    assert!(!regex("(a+)+[xy]").is_match(&"a".repeat(100), &mut steps));
    assert_eq!(steps, 0);
    assert!(!regex("a").is_match("a", &mut steps), "no steps are left");
}
