//! `_approx_count_distinct`: an estimate of the number of distinct keys.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// A HyperLogLog of 2^14 registers with Ertl's estimator (arXiv 1702.01284), whose standard error is about
/// 0.8 percent for any number of keys. Only registers that are not zero are stored.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    registers: HashMap<u16, u8>,
}

impl Distinct {
    const BITS: u32 = 14;
    const REGISTERS: f64 = (1 << Distinct::BITS) as f64;
    /// Number of ranks that a register can have, besides 0.
    const RANKS: usize = 64 - Distinct::BITS as usize + 1;

    pub(super) fn insert(&mut self, key: &[u8]) {
        let hash = hash(key);
        let register = (hash >> (64 - Distinct::BITS)) as u16;
        let rank = ((hash << Distinct::BITS).leading_zeros() + 1).min(Distinct::RANKS as u32) as u8;
        self.raise(register, rank);
    }

    fn raise(&mut self, register: u16, rank: u8) {
        let kept = self.registers.entry(register).or_default();
        *kept = rank.max(*kept);
    }

    pub(super) fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(self.registers.len() * 3);
        let mut all: Vec<(&u16, &u8)> = self.registers.iter().collect();
        all.sort_unstable();
        for (register, rank) in all {
            bytes.extend_from_slice(&register.to_be_bytes());
            bytes.push(*rank);
        }
        format!("\"{}\"", STANDARD_NO_PAD.encode(bytes))
    }

    pub(super) fn merge(&mut self, reduction: &str) {
        let bytes = STANDARD_NO_PAD.decode(reduction.trim_matches('"')).unwrap_or_default();
        for entry in bytes.chunks_exact(3) {
            let register = u16::from_be_bytes([entry[0], entry[1]]);
            if u32::from(register) < 1 << Distinct::BITS && usize::from(entry[2]) <= Distinct::RANKS {
                self.raise(register, entry[2]);
            }
        }
    }

    pub(super) fn estimate(&self) -> u64 {
        let mut counts = [0.0_f64; Distinct::RANKS + 1];
        self.registers.values().for_each(|rank| counts[usize::from(*rank)] += 1.0);
        counts[0] = Distinct::REGISTERS - self.registers.len() as f64;
        let m = Distinct::REGISTERS;
        let mut z = m * tau(1.0 - counts[Distinct::RANKS] / m);
        for count in counts[1..Distinct::RANKS].iter().rev() {
            z = 0.5 * (z + count);
        }
        z += m * sigma(counts[0] / m);
        (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as u64
    }
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// FNV-1a with MurmurHash3's finalizer. Hashes are stored, so this function must not change.
fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::sort_key;

    #[test]
    fn distinct_keys_are_counted_within_two_percent() {
        let mut distinct = Distinct::default();
        for count in 1..=100_000_u64 {
            distinct.insert(&sort_key(&format!("\"key{count}\"")));
            if [1, 10, 100, 1000, 10_000, 40_000, 70_000, 100_000].contains(&count) {
                let error = (distinct.estimate() as f64 - count as f64).abs() / count as f64;
                assert!(error < 0.02, "{} for {count}", distinct.estimate());
            }
        }
        let mut again = Distinct::default();
        again.merge(&distinct.encode());
        assert_eq!(again.estimate(), distinct.estimate());
    }
}
