//! The calls to PCRE2, and what makes them safe.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::ptr;

use pcre2_sys::{
    PCRE2_AUTO_CALLOUT, PCRE2_ERROR_CLASS_INVALID_RANGE, PCRE2_ERROR_MATCHLIMIT, PCRE2_ERROR_PATTERN_TOO_LARGE,
    PCRE2_ERROR_RECURSELOOP, PCRE2_INFO_BACKREFMAX, PCRE2_NO_START_OPTIMIZE, PCRE2_UNSET, pcre2_code_8,
    pcre2_code_free_8, pcre2_compile_8, pcre2_compile_context_create_8, pcre2_compile_context_free_8,
    pcre2_get_error_message_8, pcre2_get_match_data_heapframes_size_8, pcre2_match_8, pcre2_match_context_8,
    pcre2_match_context_create_8, pcre2_match_context_free_8, pcre2_match_data_8, pcre2_match_data_create_8,
    pcre2_match_data_free_8, pcre2_pattern_info_8, pcre2_set_character_tables_8, pcre2_set_heap_limit_8,
    pcre2_set_match_limit_8,
};

use super::pattern::Costs;
use super::tables::LATIN_1;

/// Memory that one match may take for backtracking, in KiB. A match that needs more counts as none.
const HEAP_LIMIT: u32 = 32 << 10;
/// Memory for backtracking that a thread keeps for its next match, in bytes.
const KEPT_HEAP: usize = 128 << 10;

/// The start of `pcre2_callout_block`, which PCRE2 only ever extends at its end.
#[repr(C)]
struct CalloutBlock {
    version: u32,
    callout_number: u32,
    capture_top: u32,
    capture_last: u32,
    offset_vector: *const usize,
    mark: *const u8,
    subject: *const u8,
    subject_length: usize,
    start_match: usize,
    current_position: usize,
}

impl CalloutBlock {
    /// The bytes of the longest group that has matched so far, and one for each group that was looked at.
    fn longest_group(&self) -> usize {
        let groups = self.capture_top as usize;
        // SAFETY: PCRE2 passes the offsets of the groups below `capture_top`, two for each; those of group 0 are unset.
        let offsets = unsafe { std::slice::from_raw_parts(self.offset_vector, 2 * groups) };
        let length = |pair: &[usize]| if pair[0] == PCRE2_UNSET { 0 } else { pair[1].saturating_sub(pair[0]) };
        groups + offsets.chunks_exact(2).skip(1).map(length).max().unwrap_or(0)
    }
}

type Callout = unsafe extern "C" fn(*mut CalloutBlock, *mut c_void) -> c_int;

unsafe extern "C" {
    /// `pcre2_sys` leaves out the functions for callouts.
    fn pcre2_set_callout_8(context: *mut pcre2_match_context_8, callout: Option<Callout>, data: *mut c_void) -> c_int;
}

/// What came of compiling a pattern.
pub(super) enum Compiled {
    Code(Code),
    /// The pattern takes more than 64 KiB when compiled.
    TooLarge(String),
    /// The hyphen at this offset follows a set of characters in a class, as in `[\w-.]`. With the error of PCRE2, which
    /// wants it to be escaped.
    Hyphen(usize, String),
    Refused(String),
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Code(*mut pcre2_code_8);

// SAFETY: PCRE2 does not change compiled code, so that several threads may match with it at once (pcre2api,
// "MULTITHREADING"); only `drop` frees it.
unsafe impl Send for Code {}
// SAFETY: as for `Send`.
unsafe impl Sync for Code {}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: the code came from `pcre2_compile` and is freed once.
        unsafe { pcre2_code_free_8(self.0) };
    }
}

/// Compiles a pattern: with a callout before every item if `is_counted`, and without PCRE2's search for the start of a
/// match if `tries_all_starts`.
pub(super) fn compile(pattern: &str, tries_all_starts: bool, is_counted: bool) -> Compiled {
    let mut options = 0;
    if tries_all_starts {
        options |= PCRE2_NO_START_OPTIMIZE;
    }
    if is_counted {
        options |= PCRE2_AUTO_CALLOUT;
    }
    let (mut error, mut offset) = (0, 0);
    // SAFETY: the pattern is valid for its length; PCRE2 copies it, and uses the tables, which are static, after this
    // call. A context that could not be allocated is a null pointer, which PCRE2 takes as none.
    let code = unsafe {
        let context = pcre2_compile_context_create_8(ptr::null_mut());
        if !context.is_null() {
            pcre2_set_character_tables_8(context, LATIN_1.as_ptr());
        }
        let code = pcre2_compile_8(pattern.as_ptr(), pattern.len(), options, &mut error, &mut offset, context);
        pcre2_compile_context_free_8(context);
        code
    };
    if !code.is_null() {
        return Compiled::Code(Code(code));
    }
    let text = format!("{} at offset {offset}", message(error));
    // A hyphen before a set (`[a-\w]`) is the same error, but its offset is the end of the set.
    let after = pattern.as_bytes().get(..offset).and_then(<[u8]>::last);
    match error as u32 {
        PCRE2_ERROR_PATTERN_TOO_LARGE => Compiled::TooLarge(text),
        PCRE2_ERROR_CLASS_INVALID_RANGE if after == Some(&b'-') => Compiled::Hyphen(offset - 1, text),
        _ => Compiled::Refused(text),
    }
}

/// PCRE2's text for an error.
fn message(error: c_int) -> String {
    let mut text = [0u8; 256];
    // SAFETY: the buffer is valid for its length, and PCRE2 writes no more than that.
    let length = unsafe { pcre2_get_error_message_8(error, text.as_mut_ptr(), text.len()) };
    let length = usize::try_from(length).unwrap_or(0).min(text.len());
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// Whether a group of the pattern calls itself at once, without end. PCRE2 notices that only when it matches; older
/// versions of Erlang refuse the pattern.
pub(super) fn recurses_forever(pattern: &str) -> bool {
    let Compiled::Code(code) = compile(pattern, true, false) else { return false };
    let costs = Costs { text: 0, callout: 0, move_weight: 0, counts_groups: false, limit: 10_000 };
    code.run(b"", &costs, &mut 1) == PCRE2_ERROR_RECURSELOOP
}

impl Code {
    /// Whether the pattern refers to what its groups matched.
    pub(super) fn has_references(&self) -> bool {
        let mut highest = 0u32;
        // SAFETY: `PCRE2_INFO_BACKREFMAX` writes a 32-bit number.
        unsafe { pcre2_pattern_info_8(self.0, PCRE2_INFO_BACKREFMAX, (&raw mut highest).cast()) };
        highest > 0
    }

    /// Whether the pattern matches anywhere in `text`, within `steps`.
    pub(super) fn is_match(&self, text: &[u8], costs: &Costs, steps: &mut u64) -> bool {
        // 0: there are more groups than the one pair of offsets that is kept.
        self.run(text, costs, steps) >= 0
    }

    /// The result of `pcre2_match`: negative for no match and for errors.
    fn run(&self, text: &[u8], costs: &Costs, steps: &mut u64) -> c_int {
        SCRATCH.with_borrow_mut(|scratch| {
            let Some(scratch) = scratch.ready() else { return PCRE2_ERROR_MATCHLIMIT };
            let mut meter = Meter { costs, steps, position: 0 };
            // SAFETY: code, context and match data are valid, and this thread alone uses the latter two. The text is
            // valid for its length. The meter outlives the match, which alone uses it meanwhile, through this pointer.
            let result = unsafe {
                pcre2_set_match_limit_8(scratch.context, costs.limit);
                pcre2_set_callout_8(scratch.context, Some(count), (&raw mut meter).cast());
                let result = pcre2_match_8(self.0, text.as_ptr(), text.len(), 0, 0, scratch.data, scratch.context);
                pcre2_set_callout_8(scratch.context, None, ptr::null_mut());
                result
            };
            scratch.shrink();
            result
        })
    }
}

/// Counts the steps of one match.
struct Meter<'m> {
    costs: &'m Costs,
    steps: &'m mut u64,
    /// Where the callout before this one was.
    position: usize,
}

/// Takes the steps of one callout. Ends the match when none are left.
unsafe extern "C" fn count(block: *mut CalloutBlock, data: *mut c_void) -> c_int {
    // SAFETY: PCRE2 passes a valid block, and the pointer that was set for this match: its meter, which nothing else
    // uses while the match runs.
    let (block, meter) = unsafe { (&*block, &mut *data.cast::<Meter<'_>>()) };
    let distance = block.current_position.abs_diff(meter.position);
    meter.position = block.current_position;
    let groups = if meter.costs.counts_groups { block.longest_group() } else { 0 };
    *meter.steps = meter.steps.saturating_sub(meter.costs.of_callout(distance + groups));
    if *meter.steps > 0 { 0 } else { PCRE2_ERROR_MATCHLIMIT }
}

/// What a thread keeps between matches: allocating it takes longer than a short match.
struct Scratch {
    data: *mut pcre2_match_data_8,
    context: *mut pcre2_match_context_8,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { data: ptr::null_mut(), context: ptr::null_mut() }) };
}

impl Scratch {
    /// Allocates what is missing. Returns `None` if there is no memory.
    fn ready(&mut self) -> Option<&mut Scratch> {
        // SAFETY: both functions take a null pointer for the default allocator. The limit is set on a valid context.
        unsafe {
            if self.data.is_null() {
                self.data = pcre2_match_data_create_8(1, ptr::null_mut());
            }
            if self.context.is_null() {
                self.context = pcre2_match_context_create_8(ptr::null_mut());
                if !self.context.is_null() {
                    pcre2_set_heap_limit_8(self.context, HEAP_LIMIT);
                }
            }
        }
        (!self.data.is_null() && !self.context.is_null()).then_some(self)
    }

    /// Frees the memory of a match that needed much.
    fn shrink(&mut self) {
        // SAFETY: the match data is valid, and is not used again once it is freed.
        unsafe {
            if pcre2_get_match_data_heapframes_size_8(self.data) > KEPT_HEAP {
                pcre2_match_data_free_8(self.data);
                self.data = ptr::null_mut();
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: both are freed once, and freeing a null pointer does nothing.
        unsafe {
            pcre2_match_data_free_8(self.data);
            pcre2_match_context_free_8(self.context);
        }
    }
}
