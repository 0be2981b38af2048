//! Encryption at rest: the keys of a data folder, and the encryption of values and attachments. The cipher is
//! always XChaCha20-Poly1305. To "seal" means to encrypt and authenticate.
//!
//! ```text
//! the owner's key ── seals ──► the folder's keys, in format.toml (the `Envelope`):
//!                                data  ──► HMAC "values"      seals values (associated data: the entry's
//!                                key)
//!                                     └──► HMAC "attachments" seals attachments in blocks
//!                                names ──► HMAC of an attachment's SHA-256: the attachment's name
//! ```
//!
//! The folder's keys are random and are stored nowhere else. To change the owner's key or the data key, the
//! folder is rewritten (see `rewrite`). `names` does not change as long as the folder is encrypted, because
//! document bodies refer to attachments by name.
//!
//! A nonce has 24 bytes: random for values; 19 random bytes, a counter and a flag for streams. The
//! probability that a nonce repeats is negligible.
//!
//! A networked engine must find out whether a stored value is still the expected one without opening it. There, the
//! nonce of a value is derived from the entry's key and the value (as in SIV): in one entry, equal values have the
//! same ciphertext, and different values have different nonces. An attacker who compares two states of such a store
//! sees which entries are the same.

use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::master_key::{Key, base64, derive, random};

const NONCE: usize = 24;
/// Size of a sealed block in addition to its content, in bytes.
pub(crate) const TAG: usize = 16;
/// Size of a sealed value in addition to the value, in bytes.
pub(crate) const OVERHEAD: usize = NONCE + TAG;
/// Size of the content of a block of a stream, in bytes.
pub(crate) const BLOCK: usize = 64 << 10;
/// Length of the random prefix of a stream's nonces, in bytes.
pub(crate) const PREFIX: usize = 19;

type Bytes32 = Zeroizing<[u8; 32]>;

fn aead(key: &Bytes32) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&**key).into())
}

/// Encrypts `buffer` in place and returns the tag. Panics only above 256 GiB, which no caller reaches.
fn seal_in_place(aead: &XChaCha20Poly1305, nonce: &[u8; NONCE], data: &[u8], buffer: &mut [u8]) -> [u8; TAG] {
    let nonce: &XNonce = nonce.into();
    aead.encrypt_inout_detached(nonce, data, buffer.into()).expect("no value is so long").into()
}

fn open_in_place(
    aead: &XChaCha20Poly1305,
    nonce: &[u8; NONCE],
    data: &[u8],
    buffer: &mut [u8],
    tag: &[u8; TAG],
) -> Option<()> {
    let nonce: &XNonce = nonce.into();
    aead.decrypt_inout_detached(nonce, data, buffer.into(), tag.into()).ok()
}

/// The keys of one data folder.
#[derive(Clone)]
pub(crate) struct FolderKeys {
    data: Bytes32,
    names: Bytes32,
}

impl FolderKeys {
    pub fn generate() -> FolderKeys {
        FolderKeys { data: random(), names: random() }
    }

    /// Generates a new data key and keeps the key of the names, so that the attachments of the folder keep
    /// their names.
    pub fn renewed(&self) -> FolderKeys {
        FolderKeys { data: random(), names: self.names.clone() }
    }

    /// Seals the keys with the owner's key.
    pub fn envelope(&self, key: &Key) -> Envelope {
        let id = key.id();
        let nonce = random::<NONCE>();
        let mut keys = Zeroizing::new([0; 64]);
        keys[..32].copy_from_slice(&*self.data);
        keys[32..].copy_from_slice(&*self.names);
        let tag = seal_in_place(&aead(&key.derive(WRAPS)), &nonce, id.as_bytes(), &mut *keys);
        let sealed = base64(&STANDARD).encode([&nonce[..], &keys[..], &tag[..]].concat());
        Envelope { key: id, sealed }
    }

    /// The cipher of the values.
    pub fn values(&self) -> Cipher {
        Cipher { aead: aead(&derive(&self.data, b"values")), nonces: Mutex::new(Nonces::new()), derived: None }
    }

    /// The cipher of the values of a networked engine: in one entry, equal values have the same ciphertext.
    pub fn comparable_values(&self) -> Cipher {
        Cipher { derived: Some(derive(&self.data, b"nonces")), ..self.values() }
    }

    /// The keys of the attachments.
    pub fn attachments(&self) -> BlobKeys {
        BlobKeys { aead: aead(&derive(&self.data, b"attachments")), names: self.names.clone() }
    }
}

const WRAPS: &[u8] = b"settee folder keys 1";

/// The sealed keys of a folder, as stored in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// The id of the owner's key that opens the envelope.
    pub key: String,
    /// Nonce, keys and tag in base64.
    pub sealed: String,
}

impl Envelope {
    /// Returns the folder's keys, or `None` if `key` is the wrong key or the envelope is damaged.
    pub fn open(&self, key: &Key) -> Option<FolderKeys> {
        let sealed = base64(&STANDARD).decode(&self.sealed).ok()?;
        let (nonce, rest) = sealed.split_first_chunk()?;
        let (inner, tag) = rest.split_last_chunk()?;
        let mut keys: Zeroizing<[u8; 64]> = Zeroizing::new(inner.try_into().ok()?);
        open_in_place(&aead(&key.derive(WRAPS)), nonce, self.key.as_bytes(), &mut *keys, tag)?;
        let (data, names) = keys.split_at(32);
        Some(FolderKeys { data: Zeroizing::new(data.try_into().ok()?), names: Zeroizing::new(names.try_into().ok()?) })
    }
}

impl fmt::Display for Envelope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.key, self.sealed)
    }
}

/// Encrypts and decrypts values.
pub(crate) struct Cipher {
    aead: XChaCha20Poly1305,
    nonces: Mutex<Nonces>,
    /// The key that nonces are derived with. `None`: they are random.
    derived: Option<Bytes32>,
}

/// Random bytes for 64 nonces, so that 64 values cost one system call.
struct Nonces {
    bytes: Zeroizing<[u8; 64 * NONCE]>,
    used: usize,
}

impl Nonces {
    fn new() -> Nonces {
        Nonces { bytes: Zeroizing::new([0; 64 * NONCE]), used: 64 * NONCE }
    }

    fn next(&mut self) -> [u8; NONCE] {
        if self.used == self.bytes.len() {
            self.bytes = random();
            self.used = 0;
        }
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&self.bytes[self.used..self.used + NONCE]);
        self.used += NONCE;
        nonce
    }
}

impl Cipher {
    fn nonce(&self, key: &[u8], value: &[u8]) -> [u8; NONCE] {
        let Some(secret) = &self.derived else { return self.nonces.lock().next() };
        let length = (key.len() as u64).to_le_bytes();
        let digest = derive(secret, &[&length[..], key, value].concat());
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&digest[..NONCE]);
        nonce
    }

    /// Appends the nonce, the encrypted value and the tag to `onto`. `key` is the key of the entry.
    pub fn seal(&self, key: &[u8], value: &[u8], onto: &mut Vec<u8>) {
        let nonce = self.nonce(key, value);
        onto.extend_from_slice(&nonce);
        let start = onto.len();
        onto.extend_from_slice(value);
        let tag = seal_in_place(&self.aead, &nonce, key, &mut onto[start..]);
        onto.extend_from_slice(&tag);
    }

    /// Returns the value, or `None` if it was not sealed by this cipher for this key of an entry.
    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk()?;
        let (inner, tag) = rest.split_last_chunk()?;
        let mut value = inner.to_vec();
        open_in_place(&self.aead, nonce, key, &mut value, tag)?;
        Some(value)
    }
}

/// Encrypts attachments and computes their names.
#[derive(Clone)]
pub(crate) struct BlobKeys {
    aead: XChaCha20Poly1305,
    names: Bytes32,
}

impl BlobKeys {
    /// The name of the attachment whose content has this SHA-256. The hash is keyed, so that names do not
    /// reveal whether the folder contains a known file.
    pub fn name(&self, digest: &[u8; 32]) -> [u8; 32] {
        *derive(&self.names, digest)
    }

    /// Begins a new stream with a random prefix.
    pub fn stream(&self) -> Stream {
        self.resume(*random())
    }

    /// Returns the stream with this prefix, to read it.
    pub fn resume(&self, prefix: [u8; PREFIX]) -> Stream {
        Stream { aead: self.aead.clone(), prefix }
    }
}

/// The kind of a block of a stream; part of its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Part {
    /// A block before the last.
    Inner = 0,
    /// The last block.
    Last = 1,
    /// Data about the stream as a whole.
    About = 2,
}

/// Encrypts a stream in blocks that can be opened individually, while moved, missing or truncated blocks are
/// detected: the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár.
pub(crate) struct Stream {
    aead: XChaCha20Poly1305,
    pub prefix: [u8; PREFIX],
}

impl Stream {
    /// A stream with its own key, which makes a random prefix unnecessary.
    pub fn under(key: &Bytes32) -> Stream {
        Stream { aead: aead(key), prefix: [0; PREFIX] }
    }

    fn nonce(&self, index: u32, part: Part) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        nonce[..PREFIX].copy_from_slice(&self.prefix);
        nonce[PREFIX..NONCE - 1].copy_from_slice(&index.to_be_bytes());
        nonce[NONCE - 1] = part as u8;
        nonce
    }

    /// Encrypts a block in place and appends the tag. The caller must use each (index, part) only once.
    pub fn seal(&self, index: u32, part: Part, data: &[u8], block: &mut Vec<u8>) {
        let tag = seal_in_place(&self.aead, &self.nonce(index, part), data, block);
        block.extend_from_slice(&tag);
    }

    /// Decrypts a block in place and removes the tag. If it is not the block with this index and part,
    /// returns `None` and clears `block`.
    pub fn open(&self, index: u32, part: Part, data: &[u8], block: &mut Vec<u8>) -> Option<()> {
        let (content, tag) = block.split_last_chunk_mut()?;
        let (length, tag) = (content.len(), *tag);
        let opened = open_in_place(&self.aead, &self.nonce(index, part), data, content, &tag);
        block.truncate(if opened.is_some() { length } else { 0 });
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_opens_only_with_its_key() {
        let (key, keys) = (Key::generate(), FolderKeys::generate());
        let envelope = keys.envelope(&key);
        let opened = envelope.open(&key).unwrap();
        assert_eq!((*opened.data, *opened.names), (*keys.data, *keys.names));
        assert!(envelope.open(&Key::generate()).is_none());
        for at in 0..envelope.sealed.len() {
            let mut sealed = envelope.sealed.clone().into_bytes();
            sealed[at] = if sealed[at] == b'A' { b'B' } else { b'A' };
            let turned = Envelope { sealed: String::from_utf8(sealed).unwrap(), ..envelope.clone() };
            assert!(turned.open(&key).is_none(), "{at}");
        }
        assert!(Envelope { key: Key::generate().id(), ..envelope.clone() }.open(&key).is_none());
        assert_ne!(keys.envelope(&key), envelope, "never the same nonce");
    }

    #[test]
    fn a_value_opens_only_under_its_own_key() {
        let cipher = FolderKeys::generate().values();
        let sealed = |key: &[u8], value: &[u8]| {
            let mut sealed = Vec::new();
            cipher.seal(key, value, &mut sealed);
            sealed
        };
        for value in [&b""[..], b"value", &[7; 100_000]] {
            let one = sealed(b"key", value);
            assert_eq!(one.len(), value.len() + OVERHEAD);
            assert_eq!(cipher.open(b"key", &one).as_deref(), Some(value));
            assert_ne!(one, sealed(b"key", value), "the same value is never sealed alike");
            assert_eq!(cipher.open(b"kez", &one), None);
            assert_eq!(FolderKeys::generate().values().open(b"key", &one), None);
        }
        let one = sealed(b"key", b"value");
        for bit in 0..one.len() * 8 {
            let mut turned = one.clone();
            turned[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(cipher.open(b"key", &turned), None, "bit {bit}");
        }
        for length in 0..one.len() {
            assert_eq!(cipher.open(b"key", &one[..length]), None);
        }
    }

    #[test]
    fn a_networked_engine_can_compare_sealed_values() {
        let keys = FolderKeys::generate();
        let sealed = |key: &[u8], value: &[u8]| {
            let mut sealed = Vec::new();
            keys.comparable_values().seal(key, value, &mut sealed);
            sealed
        };
        let one = sealed(b"key", b"value");
        assert_eq!(one, sealed(b"key", b"value"));
        assert_ne!(one[..NONCE], sealed(b"key", b"valuf")[..NONCE]);
        assert_ne!(one[..NONCE], sealed(b"ke", b"yvalue")[..NONCE]);
        assert_eq!(keys.values().open(b"key", &one).as_deref(), Some(&b"value"[..]));
    }

    #[test]
    fn nonces_are_unique() {
        let mut nonces = Nonces::new();
        let mut seen: Vec<_> = (0..1000).map(|_| nonces.next()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn blocks_of_a_stream_open_only_in_their_place() {
        let keys = FolderKeys::generate().attachments();
        let stream = keys.stream();
        let mut block = b"content".to_vec();
        stream.seal(3, Part::Inner, b"", &mut block);
        let open = |stream: &Stream, index, part, data: &[u8]| {
            let mut opened = block.clone();
            stream.open(index, part, data, &mut opened).map(|()| opened)
        };
        let again = keys.resume(stream.prefix);
        assert_eq!(open(&again, 3, Part::Inner, b"").as_deref(), Some(&b"content"[..]));
        assert_eq!(open(&again, 2, Part::Inner, b""), None);
        assert_eq!(open(&again, 3, Part::Last, b""), None);
        assert_eq!(open(&again, 3, Part::Inner, b"x"), None);
        assert_eq!(open(&keys.stream(), 3, Part::Inner, b""), None);
        let mut damaged = block.clone();
        damaged[0] ^= 1;
        assert_eq!(again.open(3, Part::Inner, b"", &mut damaged), None);
        assert!(damaged.is_empty());
        assert_eq!(stream.open(0, Part::Inner, b"", &mut b"short".to_vec()), None);
    }
}
