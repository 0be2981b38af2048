//! Counters of the state that an authorization may depend on. While they are unchanged, an authorization that
//! was checked before still holds.

use crate::app::App;
use crate::app::user_store::Place;
use crate::auth::Proof;

/// Counters of the state that an authorization may depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    settings: u64,
    revocations: u64,
    /// The users' database and its last change.
    accounts: Option<Place>,
}

impl Seen {
    /// The settings' counter alone. Read it before the settings of a request.
    pub fn settings(app: &App) -> Seen {
        Seen { settings: app.auth.generation(), revocations: 0, accounts: None }
    }

    /// Adds the other counters. Read them before the credentials are checked.
    pub fn with_accounts(self, app: &App) -> Seen {
        let revocations = app.auth.devices().map_or(0, |devices| devices.revocations());
        Seen { revocations, accounts: app.accounts.place(), ..self }
    }

    /// The current counters, as far as a sign-in depends on them.
    pub fn now(app: &App, proof: &Proof) -> Seen {
        let seen = Seen::settings(app);
        if proof.account().is_some() { seen.with_accounts(app) } else { seen }
    }

    /// Whether nothing has changed that the sign-in depends on.
    pub fn is_as(&self, now: &Seen, proof: &Proof) -> bool {
        self.settings == now.settings
            && (proof.account().is_none() || self.accounts == now.accounts)
            && (!proof.has_device() || self.revocations == now.revocations)
    }
}
