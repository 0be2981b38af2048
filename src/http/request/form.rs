//! Forms: the bodies of sign-ins.

use http::header;
use serde_json::Value;

use super::decoded::Request;
use crate::error::Error;
use crate::http::response::error::Result;

/// Reads the members of a form or of a JSON object. Ignores JSON members that are not strings.
pub(crate) async fn read_form(request: &mut Request) -> Result<Vec<(String, String)>> {
    request.body.tighten(MAX_FORM);
    let content_type = request.header(header::CONTENT_TYPE).unwrap_or("").to_ascii_lowercase();
    if content_type.starts_with("application/x-www-form-urlencoded") {
        let body = request.whole().await?;
        return Ok(form_urlencoded::parse(&body).into_owned().collect());
    }
    if !content_type.starts_with("application/json") {
        let reason = "Content-Type must be 'application/x-www-form-urlencoded' or 'application/json'";
        return Err(Error::BadContentType(reason.into()).into());
    }
    let members = request.json_object().await?;
    Ok(members.into_iter().filter_map(|(name, value)| text(value).map(|value| (name, value))).collect())
}

/// Maximum size of a sign-in form in bytes.
const MAX_FORM: u64 = 64 << 10;

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}
