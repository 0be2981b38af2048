//! How a long task reports its progress.

/// Progress of a long task: the database being processed, and the number of documents processed in all
/// databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress<'a> {
    pub what: &'a str,
    pub done: u64,
}

/// Callback that receives the progress.
pub type Hear<'a> = &'a mut dyn FnMut(Progress<'_>);
