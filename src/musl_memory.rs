//! `memcpy`, `memmove`, `memcmp` and `bcmp` of the static binary.
//!
//! musl compares byte by byte, and on x86-64 it copies with `rep movsq`, which takes dozens of cycles to start. Keys and
//! documents are short and are copied and compared all the time: with musl's functions, they took a third of the CPU time of
//! bulk writes. The linker takes a function from musl only if nothing else defines it.
//!
//! No function here may be compiled to a call of itself. The copies of a fixed size are moves in optimized builds, and only
//! those export the functions; no loop has the form that the compiler replaces by a call of `memcpy`, because of [`opaque`].

use std::cmp::Ordering;

/// Bytes that a copy moves at a time: four registers.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 4 * REGISTER;
#[cfg(target_arch = "x86_64")]
const REGISTER: usize = 16;

/// The lengths for which `rep movsq` is the fastest of the instructions that every x86-64 has.
#[cfg(target_arch = "x86_64")]
const BY_WORDS: std::ops::Range<usize> = 300..12_000;

#[cfg(all(target_env = "musl", not(debug_assertions)))]
mod exported {
    use std::ffi::c_int;

    /// C's `memcpy`.
    ///
    /// # Safety
    /// `from` can be read and `to` can be written for `length` bytes.
    #[cfg(target_arch = "x86_64")]
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { super::copy(to, from, length) };
        to
    }

    /// C's `memmove`.
    ///
    /// # Safety
    /// As for [`memcpy`]; the two may overlap.
    #[cfg(target_arch = "x86_64")]
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { super::copy(to, from, length) };
        to
    }

    /// C's `memcmp`.
    ///
    /// # Safety
    /// Both can be read for `length` bytes.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { super::compare(left, right, length) as c_int }
    }

    /// BSD's `bcmp`: 0 if both are equal.
    ///
    /// # Safety
    /// As for [`memcmp`].
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { super::compare(left, right, length) as c_int }
    }
}

/// Nothing that the compiler can look into.
#[inline(always)]
fn opaque() {
    // SAFETY: no instruction.
    unsafe { std::arch::asm!("", options(nostack, preserves_flags)) };
}

/// Copies `length` bytes. The two may overlap.
///
/// # Safety
/// `from` can be read and `to` can be written for `length` bytes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: no access is outside of the `length` bytes: below, each is of at most `length` bytes, at the beginning or at
    // the end. All of a step is read before any of it is written, because the two may overlap.
    unsafe {
        match length {
            0 => {}
            1 => *to = *from,
            2..4 => both_ends::<u16>(to, from, length),
            4..8 => both_ends::<u32>(to, from, length),
            8..16 => both_ends::<u64>(to, from, length),
            16..=32 => both_ends_of::<1>(to, from, length),
            33..=64 => both_ends_of::<2>(to, from, length),
            65..=128 => both_ends_of::<4>(to, from, length),
            _ => copy_long(to, from, length),
        }
    }
}

#[cfg(target_arch = "x86_64")]
type Register = std::arch::x86_64::__m128i;

/// Reads registers from `from`, one by one: as one value they would take the way over the stack.
///
/// # Safety
/// Their bytes can be read.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn read<const COUNT: usize>(from: *const u8) -> [Register; COUNT] {
    // SAFETY: the caller's promise.
    std::array::from_fn(|at| unsafe { from.add(at * REGISTER).cast::<Register>().read_unaligned() })
}

/// Writes registers to `to`.
///
/// # Safety
/// Their bytes can be written.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn write<const COUNT: usize>(to: *mut u8, registers: [Register; COUNT]) {
    for (at, register) in registers.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { to.add(at * REGISTER).cast::<Register>().write_unaligned(register) };
    }
}

/// Copies `length` bytes as two values of `T`, one at the beginning and one at the end, which may overlap.
///
/// # Safety
/// As for [`copy`]; `length` is from one to two times the size of `T`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn both_ends<T>(to: *mut u8, from: *const u8, length: usize) {
    let end = length - size_of::<T>();
    // SAFETY: both values are within the `length` bytes.
    unsafe {
        let first = from.cast::<T>().read_unaligned();
        let last = from.add(end).cast::<T>().read_unaligned();
        to.cast::<T>().write_unaligned(first);
        to.add(end).cast::<T>().write_unaligned(last);
    }
}

/// As [`both_ends`], with `COUNT` registers at each end.
///
/// # Safety
/// As for [`copy`]; `length` is from one to two times the size of the registers.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn both_ends_of<const COUNT: usize>(to: *mut u8, from: *const u8, length: usize) {
    let end = length - COUNT * REGISTER;
    // SAFETY: the registers at both ends are within the `length` bytes.
    unsafe {
        let (first, last) = (read::<COUNT>(from), read::<COUNT>(from.add(end)));
        write(to, first);
        write(to.add(end), last);
    }
}

/// Copies more than [`BLOCK`] bytes, block by block, or by [`copy_words`].
///
/// # Safety
/// As for [`copy`].
#[cfg(target_arch = "x86_64")]
#[inline(never)]
unsafe fn copy_long(to: *mut u8, from: *const u8, length: usize) {
    const COUNT: usize = BLOCK / REGISTER;
    let last = length - BLOCK;
    // SAFETY: all blocks are within the `length` bytes. A block is read before it is written, and written only where
    // everything has been read: upwards if `to` is below `from` or behind its end, else downwards. The block at the other
    // end, which overlaps the one before it, is read first of all and written last.
    unsafe {
        if BY_WORDS.contains(&length) && (to as usize).abs_diff(from as usize) >= length {
            copy_words(to, from, length);
        } else if (to as usize).wrapping_sub(from as usize) >= length {
            let end = read::<COUNT>(from.add(last));
            let mut at = 0;
            while at < last {
                write(to.add(at), read::<COUNT>(from.add(at)));
                at += BLOCK;
                opaque();
            }
            write(to.add(last), end);
        } else {
            let begin = read::<COUNT>(from);
            let mut at = last;
            while at > 0 {
                write(to.add(at), read::<COUNT>(from.add(at)));
                at = at.saturating_sub(BLOCK);
                opaque();
            }
            write(to, begin);
        }
    }
}

/// Copies `length` bytes with `rep movsq`, which is fast if `to` is aligned. The two do not overlap.
///
/// # Safety
/// As for [`copy`]; `length` is at least 16.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy_words(to: *mut u8, from: *const u8, length: usize) {
    const WORD: usize = size_of::<u64>();
    let (begin, end) = (WORD - to as usize % WORD, length - WORD);
    // SAFETY: the words are within the `length` bytes: those at both ends, and those from `begin`, of which the last may end
    // before the others. C and Rust promise that the direction flag is clear.
    unsafe {
        to.cast::<u64>().write_unaligned(from.cast::<u64>().read_unaligned());
        std::arch::asm!(
            "rep movsq",
            inout("rcx") (length - begin) / WORD => _,
            inout("rdi") to.add(begin) => _,
            inout("rsi") from.add(begin) => _,
            options(nostack, preserves_flags),
        );
        to.add(end).cast::<u64>().write_unaligned(from.add(end).cast::<u64>().read_unaligned());
    }
}

/// Compares `length` bytes.
///
/// # Safety
/// Both can be read for `length` bytes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn compare(left: *const u8, right: *const u8, length: usize) -> Ordering {
    if length < REGISTER {
        // SAFETY: the caller's promise.
        return unsafe { compare_words(left, right, length) };
    }
    let last = length - REGISTER;
    let mut at = 0;
    loop {
        // SAFETY: the registers are within the `length` bytes: the last one ends with them.
        unsafe {
            let equal = std::arch::x86_64::_mm_cmpeq_epi8(
                left.add(at).cast::<Register>().read_unaligned(),
                right.add(at).cast::<Register>().read_unaligned(),
            );
            // A bit for each byte.
            let equal = std::arch::x86_64::_mm_movemask_epi8(equal) as u32;
            if equal != (1 << REGISTER) - 1 {
                let first = at + equal.trailing_ones() as usize;
                return (*left.add(first)).cmp(&*right.add(first));
            }
        }
        if at == last {
            return Ordering::Equal;
        }
        // The last register overlaps the one before it.
        at = last.min(at + REGISTER);
        opaque();
    }
}

/// Compares `length` bytes.
///
/// # Safety
/// Both can be read for `length` bytes.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn compare(left: *const u8, right: *const u8, length: usize) -> Ordering {
    // SAFETY: the caller's promise.
    unsafe { compare_words(left, right, length) }
}

/// Compares `length` bytes, eight at a time.
///
/// # Safety
/// As for [`compare`].
#[inline(always)]
unsafe fn compare_words(left: *const u8, right: *const u8, length: usize) -> Ordering {
    const WORD: usize = size_of::<u64>();
    // SAFETY: all words and bytes are within the `length` bytes.
    unsafe {
        let word = |of: *const u8, at| u64::from_be_bytes(of.add(at).cast::<[u8; WORD]>().read_unaligned());
        let mut at = 0;
        while at + WORD <= length {
            let (a, b) = (word(left, at), word(right, at));
            if a != b {
                return a.cmp(&b);
            }
            at += WORD;
            opaque();
        }
        if length >= WORD {
            // The last word, of which the beginning is known to be equal.
            return word(left, length - WORD).cmp(&word(right, length - WORD));
        }
        while at < length {
            let (a, b) = (*left.add(at), *right.add(at));
            if a != b {
                return a.cmp(&b);
            }
            at += 1;
            opaque();
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths around every border, and longer ones.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..=300).chain([511, 512, 513, 1000, 4095, 4096, 4097, 10_000])
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn copies_every_length_at_every_alignment_and_overlap() {
        for length in lengths() {
            for from in [64, 65, 71, 79] {
                // Apart, the same, and overlapping on both sides.
                for to in (0..=160).chain([from + length, from + length + 1]) {
                    let mut bytes: Vec<u8> = (0..2 * length + 300).map(|at| (at % 251) as u8).collect();
                    let mut expected = bytes.clone();
                    expected.copy_within(from..from + length, to);
                    // SAFETY: both are within the vector.
                    unsafe { copy(bytes.as_mut_ptr().add(to), bytes.as_ptr().add(from), length) };
                    assert!(bytes == expected, "{length} bytes from {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn compares_every_length_by_the_first_byte_that_differs() {
        for length in lengths() {
            let left: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            // SAFETY: both slices have this length.
            let compared = |right: &[u8]| unsafe { compare(left.as_ptr(), right.as_ptr(), length) };
            let mut right = vec![0; length + 1];
            right[1..].copy_from_slice(&left);
            assert_eq!(compared(&right[1..]), Ordering::Equal, "{length}");
            for at in 0..length {
                let before = right[at + 1];
                for byte in [before.wrapping_add(1), before.wrapping_sub(1), before ^ 0x80] {
                    right[at + 1] = byte;
                    assert_eq!(compared(&right[1..]), left.as_slice().cmp(&right[1..]), "{length}, {at}, {byte}");
                    // What differs behind it does not matter.
                    if at + 1 < length {
                        right[at + 2] ^= 0x55;
                        assert_eq!(compared(&right[1..]), left.as_slice().cmp(&right[1..]), "{length}, {at}, {byte}");
                        right[at + 2] ^= 0x55;
                    }
                }
                right[at + 1] = before;
            }
        }
    }
}
