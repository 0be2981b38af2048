//! A flag that stops threads, also when the test fails.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets a flag when it is dropped. A panic would otherwise leave the threads that look at the flag running, and a scope
/// waits for them for ever.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
