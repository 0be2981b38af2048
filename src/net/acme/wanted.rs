//! The certificate that the settings ask for.

use sha2::{Digest, Sha256};

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

impl Wanted {
    /// Names the account: a hash of the directory's URL and the contact.
    pub(crate) fn account_id(&self) -> String {
        self.id(self.contact.iter())
    }

    /// Names the certificate: a hash of the directory's URL and the names.
    pub(crate) fn certificate_id(&self) -> String {
        self.id(self.domains.iter())
    }

    /// Names what concerns one of the names at this authority.
    pub(crate) fn domain_id(&self, domain: &String) -> String {
        self.id(std::iter::once(domain))
    }

    /// A hash of the directory's URL and the parts, as 16 hex digits.
    fn id<'a>(&'a self, parts: impl Iterator<Item = &'a String>) -> String {
        let mut hash = Sha256::new();
        for part in std::iter::once(&self.directory).chain(parts) {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        crate::hex::hex(&hash.finalize()[..8])
    }
}
