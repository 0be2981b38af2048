//! The parameters in the paths of listings and list functions.

/// The parameters in the path of a list function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFunctionPath {
    /// The design document of the function.
    pub design: String,
    /// The list function.
    pub function: String,
    /// The design document of the view; `None` if it is that of the function.
    pub of: Option<String>,
    /// The view, or `_all_docs`.
    pub view: String,
}

/// `_all_docs` and its likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentList {
    AllDocs,
    DesignDocs,
    LocalDocs,
}
