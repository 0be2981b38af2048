use serde_json::json;

use super::*;

fn read(body: Value) -> std::result::Result<Parameters, String> {
    let body = body.as_object().expect("an object").clone();
    parameters(&body, &Defaults::default()).map_err(|wrong| wrong.reason().to_owned())
}

/// A body with these members beside its ends.
fn with(members: Value) -> Value {
    let mut body = json!({"source": "http://a.example/x", "target": "y"});
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    body
}

fn remote(endpoint: Endpoint) -> RemoteEndpoint {
    match endpoint {
        Endpoint::Remote(remote) => *remote,
        Endpoint::Local { name } => panic!("{name} is local"),
    }
}

#[test]
fn wrong_bodies_are_refused_with_couchdbs_texts() {
    let header = |name: &str, value: Value| json!({"source": {"url": "http://a/x", "headers": {name: value}}});
    for (members, reason) in [
        (json!({"source": null}), "Missing replicator database"),
        (json!({"source": {}}), "endpoint has an invalid url"),
        (json!({"source": {"url": 5}}), "endpoint has an invalid url"),
        (json!({"source": 5}), "endpoint has an invalid url"),
        (json!({"source": "ftp://a/x"}), "endpoint has an invalid url"),
        (json!({"source": "http://"}), "endpoint has an invalid url"),
        (json!({"source": "http://a:b:c"}), "endpoint has an invalid url"),
        (json!({"source": "http://a b/x"}), "endpoint has an invalid url"),
        (json!({"continuous": 1}), "parameter `continuous` must be a boolean"),
        (json!({"create_target": "yes"}), "parameter `create_target` must be a boolean"),
        (json!({"create_target_params": []}), "parameter `create_target_params` must be a JSON object"),
        (json!({"winning_revs_only": 1}), "parameter `winning_revs_only` must be a boolean"),
        (json!({"use_bulk_get": 1}), "parameter `use_bulk_get` must be a boolean"),
        (json!({"doc_ids": "x"}), "parameter `doc_ids` must be an array"),
        (json!({"doc_ids": [1]}), "parameter `doc_ids` must be an array of strings"),
        (json!({"selector": "x"}), "parameter `selector` must be a JSON object"),
        (json!({"query_params": "x"}), "parameter `query_params` must be an object"),
        (json!({"worker_processes": "many"}), "parameter `worker_processes` must be an integer"),
        (json!({"worker_batch_size": -1}), "parameter `worker_batch_size` must be an integer"),
        (json!({"filter": "x"}), "Invalid filter. Must match `ddocname/filtername`."),
        (json!({"filter": "_view"}), "Invalid `view` parameter."),
        (json!({"filter": "_view", "query_params": {"view": "a"}}), "Invalid `view` parameter."),
        (json!({"doc_ids": [], "filter": "a/b"}), "`doc_ids`,`filter`,`selector` are mutually exclusive"),
        (json!({"doc_ids": [], "selector": {}}), "`doc_ids`,`filter`,`selector` are mutually exclusive"),
        (json!({"filter": "a/b", "selector": {}}), "`doc_ids`,`filter`,`selector` are mutually exclusive"),
        (json!({"proxy": "http://p", "source_proxy": "http://q"}), "`proxy` is mutually exclusive with `source_proxy`"),
        (json!({"proxy": "http://p", "target_proxy": "http://q"}), "`proxy` is mutually exclusive with `target_proxy`"),
        (json!({"proxy": "ftp://p"}), "proxy has an invalid url"),
        (json!({"proxy": 5}), "Invalid proxy url"),
        (header("Content-Length", json!("1")), "the header `Content-Length` of an endpoint is not allowed"),
        (header("X", json!("a\nb")), "the header `X` of an endpoint is not allowed"),
        (header("X", json!(1)), "parameter `headers` must be an object of strings"),
        (header("X", "y".repeat(20_000).into()), "an endpoint has too many headers"),
    ] {
        assert_eq!(read(with(members.clone())), Err(reason.to_owned()), "{members}");
    }
    let name = read(json!({"source": "A", "target": "b"})).unwrap_err();
    assert!(name.contains("Only lowercase characters") || name == "A", "{name}");
}

#[test]
fn a_body_sets_its_parameters() {
    let parameters = read(with(json!({
        "continuous": true,
        "create_target": true,
        "create_target_params": {"q": 1},
        "doc_ids": ["b", "a%20c", "b"],
        "since_seq": "7-x",
        "winning_revs_only": true,
        "use_checkpoints": false,
        "use_bulk_get": false,
        "checkpoint_interval": 5000,
        "worker_processes": "2",
        "worker_batch_size": 1_000_000,
        "http_connections": 0,
        "connection_timeout": 1,
        "retries_per_request": 3,
        "socket_options": "[]",
        "unknown": {},
    })))
    .unwrap();
    assert_eq!(parameters.filter, Filter::DocIds(vec!["a c".into(), "b".into()]));
    assert_eq!(parameters.target, Endpoint::Local { name: "y".into() });
    assert!(parameters.continuous && parameters.create_target && parameters.winning_revs_only);
    assert!(!parameters.use_checkpoints && !parameters.use_bulk_get);
    assert_eq!(parameters.since_seq, Some(json!("7-x")));
    assert_eq!(parameters.checkpoint_interval, Duration::from_secs(5));
    assert_eq!((parameters.worker_processes, parameters.retries_per_request), (2, 3));
    assert_eq!((parameters.worker_batch_size, parameters.http_connections), (2000, 1), "numbers have bounds");
    assert_eq!(parameters.connection_timeout, Duration::from_millis(100));
    let defaults = read(with(json!({"doc_ids": null}))).unwrap();
    assert_eq!(defaults, Parameters::new(defaults.source.clone(), defaults.target.clone()));
}

#[test]
fn query_parameters_are_text() {
    let body = json!({"filter": "a/b", "query_params": {"x": "1", "y": 2, "z": true, "o": {"a": 1}}});
    let parameters = read(with(body)).unwrap();
    let pairs: Vec<(&str, &str)> =
        parameters.query_params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("x", "1"), ("y", "2"), ("z", "true"), ("o", r#"{"a":1}"#)]);
}

#[test]
fn credentials_come_from_auth_then_the_url_then_the_header() {
    let basic = |username: &str, password: &str| Some(Basic { username: username.into(), password: password.into() });
    let header = "Basic aGVhZDpwYXNz";
    for (source, auth, left) in [
        (json!("http://ann:se%20cret@a.example:5984/x/"), basic("ann", "se cret"), 0),
        (json!("http://ann:p@ss@a.example/x"), basic("ann", "p@ss"), 0),
        (json!("http://ann@a.example/x"), None, 0),
        (json!({"url": "http://a.example/x", "headers": {"authorization": header}}), basic("head", "pass"), 0),
        (json!({"url": "http://u:v@a.example/x", "headers": {"Authorization": header}}), basic("u", "v"), 0),
        (json!({"url": "http://u:v@a/x", "auth": {"basic": {"username": "b", "password": "c"}}}), basic("b", "c"), 0),
        (json!({"url": "http://a/x", "headers": {"Authorization": "Bearer x", "X-Y": "z"}}), None, 2),
    ] {
        let source = remote(read(with(json!({"source": source}))).unwrap().source);
        assert_eq!((&source.auth, source.headers.len()), (&auth, left), "{source:?}");
        let shown = format!("{source:?} {}", Endpoint::Remote(Box::new(source.clone())));
        for secret in ["se cret", "p@ss", "pass", "Bearer"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[test]
fn urls_and_names_are_endpoints() {
    for (text, seen) in [
        ("http://a.example/x", "http://a.example/x/"),
        ("https://a.example:6984/x/", "https://a.example:6984/x/"),
        ("HTTP://a.example/team%2Fx//", "http://a.example/team%2Fx/"),
        ("http://u:v@[::1]:5984/x", "http://[::1]:5984/x/"),
        ("notes", "notes"),
        ("team%2Fnotes", "team/notes"),
        ("notes/", "notes"),
    ] {
        assert_eq!(read(with(json!({"source": text}))).unwrap().source.to_string(), seen, "{text}");
    }
    assert_eq!(shown(Some(&json!("http://a:b:c"))), None);
    assert_eq!(shown(Some(&json!({"url": "http://adm:pass@host/db"}))).as_deref(), Some("http://host/db/"));
    assert_eq!(shown(None), None);
}

#[test]
fn http_can_be_forbidden() {
    let defaults = Defaults { allows_http: false, ..Defaults::default() };
    let of = |source: &str| parameters(json!({"source": source, "target": "y"}).as_object().unwrap(), &defaults);
    assert_eq!(of("http://a/x").unwrap_err().reason(), "endpoint has an invalid url");
    assert!(of("https://a/x").is_ok());
}

#[test]
fn a_request_starts_or_cancels() {
    let ask = |body: Value| request(body.as_object().unwrap(), &Defaults::default());
    for name in ["id", "replication_id", "_local_id"] {
        let asked = ask(json!({"cancel": true, name: "abc+continuous"}));
        assert_eq!(asked, Ok(Asked::CancelId("abc+continuous".into())));
    }
    assert!(matches!(ask(json!({"cancel": true, "source": "a", "target": "b"})), Ok(Asked::Cancel(_))));
    assert!(matches!(ask(json!({"id": "x", "source": "a", "target": "b"})), Ok(Asked::Start(_))));
    let wrong = ask(json!({"cancel": "yes", "id": "x"})).unwrap_err();
    assert_eq!(wrong.reason(), "parameter `cancel` must be a boolean");
    assert_eq!(ask(json!({})).unwrap_err(), Wrong::Body("Missing replicator database".into()));
}

#[test]
fn an_admins_job_may_act_as_somebody_else() {
    let of = |body: Value| user_ctx(body.as_object().unwrap());
    let ann = UserCtx { name: Some("ann".into()), roles: vec!["r".into()], handler: None };
    assert_eq!(of(json!({"user_ctx": {"name": "ann", "roles": ["r"]}})), Ok(Some(ann)));
    assert_eq!(of(json!({})), Ok(None));
    assert!(of(json!({"user_ctx": {"name": 1}})).is_err());
    assert!(of(json!({"user_ctx": {"roles": [1]}})).is_err());
}

#[test]
fn a_proxy_belongs_to_the_remote_ends_it_is_named_for() {
    let ends = |members: Value| {
        let body = json!({"source": "http://a/x", "target": "https://b/y"});
        let mut body = body.as_object().unwrap().clone();
        body.extend(members.as_object().unwrap().clone());
        let read = read(Value::Object(body)).unwrap();
        [read.source.proxy(), read.target.proxy()]
    };
    let shown = |text: &str| Some(text.to_owned());
    assert_eq!(ends(json!({"proxy": ""})), [None, None]);
    let both = json!({"proxy": "http://ann:secret@p:3128/path?query"});
    assert_eq!(ends(both), [shown("http://p:3128/"), shown("http://p:3128/")]);
    let apart = json!({"source_proxy": "socks5://p", "target_proxy": "https://q"});
    assert_eq!(ends(apart), [shown("socks5://p/"), shown("https://q/")]);
    let read = read(with(json!({"proxy": "http://ann:s%40cret@p"}))).unwrap();
    let proxy = remote(read.source).proxy.unwrap();
    assert_eq!(proxy.user, Some(("ann".into(), "s@cret".into())));
    assert!(!format!("{proxy:?}").contains("cret"), "{proxy:?}");
    assert_eq!(read.target.proxy(), None, "a database here is reached without one");
}
