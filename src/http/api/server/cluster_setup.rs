//! `/_cluster_setup` (`setup_httpd.erl`): accepts what single-node set-up scripts send, and refuses joining a
//! cluster.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::config;
use crate::app::App;
use crate::http::request::Request;
use crate::http::response::Answer;
use crate::http::response::error::{Failure, Result};

/// GET.
pub fn state() -> Result<Answer> {
    Ok(Answer::ok(&json!({"state": "single_node_enabled"})))
}

/// POST: set-up scripts of CouchDB work; nothing can make this server part of a cluster.
pub async fn act(app: &Arc<App>, request: &mut Request) -> Result<Answer> {
    request.must_be_json()?;
    let setup = request.json_object().await?;
    match setup.get("action").and_then(Value::as_str).unwrap_or("missing") {
        "enable_single_node" => {
            let text = |key: &str| setup.get(key).and_then(Value::as_str).map(str::to_owned);
            let port = setup.get("port").and_then(|port| port.as_u64().map(|port| port.to_string()));
            for (key, value) in [("bind_address", text("bind_address")), ("port", port.or(text("port")))] {
                if let Some(value) = value {
                    config::change(app, request.by(), "chttpd".into(), key.into(), Some(value), true).await?;
                }
            }
            // Last: it may change the password that this request has signed in with.
            if let (Some(name), Some(password)) = (text("username"), text("password_hash").or(text("password"))) {
                config::change(app, request.by(), "admins".into(), name, Some(password), true).await?;
            }
            Ok(Answer::json(StatusCode::CREATED, &json!({"ok": true})))
        }
        "finish_cluster" => Err(Failure::bad_request("Cluster is already finished")),
        "enable_cluster" | "add_node" | "receive_cookie" | "remove_node" => {
            Err(Failure::bad_request("This server is a single node: it cannot join a cluster."))
        }
        _ => Err(Failure::bad_request("Invalid Action'")),
    }
}
