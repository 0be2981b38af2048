//! The background tasks that `_active_tasks` lists.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

/// The running tasks. Clones share one list.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    last: u64,
    tasks: BTreeMap<u64, Value>,
}

/// A running task. Dropping it removes it from the list.
pub struct Task {
    id: u64,
    tasks: Tasks,
}

impl Tasks {
    /// Adds a task of type `kind` to the list, with the members of `about`. `now` is in seconds since the
    /// epoch.
    pub fn begin(&self, kind: &str, about: Value, now: u64) -> Task {
        let mut task = json!({
            "node": super::node::NODE,
            "pid": format!("<0.{}.0>", std::process::id()),
            "type": kind,
            "progress": 0,
            "changes_done": 0,
            "total_changes": 0,
            "started_on": now,
            "updated_on": now,
        });
        if let (Some(members), Value::Object(about)) = (task.as_object_mut(), about) {
            members.extend(about);
        }
        let mut state = self.0.lock();
        state.last += 1;
        let id = state.last;
        state.tasks.insert(id, task);
        Task { id, tasks: self.clone() }
    }

    /// The entries of all running tasks, oldest first.
    pub fn list(&self) -> Vec<Value> {
        self.0.lock().tasks.values().cloned().collect()
    }
}

impl Task {
    /// Records that `done` of `total` changes are processed. `now` is in seconds since the epoch.
    pub fn progress(&self, done: u64, total: u64, now: u64) {
        if let Some(task) = self.tasks.0.lock().tasks.get_mut(&self.id) {
            task["changes_done"] = done.into();
            task["total_changes"] = total.into();
            task["progress"] = done.saturating_mul(100).checked_div(total).unwrap_or(100).into();
            task["updated_on"] = now.into();
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.tasks.0.lock().tasks.remove(&self.id);
    }
}
