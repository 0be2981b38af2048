//! A script environment of a worker: a QuickJS runtime with the sandbox loaded, and the clock that limits its
//! CPU time.
//!
//! An environment belongs to one design document (and one user, or one set of view functions) of one
//! database. It is never shared: it has its own memory limit, globals and modules, so nothing a script leaves
//! behind reaches another one. Input and output are texts. An error that ends an environment states the
//! cause.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use rquickjs::context::intrinsic;
use rquickjs::function::IntoArgs;
use rquickjs::module::WriteOptions;
use rquickjs::{Context, Ctx, Exception, Function, Module, Object, Persistent, Runtime, Value};

use super::frozen::Freezer;
use super::memory::{Account, Counted};
use super::wire::Cause;

/// Evaluates the source of a function; used by [`SANDBOX`].
const SOURCE: &str = include_str!("source.js");
/// What scripts see and what the engine calls: views, validation, filters.
const SANDBOX: &str = include_str!("sandbox.js");
/// The additions for shows, lists, updates and rewrites.
const RENDER: &str = include_str!("render.js");

/// Limit of a script's native stack (deep documents, recursive functions), as a part of the thread's `STACK`.
const SCRIPT_STACK: usize = 4 << 20;
/// The stack of the thread that runs scripts.
pub(super) const STACK: usize = 8 << 20;
/// Messages of `log` are truncated to this many bytes.
const LOG_LIMIT: usize = 4096;

/// The JavaScript features that a script may use. No WeakRef, which would reveal garbage collection, and no
/// clock except `Date`.
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

/// Why an environment must be discarded.
#[derive(Debug)]
pub(super) struct Ended {
    pub cause: Cause,
    pub word: String,
    pub reason: String,
}

impl Ended {
    /// A failure of the engine or the sandbox, not of the script.
    pub fn broken(error: impl std::fmt::Display) -> Ended {
        Ended { cause: Cause::Memory, word: "InternalError".into(), reason: format!("script sandbox: {error}") }
    }
}

/// CPU clock of the thread that runs scripts, and the deadline of the running script.
#[derive(Default)]
pub(super) struct Clock {
    /// In CPU time of the thread; zero while no script runs.
    deadline: Cell<Duration>,
    expired: Cell<bool>,
}

impl Clock {
    /// Returns the CPU time that this thread has used.
    pub fn now() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    /// Starts the time of a script: it must end within `limit` from `now`.
    pub fn start(&self, now: Duration, limit: Duration) {
        self.expired.set(false);
        self.deadline.set(now.saturating_add(limit));
    }

    /// Removes the deadline, because no script runs.
    pub fn stop(&self) {
        self.deadline.set(Duration::ZERO);
    }

    fn interrupt(&self) -> bool {
        let deadline = self.deadline.get();
        if !deadline.is_zero() && Clock::now() > deadline {
            self.expired.set(true);
        }
        self.expired.get()
    }
}

/// Connection from a script to the server.
pub(super) trait Link {
    fn log(&self, message: &str);
    /// Sends a part of a list and returns the next row, or `None` after the last one. Returns an error if the
    /// client is gone.
    fn exchange(&self, part: &str) -> Result<Option<String>, ()>;
}

pub(super) struct Environment {
    // Fields are dropped in this order: everything that lives in the runtime before the runtime.
    table: Persistent<Object<'static>>,
    context: Context,
    _runtime: Runtime,
    account: Rc<Account>,
    clock: Rc<Clock>,
}

impl Environment {
    /// Creates an environment without functions that may use `memory` bytes.
    pub fn new(memory: usize, clock: Rc<Clock>, link: Rc<dyn Link>) -> Result<Environment, Ended> {
        let account = Rc::new(Account::default());
        account.set_limit(memory);
        let runtime = Runtime::new_with_alloc(Counted(account.clone())).map_err(Ended::broken)?;
        runtime.set_max_stack_size(SCRIPT_STACK);
        let seen = clock.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || seen.interrupt())));
        let context = Context::custom::<Intrinsics>(&runtime).map_err(Ended::broken)?;
        let table = context
            .with(|ctx| prepare(&ctx, link).map(|table| Persistent::save(&ctx, table)))
            .map_err(Ended::broken)?;
        Ok(Environment { table, context, _runtime: runtime, account, clock })
    }

    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Calls `work` with access to the entries.
    pub fn with<R>(&self, work: impl FnOnce(&Calls<'_>) -> Result<R, Ended>) -> Result<R, Ended> {
        let answer = self.context.with(|ctx| {
            let table = self.table.clone().restore(&ctx).map_err(Ended::broken)?;
            work(&Calls { ctx, table, clock: self.clock.clone(), account: self.account.clone() })
        });
        self.clock.stop();
        answer
    }
}

/// Loads the sandbox and returns the table of its entries.
fn prepare<'js>(ctx: &Ctx<'js>, link: Rc<dyn Link>) -> rquickjs::Result<Object<'js>> {
    let host = Object::new(ctx.clone())?;
    let to = link.clone();
    let log = move |message: String| to.log(&message[..message.floor_char_boundary(LOG_LIMIT)]);
    host.set("log", Function::new(ctx.clone(), log))?;
    let next = move |ctx: Ctx<'js>, part: String| {
        link.exchange(&part).map_err(|()| Exception::throw_message(&ctx, "the client went away"))
    };
    host.set("exchange", Function::new(ctx.clone(), next))?;
    let [source, sandbox, render] = compiled()?;
    host.set("source", load(ctx, source)?.call::<_, Object>(())?)?;
    let table: Object = load(ctx, sandbox)?.call((host,))?;
    let inner: Object = table.get("inner")?;
    load(ctx, render)?.call::<_, ()>((table.clone(), inner))?;
    Ok(table)
}

/// Returns the bytecode of [`SOURCE`], [`SANDBOX`] and [`RENDER`]. Parsing them takes ten times as long as everything
/// else that creates an environment.
fn compiled() -> rquickjs::Result<&'static [Vec<u8>; 3]> {
    static COMPILED: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
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
        // Makes the C library read the time zone, which a confined worker cannot do.
        ctx.eval::<f64, _>("new Date(2020, 1, 1).getTimezoneOffset()")?;
        rquickjs::Result::Ok([compile("source", SOURCE)?, compile("sandbox", SANDBOX)?, compile("render", RENDER)?])
    })?;
    Ok(COMPILED.get_or_init(|| made))
}

/// Does in advance what needs files or much time. Must run before the worker is confined.
pub(super) fn warm_up() -> Result<(), Ended> {
    compiled().map(drop).map_err(Ended::broken)
}

/// Loads the function that [`compiled`] compiled.
fn load<'js>(ctx: &Ctx<'js>, bytecode: &[u8]) -> rquickjs::Result<Function<'js>> {
    // SAFETY: the same library wrote these bytes in this process, in `compiled`.
    let module = unsafe { Module::load(ctx.clone(), bytecode)? };
    let (module, _) = module.eval()?;
    module.get("default")
}

/// Access to an environment: calls its entries.
pub(super) struct Calls<'js> {
    ctx: Ctx<'js>,
    table: Object<'js>,
    clock: Rc<Clock>,
    account: Rc<Account>,
}

impl<'js> Calls<'js> {
    /// The next call starts at `now` and may take `limit`.
    pub fn start(&self, now: Duration, limit: Duration) {
        self.account.forget();
        self.clock.start(now, limit);
    }

    /// Returns the entry of this name from the sandbox's table.
    pub fn entry(&self, name: &str) -> Result<Function<'js>, Ended> {
        self.table.get(name).map_err(|_| self.broken())
    }

    /// Parses `json`, which must be valid JSON from the server, to a JavaScript value.
    pub fn parse(&self, json: &str) -> Result<Value<'js>, Ended> {
        self.ctx.json_parse(json).map_err(|_| self.broken())
    }

    pub fn text(&self, text: &str) -> Result<Value<'js>, Ended> {
        rquickjs::String::from_str(self.ctx.clone(), text).map(rquickjs::String::into_value).map_err(|_| self.broken())
    }

    pub fn undefined(&self) -> Value<'js> {
        Value::new_undefined(self.ctx.clone())
    }

    /// Creates a parser of documents that functions cannot change.
    pub fn freezer(&self) -> Freezer<'js> {
        Freezer::new(&self.ctx)
    }

    /// Calls an entry and runs the promise jobs that it left pending. Returns the entry's text: JSON, or `!` and
    /// the failure.
    pub fn call<A: IntoArgs<'js>>(&self, entry: &Function<'js>, args: A) -> Result<String, Ended> {
        let answer: Value<'js> = entry.call(args).map_err(|_| self.broken())?;
        while self.ctx.execute_pending_job() {
            if self.clock.interrupt() {
                return Err(self.broken());
            }
        }
        // The exception of an interrupted job is lost.
        if self.clock.expired.get() {
            return Err(self.broken());
        }
        // The engine always returns valid UTF-8, so a missing text means that memory is exhausted.
        let text = answer.as_string().and_then(|text| text.to_string().ok()).ok_or_else(|| self.broken())?;
        match text.strip_prefix('!').and_then(fatal) {
            None => Ok(text),
            Some((word, reason)) => {
                // Other limits of the engine count as memory, too. A thrown `null` may also come from the function.
                let is_limit = word == "InternalError" && !reason.ends_with("or ran out of memory");
                let cause = if is_limit || self.account.refused() { Cause::Memory } else { Cause::Thrown };
                Err(Ended { cause, word, reason })
            }
        }
    }

    /// Returns why a call has no answer: interrupted, out of memory or stack. The sandbox itself catches what
    /// a script throws.
    fn broken(&self) -> Ended {
        if self.clock.expired.get() {
            return Ended { cause: Cause::Time, word: String::new(), reason: String::new() };
        }
        let thrown = self.ctx.catch();
        let told = thrown.as_exception().and_then(|exception| exception.message());
        let reason = told.unwrap_or_else(|| "out of memory".into());
        Ended { cause: Cause::Memory, word: "InternalError".into(), reason }
    }
}

/// Returns word and reason of the sandbox's `[word, reason, fatal]` if it is fatal.
fn fatal(told: &str) -> Option<(String, String)> {
    let (word, reason, fatal): (String, serde_json::Value, bool) =
        serde_json::from_str(&super::failure::mend(told)).ok()?;
    let reason = match reason {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    fatal.then_some((word, reason))
}
