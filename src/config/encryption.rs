//! Finds the key of encryption at rest. The key is never part of the settings, so that no response and no log
//! shows it.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::store::Key;

/// The environment variable that holds the key itself.
pub const KEY: &str = "SETTEE_ENCRYPTION_KEY";
/// The environment variable that names the key file.
pub const KEY_FILE: &str = "SETTEE_ENCRYPTION_KEY_FILE";

/// Reads the key from `file`, or else from the environment variables; returns `None` if neither is set.
/// Appends to `warnings` if other users may read the key file.
///
/// # Errors
/// A sentence that tells the user how to fix it.
pub fn find(
    file: Option<PathBuf>,
    environment: &[(String, String)],
    warnings: &mut Vec<String>,
) -> Result<Option<Key>, String> {
    let variable = |name: &str| {
        environment.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value)
    };
    let named = file.is_some();
    match (file.or_else(|| variable(KEY_FILE).map(PathBuf::from)), variable(KEY)) {
        (None, None) => Ok(None),
        // The flag overrides the environment variables.
        (Some(file), _) if named => read(&file, warnings).map(Some),
        (Some(_), Some(_)) => Err(format!("{KEY} and {KEY_FILE} are both set: set one of them.")),
        (Some(file), None) => read(&file, warnings).map(Some),
        (None, Some(text)) => {
            let text = Zeroizing::new(text.clone());
            Key::parse(&text).map(Some).map_err(|how| format!("{KEY}: {how}"))
        }
    }
}

/// Reads the key in `file`. Appends to `warnings` if other users may read the file.
///
/// # Errors
/// A sentence that names the file and tells the user how to fix it.
pub fn read(file: &Path, warnings: &mut Vec<String>) -> Result<Key, String> {
    let key = Key::read(file)?;
    if Key::is_open_to_others(file) {
        let shown = file.display();
        warnings.push(format!("other users may read the encryption key file {shown}: run `chmod 600 {shown}`"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_comes_from_a_file_or_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let keys = [Key::generate(), Key::generate(), Key::generate()];
        let files: Vec<PathBuf> = (0..2).map(|number| folder.path().join(number.to_string())).collect();
        for (file, key) in files.iter().zip(&keys) {
            key.write_new(file).unwrap();
        }
        let in_file = (KEY_FILE.to_owned(), files[1].to_str().unwrap().to_owned());
        let itself = (KEY.to_owned(), keys[2].text().to_string());
        let mut warnings = Vec::new();
        let mut find =
            |file: Option<&PathBuf>, environment: &[_]| super::find(file.cloned(), environment, &mut warnings);
        assert_eq!(find(None, &[]), Ok(None));
        assert_eq!(find(None, &[(KEY.to_owned(), String::new())]), Ok(None), "an empty variable is none");
        assert_eq!(find(None, std::slice::from_ref(&in_file)), Ok(Some(keys[1].clone())));
        assert_eq!(find(None, std::slice::from_ref(&itself)), Ok(Some(keys[2].clone())));
        assert_eq!(find(Some(&files[0]), &[in_file.clone(), itself.clone()]), Ok(Some(keys[0].clone())));
        assert!(find(None, &[in_file, itself]).unwrap_err().contains("both set"));
        let wrong = find(None, &[(KEY.to_owned(), "hunter2".to_owned())]).unwrap_err();
        assert!(wrong.contains("make-key") && !wrong.contains("hunter2"), "{wrong}");
        assert!(find(Some(&folder.path().join("none")), &[]).unwrap_err().contains("cannot be read"));
        assert!(warnings.is_empty());
        std::fs::set_permissions(&files[0], std::fs::Permissions::from_mode(0o644)).unwrap();
        super::find(Some(files[0].clone()), &[], &mut warnings).unwrap();
        assert!(warnings[0].contains("chmod 600"));
    }
}
