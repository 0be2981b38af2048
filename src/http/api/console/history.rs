//! GET `/_node/{node}/_history`: what the server did in the last hour or day.

use serde_json::json;

use crate::app::App;
use crate::app::history::Period;
use crate::http::request::{Request, query_error};
use crate::http::response::Answer;
use crate::http::response::error::Result;

/// Parameter: `period`, `hour` (the default) or `day`.
pub fn samples(app: &App, request: &Request) -> Result<Answer> {
    let name = request.query.get("period").unwrap_or("hour");
    let period = match name {
        "hour" => Period::Hour,
        "day" => Period::Day,
        _ => return Err(query_error("period is hour or day")),
    };
    let (step, samples) = app.history.samples(period);
    Ok(Answer::ok(&json!({"period": name, "step": step, "samples": samples})))
}
