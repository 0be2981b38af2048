//! Generates passwords and passphrases for people to type: letters and digits that are not mistaken for one another, in groups.

/// Crockford's alphabet in lower case: without i, l, o and u.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// How long a text is. A character has 5 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// 100 bits: against attacks on its hash.
    Password,
    /// 80 bits: for what is shown for a moment and stretched by PBKDF2.
    Link,
}

/// Generates a password.
pub fn generated_password(length: Length) -> String {
    let groups = match length {
        Length::Password => 5,
        Length::Link => 4,
    };
    let mut random = [0; 32];
    getrandom::fill(&mut random).expect("the system has random numbers");
    let letters: Vec<u8> = random.iter().map(|byte| ALPHABET[usize::from(byte % 32)]).collect();
    let groups: Vec<String> =
        letters.chunks(4).take(groups).map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_long_and_differ() {
        let (one, two) = (generated_password(Length::Password), generated_password(Length::Password));
        assert_ne!(one, two);
        assert_eq!((one.len(), generated_password(Length::Link).len()), (24, 19));
        assert!(one.bytes().all(|byte| byte == b'-' || ALPHABET.contains(&byte)), "{one}");
    }
}
