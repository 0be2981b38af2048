//! The stored form of a revision tree: compact, versioned, and validated on decoding.
//!
//! ```text
//! tree  := version(1 byte, =1) count:varint node*
//! node  := flags(1 byte) [generation - previous:varint] [index - parent's index:varint] hash
//!          [sequence:varint index:varint bytes:varint]
//! hash  := 16 bytes | length:varint text
//! flags := bit 0 hash is text, bit 1 deleted, bit 2 has a body,
//!          bits 3-4 parent: 0 none, 1 the preceding node, 2 explicit
//!          bits 5-6 generation: 0 equal to the preceding node's, 1 one higher, 2 explicit
//! ```
//!
//! Nodes are stored in tree order; the node before the first counts as generation 0. Varints are
//! little-endian groups of 7 bits. Whether a node is a leaf follows from the parents and is not stored. A
//! node of a linear chain takes 17 bytes, and its body about 7 more.

use super::id::{MAX_GENERATION, Revision, RevisionHash};
use super::tree::{Body, Node, Tree};

const VERSION: u8 = 1;
const TEXT: u8 = 1;
const DELETED: u8 = 2;
const BODY: u8 = 4;
const PARENT_PREVIOUS: u8 = 1 << 3;
const PARENT_GIVEN: u8 = 2 << 3;
const PARENT: u8 = 3 << 3;
const GENERATION_NEXT: u8 = 1 << 5;
const GENERATION_GIVEN: u8 = 2 << 5;
const GENERATION: u8 = 3 << 5;
const UNUSED: u8 = 1 << 7;

impl Tree {
    /// Appends the stored form of the tree to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(3 + self.nodes.len() * 18);
        out.push(VERSION);
        put(out, self.nodes.len() as u64);
        let mut previous = 0;
        for (index, node) in self.nodes.iter().enumerate() {
            let rise = node.revision.generation - previous;
            previous = node.revision.generation;
            let back = node.parent.map(|parent| index as u64 - u64::from(parent));
            let mut flags = 0;
            flags |= if node.deleted { DELETED } else { 0 };
            flags |= if node.body.is_some() { BODY } else { 0 };
            flags |= if matches!(node.revision.hash, RevisionHash::Text(_)) { TEXT } else { 0 };
            flags |= match back {
                None => 0,
                Some(1) => PARENT_PREVIOUS,
                Some(_) => PARENT_GIVEN,
            };
            flags |= match rise {
                0 => 0,
                1 => GENERATION_NEXT,
                _ => GENERATION_GIVEN,
            };
            out.push(flags);
            if flags & GENERATION == GENERATION_GIVEN {
                put(out, rise);
            }
            if let Some(back) = back.filter(|back| *back != 1) {
                put(out, back);
            }
            match &node.revision.hash {
                RevisionHash::Md5(bytes) => out.extend_from_slice(bytes),
                RevisionHash::Text(text) => {
                    put(out, text.len() as u64);
                    out.extend_from_slice(text.as_bytes());
                }
            }
            if let Some(body) = &node.body {
                put(out, body.sequence);
                put(out, u64::from(body.index));
                put(out, body.bytes);
            }
        }
    }

    /// Reads what `encode` wrote. Returns `None` for any other input: truncated, too long, or a tree that
    /// breaks an invariant.
    pub fn decode(bytes: &[u8]) -> Option<Tree> {
        let mut bytes = bytes;
        if take_byte(&mut bytes)? != VERSION {
            return None;
        }
        let count = take(&mut bytes)?;
        // Each node takes at least two bytes; reject a larger count before reserving memory for it.
        if count > bytes.len() as u64 / 2 {
            return None;
        }
        let mut nodes: Vec<Node> = Vec::with_capacity(count as usize);
        for index in 0..count as usize {
            let node = decode_node(&mut bytes, &nodes)?;
            if let Some(last) = nodes.last()
                && last.revision >= node.revision
            {
                return None;
            }
            if let Some(parent) = node.parent {
                let parent = nodes.get_mut(parent as usize)?;
                if parent.revision.generation + 1 != node.revision.generation {
                    return None;
                }
                parent.leaf = false;
            }
            debug_assert_eq!(nodes.len(), index);
            nodes.push(node);
        }
        bytes.is_empty().then_some(Tree { nodes })
    }
}

fn decode_node(bytes: &mut &[u8], before: &[Node]) -> Option<Node> {
    let flags = take_byte(bytes)?;
    if flags & UNUSED != 0 {
        return None;
    }
    let rise = match flags & GENERATION {
        0 => 0,
        GENERATION_NEXT => 1,
        GENERATION_GIVEN => take(bytes)?,
        _ => return None,
    };
    let previous = before.last().map_or(0, |node| node.revision.generation);
    let generation = previous.checked_add(rise).filter(|generation| (1..=MAX_GENERATION).contains(generation))?;
    let back = match flags & PARENT {
        0 => None,
        PARENT_PREVIOUS => Some(1),
        PARENT_GIVEN => Some(take(bytes)?.try_into().ok()?),
        _ => return None,
    };
    let parent = match back {
        None => None,
        Some(0) => return None,
        Some(back) => Some(u32::try_from(before.len().checked_sub(back)?).ok()?),
    };
    let hash = if flags & TEXT == 0 {
        RevisionHash::Md5(take_bytes(bytes, 16)?.try_into().ok()?)
    } else {
        let length = usize::try_from(take(bytes)?).ok()?;
        let text = std::str::from_utf8(take_bytes(bytes, length)?).ok()?;
        let hash = RevisionHash::parse(text);
        if matches!(hash, RevisionHash::Md5(_)) {
            return None;
        }
        hash
    };
    let body = if flags & BODY == 0 {
        None
    } else {
        Some(Body { sequence: take(bytes)?, index: take(bytes)?.try_into().ok()?, bytes: take(bytes)? })
    };
    Some(Node { revision: Revision { generation, hash }, deleted: flags & DELETED != 0, body, parent, leaf: true })
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(bytes)?;
        let group = u64::from(byte & 0x7f);
        // The tenth group holds only one bit.
        if shift == 63 && group > 1 {
            return None;
        }
        value |= group << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

fn take_bytes<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests;
