//! The certificate that the settings ask for.

/// The certificate to obtain, and the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The names in the certificate: at least one, lower-case, sorted, unique.
    pub domains: Vec<String>,
    /// The mail address that the authority receives.
    pub contact: Option<String>,
    /// The https URL of the authority's directory. The administrator has agreed to its terms of service.
    pub directory: String,
}
