//! GET `/_utils/...`: the files of the console, which `build.rs` lists and the binary contains.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::http::request::Request;
use crate::http::request::etag::matches_etag;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};

/// Name and content of each file below `src/console`.
static EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/console_files.rs"));

/// The environment variable with a folder from which the files are read instead, at each request. For developers of
/// the console; no setting, because a setting could be changed over HTTP and would then name files to read.
const FOLDER: &str = "SETTEE_CONSOLE_DIR";

/// What a page of the console may do: run its own scripts, and talk to this server only. `base-uri` is for the page at
/// `/`, `blob:` for previews of attachments.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src \
                      'self' blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'none'; \
                      base-uri 'self'; frame-ancestors 'none'";

struct File {
    content: Bytes,
    etag: String,
}

impl File {
    fn of(content: Bytes) -> File {
        let etag = crate::hex::hex(&Sha256::digest(&content)[..16]);
        File { content, etag }
    }
}

static FILES: LazyLock<BTreeMap<&str, File>> =
    LazyLock::new(|| EMBEDDED.iter().map(|(name, content)| (*name, File::of(Bytes::from_static(content)))).collect());

/// The console's page at `/`: addresses in it are relative to `_utils/`.
static ROOT_PAGE: LazyLock<File> = LazyLock::new(|| at_root(&FILES["index.html"].content));

static READ_FROM: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let folder = std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    if let Some(folder) = &folder {
        tracing::warn!("{FOLDER}: the console is read from {} at each request", folder.display());
    }
    folder
});

/// GET `/_utils/{path}`.
pub fn utils(request: &Request, path: &str) -> Result<Answer> {
    let name = match path {
        "" if !request.target.split('?').next().unwrap_or("").ends_with('/') => {
            // Relative, so that a browser stays below the path at which a proxy serves the server.
            return Ok(Answer::moved("_utils/"));
        }
        // The page to which browsers are sent to sign in (`chttpd_auth/authentication_redirect`).
        "" | "session.html" => "index.html",
        path => path,
    };
    match &*READ_FROM {
        Some(folder) => {
            let content = read(folder, name).ok_or_else(Failure::missing)?;
            Ok(answer(request, name, &File::of(content)))
        }
        None => Ok(answer(request, name, FILES.get(name).ok_or_else(Failure::missing)?)),
    }
}

/// GET `/` by a browser: the console's page.
pub fn root_page(request: &Request) -> Result<Answer> {
    let vary = |answer: Answer| answer.with(header::VARY, HeaderValue::from_static("Accept"));
    match &*READ_FROM {
        Some(folder) => {
            let page = read(folder, "index.html").ok_or_else(Failure::missing)?;
            Ok(vary(answer(request, "index.html", &at_root(&page))))
        }
        None => Ok(vary(answer(request, "index.html", &ROOT_PAGE))),
    }
}

fn at_root(page: &[u8]) -> File {
    let page = String::from_utf8_lossy(page).replacen("<head>", "<head>\n<base href=\"_utils/\">", 1);
    File::of(Bytes::from(page))
}

fn answer(request: &Request, name: &str, file: &File) -> Answer {
    // `no-cache`: the browser asks each time, and gets 304 while the content is the same.
    let answer = match matches_etag(&request.headers, &file.etag) {
        true => Answer::not_modified(&file.etag),
        false => Answer::bytes(StatusCode::OK, file.content.clone())
            .with(header::CONTENT_TYPE, HeaderValue::from_static(content_type(name)))
            .etag(&file.etag),
    };
    answer
        .with(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
        .with(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY))
        .with(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"))
        .with(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Reads a file below `folder`. No name leads out of it: each segment must be a plain file name, and symbolic links are
/// resolved before the comparison.
fn read(folder: &Path, name: &str) -> Option<Bytes> {
    let is_plain =
        |segment: &str| !segment.is_empty() && !segment.starts_with('.') && !segment.contains(['\\', ':', '\0']);
    if !name.split('/').all(is_plain) {
        return None;
    }
    let folder = folder.canonicalize().ok()?;
    let path: Cow<Path> = folder.join(name).canonicalize().ok()?.into();
    let is_inside = path.starts_with(&folder) && path.is_file();
    is_inside.then(|| std::fs::read(&path).ok().map(Bytes::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_disk(folder: &Path, before: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let name = format!("{before}{}", entry.file_name().into_string().unwrap());
            match entry.path().is_dir() {
                true => on_disk(&entry.path(), &format!("{name}/"), found),
                false => found.push(name),
            }
        }
    }

    #[test]
    fn every_file_of_the_console_is_embedded_with_a_type_that_browsers_take() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console");
        let mut found = Vec::new();
        on_disk(&folder, "", &mut found);
        found.retain(|name| !name.ends_with(".md") && !name.split('/').any(|part| part.starts_with('.')));
        found.sort_unstable();
        assert_eq!(found, FILES.keys().copied().collect::<Vec<_>>());
        for (name, file) in &*FILES {
            assert_eq!(std::fs::read(folder.join(name)).unwrap(), file.content, "{name}");
            assert_ne!(content_type(name), "application/octet-stream", "{name} has no content type");
        }
    }

    #[test]
    fn pages_name_nothing_absolute_and_contain_no_script_or_style() {
        for (name, file) in FILES.iter().filter(|(name, _)| name.ends_with(".html")) {
            let text = std::str::from_utf8(&file.content).unwrap();
            for wrong in ["=\"/", "='/", "http://", "https://", "style=", "<style", "onclick", "onload", "javascript:"]
            {
                assert!(!text.contains(wrong), "{name} contains {wrong}");
            }
            for script in text.split("<script").skip(1) {
                let (attributes, rest) = script.split_once('>').unwrap();
                assert!(attributes.contains("src=\"") && rest.starts_with("</script>"), "{name}: an inline script");
            }
        }
        let root = String::from_utf8(ROOT_PAGE.content.to_vec()).unwrap();
        assert!(root.contains("<head>\n<base href=\"_utils/\">"));
    }

    #[test]
    fn a_name_does_not_lead_out_of_the_folder_on_disk() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console");
        assert!(read(&folder, "index.html").is_some());
        for name in
            ["../lib.rs", "..", ".", "", "/etc/passwd", "a/../../lib.rs", "..\\lib.rs", "index.html/", "none.js"]
        {
            assert!(read(&folder, name).is_none(), "{name}");
        }
    }
}
