//! One script environment: a QuickJS runtime of its own with the sandbox loaded, and the clock that watches it.
//!
//! An environment belongs to one design document (and one user, or one set of view functions) of one database and is
//! never shared: memory limit, globals and modules are its own, so nothing a script leaves behind reaches another.
//! Text goes in, text comes out; a failure says whether the environment may be used again.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rquickjs::context::intrinsic;
use rquickjs::function::IntoArgs;
use rquickjs::module::WriteOptions;
use rquickjs::{Context, Ctx, Exception, Function, Module, Object, Persistent, Runtime, Value};

use super::frozen::Freezer;
use crate::error::Error;

/// What scripts see and what the engine calls: views, validation, filters.
const SANDBOX: &str = include_str!("sandbox.js");
/// What shows, lists, updates and rewrites need on top.
const RENDER: &str = include_str!("render.js");

/// Room for the native stack of a script: deep documents and recursive functions, of the thread's `STACK`.
const SCRIPT_STACK: usize = 4 << 20;
/// The stack that a thread of the pool is given.
pub(super) const STACK: usize = 8 << 20;
/// An input of n bytes may need this many times n as JavaScript values, on top of the memory limit.
const INPUT_FACTOR: usize = 24;
/// Longest message of `log` that is kept, in bytes.
const LOG_LIMIT: usize = 4096;

/// What JavaScript a script may use. No WeakRef (it would show when memory is collected) and no clock but `Date`.
type Intrinsics = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    intrinsic::Promise,
);

/// A failed call; `fatal` when the environment must be thrown away.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    pub fatal: bool,
}

impl Failure {
    pub fn fatal(error: Error) -> Failure {
        Failure { error, fatal: true }
    }
}

/// The wall clock of one thread: when the script at work must be done, and whether its caller is still there.
pub(super) struct Watch {
    base: Instant,
    /// Milliseconds after `base`; 0 while no script is at work.
    deadline: AtomicU64,
    cancel: Mutex<Arc<AtomicBool>>,
    expired: AtomicBool,
}

impl Watch {
    pub fn new() -> Watch {
        Watch {
            base: Instant::now(),
            deadline: AtomicU64::new(0),
            cancel: Mutex::new(Arc::new(AtomicBool::new(false))),
            expired: AtomicBool::new(false),
        }
    }

    /// The job that starts now belongs to the caller that holds `cancel`.
    pub fn owner(&self, cancel: Arc<AtomicBool>) {
        *self.cancel.lock() = cancel;
        self.expired.store(false, Ordering::Relaxed);
    }

    /// A script starts and has `limit` from now.
    pub fn start(&self, limit: Duration) {
        let deadline = (self.base.elapsed() + limit).as_millis().max(1);
        self.deadline.store(u64::try_from(deadline).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// No script is at work, or it waits for something that is not its fault.
    pub fn stop(&self) {
        self.deadline.store(0, Ordering::Relaxed);
    }

    /// How far past its time the script is; None while it is within it.
    pub fn overdue(&self) -> Option<Duration> {
        let deadline = self.deadline.load(Ordering::Relaxed);
        let now = self.base.elapsed();
        if deadline == 0 { None } else { now.checked_sub(Duration::from_millis(deadline)) }
    }

    pub fn cancelled(&self) -> bool {
        self.cancel.lock().load(Ordering::Relaxed)
    }

    fn interrupt(&self) -> bool {
        if self.overdue().is_some() {
            self.expired.store(true, Ordering::Relaxed);
            return true;
        }
        self.cancelled()
    }
}

/// What CouchDB answers when a script does not come back in time.
pub(super) fn timed_out() -> Error {
    Error::Script { word: "os_process_error".into(), reason: "OS process timed out.".into() }
}

/// The way out of a running list function: it is handed a part of the response, and answers the next row. None after the
/// last row; an error when nobody listens any more.
pub(super) type Exchange = Box<dyn FnMut(String) -> Result<Option<String>, ()> + Send>;

pub(super) struct Environment {
    // Fields are dropped in this order: what lives in the runtime before the runtime.
    table: Persistent<Object<'static>>,
    context: Context,
    runtime: Runtime,
    memory: usize,
    watch: Arc<Watch>,
    exchange: Arc<Mutex<Option<Exchange>>>,
}

impl Environment {
    /// An empty environment with a memory limit of `memory` bytes, watched by `watch`.
    pub fn new(memory: usize, watch: Arc<Watch>) -> Result<Environment, Failure> {
        let runtime = Runtime::new().map_err(|error| Failure::fatal(Error::Internal(error.to_string())))?;
        runtime.set_memory_limit(memory);
        runtime.set_max_stack_size(SCRIPT_STACK);
        let seen = watch.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || seen.interrupt())));
        let context = Context::custom::<Intrinsics>(&runtime)
            .map_err(|error| Failure::fatal(Error::Internal(error.to_string())))?;
        let exchange = Arc::new(Mutex::new(None));
        let table = context.with(|ctx| {
            prepare(&ctx, exchange.clone())
                .map(|table| Persistent::save(&ctx, table))
                .map_err(|error| Failure::fatal(Error::Internal(format!("script sandbox: {error}"))))
        })?;
        Ok(Environment { table, context, runtime, memory, watch, exchange })
    }

    /// Room for an input of `bytes` on top of the memory limit.
    pub fn make_room(&self, bytes: usize) {
        self.runtime.set_memory_limit(self.memory.saturating_add(bytes.saturating_mul(INPUT_FACTOR)));
    }

    /// Calls `work` with the means to call entries; the whole of it under one lock of the runtime.
    pub fn with<R>(&self, work: impl FnOnce(&Calls<'_>) -> Result<R, Failure>) -> Result<R, Failure> {
        let answer = self.context.with(|ctx| {
            let calls = match self.table.clone().restore(&ctx) {
                Ok(table) => Calls { ctx, table, watch: self.watch.clone() },
                Err(error) => return Err(Failure::fatal(Error::Internal(format!("script sandbox: {error}")))),
            };
            work(&calls)
        });
        self.watch.stop();
        answer
    }

    /// As [`Environment::call`], while `exchange` takes what the script sends and gives it rows.
    pub fn stream(
        &self,
        entry: &str,
        json: String,
        text: &str,
        limit: Duration,
        mut exchange: Exchange,
    ) -> Result<String, Failure> {
        let watch = self.watch.clone();
        // The time that the client takes to read, or the view to give a row, is not the script's.
        let timed: Exchange = Box::new(move |part| {
            watch.stop();
            let row = exchange(part);
            watch.start(limit);
            row
        });
        *self.exchange.lock() = Some(timed);
        let answer = self.call(entry, json, text, limit);
        *self.exchange.lock() = None;
        answer
    }

    /// One call of `entry` with one JSON argument and one text, within `limit`.
    pub fn call(&self, entry: &str, json: String, text: &str, limit: Duration) -> Result<String, Failure> {
        self.make_room(json.len());
        self.with(|calls| {
            self.watch.start(limit);
            let entry = calls.entry(entry)?;
            let value = calls.parse(json)?;
            calls.call(&entry, (value, text))
        })
    }
}

/// Loads the sandbox; answers the table of entries.
fn prepare<'js>(ctx: &Ctx<'js>, exchange: Arc<Mutex<Option<Exchange>>>) -> rquickjs::Result<Object<'js>> {
    let host = Object::new(ctx.clone())?;
    host.set(
        "log",
        Function::new(ctx.clone(), |message: String| {
            let end = message.floor_char_boundary(LOG_LIMIT);
            tracing::info!(target: "settee::script", "log: {}", &message[..end]);
        }),
    )?;
    let next = move |ctx: Ctx<'js>, part: String| match exchange.lock().as_mut() {
        Some(exchange) => exchange(part).map_err(|()| Exception::throw_message(&ctx, "the client went away")),
        None => Ok(None),
    };
    host.set("exchange", Function::new(ctx.clone(), next))?;
    let (sandbox, render) = compiled()?;
    let table: Object = load(ctx, sandbox)?.call((host,))?;
    let inner: Object = table.get("inner")?;
    load(ctx, render)?.call::<_, ()>((table.clone(), inner))?;
    Ok(table)
}

/// The bytecode of [`SANDBOX`] and [`RENDER`]: to parse them takes ten times as long as all else that an environment needs.
fn compiled() -> rquickjs::Result<&'static (Vec<u8>, Vec<u8>)> {
    static COMPILED: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    if let Some(compiled) = COMPILED.get() {
        return Ok(compiled);
    }
    let runtime = Runtime::new()?;
    let context = Context::custom::<Intrinsics>(&runtime)?;
    let made = context.with(|ctx| {
        let compile = |name: &str, source: &str| {
            let options = WriteOptions { strip_source: true, strip_debug: true, ..WriteOptions::default() };
            Module::declare(ctx.clone(), name, format!("export default {source}"))?.write(options)
        };
        rquickjs::Result::Ok((compile("sandbox", SANDBOX)?, compile("render", RENDER)?))
    })?;
    Ok(COMPILED.get_or_init(|| made))
}

/// The function that a compiled source is.
fn load<'js>(ctx: &Ctx<'js>, bytecode: &[u8]) -> rquickjs::Result<Function<'js>> {
    // SAFETY: the bytes are what `compiled` had the same library write in this process, and nothing else.
    let module = unsafe { Module::load(ctx.clone(), bytecode)? };
    let (module, _) = module.eval()?;
    module.get("default")
}

/// An environment while it is locked: its entries can be called.
pub(super) struct Calls<'js> {
    ctx: Ctx<'js>,
    table: Object<'js>,
    watch: Arc<Watch>,
}

impl<'js> Calls<'js> {
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The entry of this name in the sandbox's table.
    pub fn entry(&self, name: &str) -> Result<Function<'js>, Failure> {
        self.table.get(name).map_err(|_| self.broken())
    }

    /// `json`, which must be valid JSON of ours, as a JavaScript value.
    pub fn parse(&self, json: String) -> Result<Value<'js>, Failure> {
        self.ctx.json_parse(json).map_err(|_| self.broken())
    }

    /// For documents that no function may change.
    pub fn freezer(&self) -> Freezer<'js> {
        Freezer::new(&self.ctx)
    }

    /// Calls an entry and runs the jobs that it left; answers its text, or what the text says went wrong.
    pub fn call<A: IntoArgs<'js>>(&self, entry: &Function<'js>, args: A) -> Result<String, Failure> {
        let answer: Value<'js> = entry.call(args).map_err(|_| self.broken())?;
        while self.ctx.execute_pending_job() {
            if self.watch.interrupt() {
                return Err(self.broken());
            }
        }
        // An interrupted job takes its exception with it.
        if self.watch.expired.load(Ordering::Relaxed) {
            return Err(self.broken());
        }
        // A text that does not come over is out of memory: what the engine answers is always valid UTF-8.
        let text = answer.as_string().and_then(|text| text.to_string().ok()).ok_or_else(|| self.broken())?;
        match text.strip_prefix('!') {
            None => Ok(text),
            Some(told) => Err(failure(told)),
        }
    }

    /// Why a call came back without an answer: interrupted, out of memory or stack, never the script's own `throw`.
    fn broken(&self) -> Failure {
        if self.watch.expired.load(Ordering::Relaxed) {
            return Failure::fatal(timed_out());
        }
        if self.watch.cancelled() {
            return Failure::fatal(Error::Script {
                word: "os_process_error".into(),
                reason: "caller went away".into(),
            });
        }
        let thrown = self.ctx.catch();
        let told = thrown.as_exception().and_then(|exception| exception.message());
        let reason = told.unwrap_or_else(|| "out of memory".into());
        Failure::fatal(Error::Script { word: "InternalError".into(), reason })
    }
}

/// The sandbox's `[word, reason, fatal]` as an error.
fn failure(told: &str) -> Failure {
    let (word, reason, fatal): (String, serde_json::Value, bool) = serde_json::from_str(&mend(told))
        .unwrap_or_else(|_| ("internal_error".into(), serde_json::Value::String("error cannot be shown".into()), true));
    let reason = match reason {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    Failure { error: worded(word, reason), fatal }
}

/// CouchDB's meaning of the words that a script may choose.
pub(super) fn worded(word: String, reason: String) -> Error {
    match word.as_str() {
        "not_found" => Error::NotFound(reason),
        "forbidden" => Error::Forbidden(reason),
        "unauthorized" => Error::Unauthorized(reason),
        "bad_request" => Error::BadRequest(reason),
        "query_parse_error" => Error::QueryParse(reason),
        "conflict" => Error::Conflict,
        _ => Error::Script { word, reason },
    }
}

/// JSON text of the engine, made acceptable: half of a surrogate pair, which JavaScript strings may hold and UTF-8 not,
/// becomes U+FFFD. `JSON.stringify` writes `\ud8..` to `\udf..` only for such halves.
/// (CouchDB: `couch_query_servers:force_utf8`.)
pub(super) fn mend(json: &str) -> Cow<'_, str> {
    if !json.contains("\\ud") {
        return Cow::Borrowed(json);
    }
    let bytes = json.as_bytes();
    let mut out = String::with_capacity(json.len());
    let (mut from, mut at) = (0, 0);
    while let Some(found) = bytes[at..].iter().position(|&byte| byte == b'\\') {
        let start = at + found;
        let half = matches!(bytes.get(start + 1..start + 4), Some([b'u', b'd', b'8'..=b'9' | b'a'..=b'f']));
        if half {
            out.push_str(&json[from..start]);
            out.push('\u{FFFD}');
            from = start + 6;
            at = from;
        } else {
            at = start + 2;
        }
    }
    out.push_str(&json[from..]);
    Cow::Owned(out)
}
