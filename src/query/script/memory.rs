//! The memory of one environment: an allocator for QuickJS that counts, refuses allocations beyond a limit,
//! and records that it refused one.
//!
//! QuickJS has its own memory limit, but it throws `null` if memory is exhausted, and a function may throw
//! `null` as well. The record of a refused allocation tells the two cases apart.

use std::cell::Cell;
use std::rc::Rc;

use rquickjs::allocator::Allocator;
use tikv_jemalloc_sys as jemalloc;

/// Memory use and limit of an environment, in bytes.
#[derive(Default)]
pub(super) struct Account {
    used: Cell<usize>,
    limit: Cell<usize>,
    refused: Cell<bool>,
}

impl Account {
    pub fn used(&self) -> usize {
        self.used.get()
    }

    pub fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    /// Whether an allocation was refused since [`Account::forget`].
    pub fn refused(&self) -> bool {
        self.refused.get()
    }

    pub fn forget(&self) {
        self.refused.set(false);
    }

    /// Whether `more` bytes fit. Records a refusal if not.
    fn fits(&self, more: usize) -> bool {
        let fits = self.used.get().checked_add(more).is_some_and(|sum| sum <= self.limit.get());
        if !fits {
            self.refused.set(true);
        }
        fits
    }

    /// Records the result of an allocation.
    fn took(&self, pointer: *mut u8) -> *mut u8 {
        if pointer.is_null() {
            self.refused.set(true);
        } else {
            self.used.set(self.used.get() + usable(pointer));
        }
        pointer
    }

    fn gave(&self, bytes: usize) {
        self.used.set(self.used.get().saturating_sub(bytes));
    }
}

/// The allocator of one runtime.
pub(super) struct Counted(pub Rc<Account>);

/// Returns the size of the allocation at `pointer`, which must come from `malloc` and must not have been
/// freed.
fn usable(pointer: *mut u8) -> usize {
    // SAFETY: all callers in this file pass a live pointer that `malloc`, `calloc` or `realloc` returned.
    unsafe { jemalloc::malloc_usable_size(pointer.cast()) }
}

// SAFETY: memory comes from jemalloc, which aligns for any type; returning a null pointer is
// permitted.
unsafe impl Allocator for Counted {
    fn alloc(&mut self, size: usize) -> *mut u8 {
        if !self.0.fits(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: `malloc` may be called with any size.
        self.0.took(unsafe { jemalloc::malloc(size) }.cast())
    }

    fn calloc(&mut self, count: usize, size: usize) -> *mut u8 {
        if !count.checked_mul(size).is_some_and(|bytes| self.0.fits(bytes)) {
            return std::ptr::null_mut();
        }
        // SAFETY: `calloc` may be called with any sizes.
        self.0.took(unsafe { jemalloc::calloc(count, size) }.cast())
    }

    unsafe fn dealloc(&mut self, pointer: *mut u8) {
        if !pointer.is_null() {
            self.0.gave(usable(pointer));
            // SAFETY: the caller passes a pointer from this allocator, and only once.
            unsafe { jemalloc::free(pointer.cast()) }
        }
    }

    unsafe fn realloc(&mut self, pointer: *mut u8, size: usize) -> *mut u8 {
        if pointer.is_null() {
            return self.alloc(size);
        }
        let before = usable(pointer);
        if !self.0.fits(size.saturating_sub(before)) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller passes a pointer from this allocator; if `realloc` fails, the block stays valid.
        let moved: *mut u8 = unsafe { jemalloc::realloc(pointer.cast(), size) }.cast();
        if !moved.is_null() {
            self.0.gave(before);
        }
        self.0.took(moved)
    }

    unsafe fn usable_size(pointer: *mut u8) -> usize {
        if pointer.is_null() { 0 } else { usable(pointer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_and_refused_beyond_the_limit() {
        let account = Rc::new(Account::default());
        account.set_limit(1 << 20);
        let mut counted = Counted(account.clone());
        let one = counted.alloc(1000);
        assert!(account.used() >= 1000 && !account.refused());
        assert!(counted.calloc(1 << 11, 1 << 10).is_null());
        assert!(account.refused());
        account.forget();
        // SAFETY: `one` comes from this allocator; `two` replaces it and is freed once.
        unsafe {
            let two = counted.realloc(one, 500_000);
            assert!(!two.is_null() && account.used() >= 500_000);
            assert!(counted.realloc(two, 2 << 20).is_null() && account.refused());
            counted.dealloc(two);
        }
        assert_eq!(account.used(), 0);
        assert!(counted.calloc(usize::MAX, 2).is_null());
    }
}
