//! The database of a vault: whether it is there, and who may use it.

use serde_json::{Value, json};

use super::done;
use super::vault::Vault;
use crate::cli::admin_api::{AdminApi, part};

/// What was found of the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    New,
    /// Nobody has written to it. `alone`: only the owner could have written.
    Empty {
        alone: bool,
    },
    Old,
}

/// Looks at the database, and at whether the people may have rights to it.
pub(super) fn look_at_database(api: &AdminApi, vault: &Vault, people: &[String]) -> Result<Found, String> {
    let path = format!("/{}", part(&vault.database));
    let reply = api.send("GET", &path, &[], None)?;
    if reply.status == 404 {
        return Ok(Found::New);
    }
    let info = reply.ok("the database")?;
    let security = rights(api, vault)?;
    with_rights(&security, vault, people)?;
    Ok(match info["doc_count"] == 0 && info["doc_del_count"] == 0 {
        true => Found::Empty { alone: security["members"]["names"] == json!([vault.user]) },
        false => Found::Old,
    })
}

/// The `_security` of the database.
fn rights(api: &AdminApi, vault: &Vault) -> Result<Value, String> {
    api.must("GET", &format!("/{}/_security", part(&vault.database)), None, "the rights of the database")
}

/// Creates the database if there is none.
pub(super) fn make_database(api: &AdminApi, vault: &Vault, found: Found) -> Result<(), String> {
    if found == Found::New {
        api.must("PUT", &format!("/{}", part(&vault.database)), None, "the database")?;
        done(&format!("made the database {}", vault.database));
    }
    Ok(())
}

/// Makes the owner an admin of the database, and `people`, the owner among them, its members. Each must have an account. Does
/// nothing without the owner.
pub(super) fn give_rights(api: &AdminApi, vault: &Vault, people: &[String]) -> Result<(), String> {
    if !people.contains(&vault.user) {
        return Ok(());
    }
    let security = rights(api, vault)?;
    let wanted = with_rights(&security, vault, people)?;
    if security != wanted {
        let path = format!("/{}/_security", part(&vault.database));
        api.must("PUT", &path, Some(&wanted), "the rights of the database")?;
        done(&format!("gave {} to {}", vault.database, names(&wanted, "members").join(", ")));
    }
    Ok(())
}

fn names(security: &Value, group: &str) -> Vec<String> {
    let list = security[group]["names"].as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The `_security` of a database with the rights of the people.
fn with_rights(security: &Value, vault: &Vault, people: &[String]) -> Result<Value, String> {
    let (mut admins, mut members) = (names(security, "admins"), names(security, "members"));
    if let Some(owner) = admins.first().or(members.first()).filter(|_| !admins.contains(&vault.user)) {
        if members.contains(&vault.user) && people.len() == 1 && !admins.is_empty() {
            return Ok(security.clone());
        }
        return Err(format!(
            "the database {0} belongs to {owner}. To share it: settee livesync --user {owner} --vault {0} --share {1}; or \
             choose another name with --vault",
            vault.database,
            people.join(",")
        ));
    }
    add(&mut admins, &vault.user);
    people.iter().for_each(|name| add(&mut members, name));
    let mut wanted = security.clone();
    for (group, names) in [("admins", &admins), ("members", &members)] {
        let roles = security[group]["roles"].as_array().cloned().unwrap_or_default();
        wanted[group] = json!({"names": names, "roles": roles});
    }
    Ok(wanted)
}

fn add(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}
