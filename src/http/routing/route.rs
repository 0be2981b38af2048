//! The routes: every operation that a request can ask for. `route_table` finds the route of a request,
//! `required_access` the access that it requires, and `dispatch` its handler.

use crate::http::request::listing_path::{DocumentList, ListFunctionPath};

/// The operation that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Server(ServerRoute),
    /// An operation on the database `name`.
    Database {
        name: String,
        what: DbRoute,
    },
}

/// Operations on the server: the root, and paths that begin with `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerRoute {
    Welcome,
    Favicon,
    /// A file of the console; empty for its front page.
    Utils(String),
    AllDbs,
    DbsInfo,
    DbsInfoOf,
    DbUpdates,
    /// The numbers of conflicted documents of all databases.
    Conflicts,
    /// Which clients replicate.
    SyncStatus,
    /// What they did in the last day.
    SyncHistory,
    /// What somebody should look at.
    SyncAlerts,
    /// Makes a setup link of Obsidian LiveSync.
    LivesyncLink,
    ActiveTasks,
    Membership,
    ClusterState,
    ClusterSetup,
    ReloadQueryServers,
    Uuids,
    Up,
    Session,
    SignIn,
    SignOut,
    /// Lists the devices on which the user is signed in.
    Devices,
    /// Revokes the session of one device, or of all if `None`.
    RevokeDevices(Option<String>),
    /// Issues access and refresh tokens, instead of a cookie.
    Token,
    Replicate,
    SchedulerJobs,
    /// Id of a job.
    SchedulerJob(String),
    /// Name of a `_replicator` database.
    SchedulerDocs(String),
    /// Name of a `_replicator` database, id of a document.
    SchedulerDoc(String, String),
    /// `/_node/{name}/...`. Every name refers to this node.
    Node(NodeRoute),
}

/// Operations on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeRoute {
    Name,
    /// All nodes of a shared store.
    Nodes,
    Versions,
    System,
    Prometheus,
    Restart,
    /// The path within the statistics.
    Stats(Vec<String>),
    Config,
    ConfigReload,
    ConfigSection(String),
    ConfigKey(String, String),
    ConfigSet(String, String),
    ConfigDelete(String, String),
    /// All settings with their documentation and their source.
    Settings,
    /// The newest lines of the log.
    Logs,
    /// The newest audit events.
    Audit,
    /// What the server did in the last hour or day.
    History,
    Backups,
    MakeBackup,
    /// The state and result of a check.
    CheckState,
    Check,
}

/// Operations on a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DbRoute {
    Info,
    Create,
    Delete,
    /// POST of a document whose id is not in the path.
    Post,
    /// GET or POST of `_all_docs` and its likes.
    DocumentList(DocumentList),
    /// POST of `_all_docs/queries` and its likes.
    DocumentListQueries(DocumentList),
    BulkDocs,
    BulkGet,
    /// GET or POST.
    Changes,
    /// The conflicted documents.
    Conflicts,
    RevsDiff,
    MissingRevs,
    Compact,
    CompactViews(String),
    ViewCleanup,
    EnsureFullCommit,
    Security,
    SetSecurity,
    RevsLimit,
    SetRevsLimit,
    Purge,
    PurgedInfos,
    PurgedInfosLimit,
    SetPurgedInfosLimit,
    AutoPurge,
    SetAutoPurge,
    Shards,
    ShardOf(String),
    SyncShards,
    Partition(String),
    /// GET or POST of `_partition/{p}/_all_docs`.
    PartitionDocs(String),
    /// `_find`, optionally of a partition.
    Find(Option<String>),
    /// GET or POST of a view: design document, view, partition.
    View(String, String, Option<String>),
    /// POST `.../queries` of a view.
    ViewQueries(String, String, Option<String>),
    /// `_design/{design}/_info`
    DesignInfo(String),
    /// `_explain`, optionally of a partition.
    Explain(Option<String>),
    Indexes,
    /// The stored indexes with their sizes and uses.
    Views,
    /// Calls a function that is not saved yet.
    Try,
    CreateIndex,
    DeleteIndexes,
    DeleteIndex {
        design: String,
        kind: String,
        name: String,
    },
    /// Design document, function, document id.
    Show(String, String, Option<String>),
    /// Design document, function, document id.
    Update(String, String, Option<String>),
    /// GET or POST.
    ListFunction(ListFunctionPath),
    /// Design document.
    Rewrite(String),
    Document(DocumentVerb, String),
    /// Document id, attachment name.
    Attachment(AttachmentVerb, String, String),
}

impl DbRoute {
    /// Whether the request changes documents of an existing database.
    pub fn writes(&self) -> bool {
        match self {
            DbRoute::Post | DbRoute::BulkDocs | DbRoute::Purge | DbRoute::Update(..) => true,
            DbRoute::CreateIndex | DbRoute::DeleteIndexes | DbRoute::DeleteIndex { .. } => true,
            DbRoute::Document(verb, _) => *verb != DocumentVerb::Get,
            DbRoute::Attachment(verb, ..) => *verb != AttachmentVerb::Get,
            _ => false,
        }
    }
}

/// What is done with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentVerb {
    Get,
    Put,
    /// Upload of a form with attachments, as old browsers send it.
    Post,
    Delete,
    Copy,
}

/// What is done with an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachmentVerb {
    Get,
    Put,
    Delete,
}
