//! The tables and functions in the database, and their versions.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::address::Schema;

/// The version of the tables that this build makes and uses.
pub(super) const VERSION: i32 = 4;
/// The number of the advisory lock that a node holds while it makes tables.
const LOCK: i64 = 0x7365_7474_6565;

/// How long an upgrade waits for the lock of a table, during which the commits of other nodes wait, and then lets them go
/// on...
const ALTERS: Duration = Duration::from_secs(1);
/// ...before it tries again, this many times in all.
const ATTEMPTS: u32 = 10;

/// Why the tables cannot be used.
#[derive(Debug)]
pub(super) enum Refused {
    Failed(Error),
    /// The role may not make them: the SQL that an owner of the database runs.
    NoRight(String),
    /// A newer settee made them: their version.
    Newer(i32),
    /// The server is too old: its version.
    OldServer(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Failed(error)
    }
}

/// Makes or upgrades the tables of `schema`, or finds that they are as they should be. Nodes that start at the same
/// time wait for each other.
pub(super) async fn settle(client: &mut Client, schema: &Schema) -> Result<(), Refused> {
    let (number, shown) = server_version(client).await?;
    if number < 120_000 {
        return Err(Refused::OldServer(shown));
    }
    if version(client, schema).await? == Some(VERSION) {
        return Ok(());
    }
    let mut attempts = 0;
    let made = loop {
        attempts += 1;
        match make(client, schema).await {
            Err(Refused::Failed(error))
                if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && attempts < ATTEMPTS =>
            {
                tokio::time::sleep(ALTERS).await;
            }
            made => break made,
        }
    };
    match made {
        Err(Refused::Failed(error)) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            Err(Refused::NoRight(rights(client, schema).await?))
        }
        made => made,
    }
}

async fn server_version(client: &Client) -> Result<(i32, String), Error> {
    let sql = "select current_setting('server_version_num')::int4, current_setting('server_version')";
    let row = client.query_one(sql, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Whether the schema has settee's tables. Functions such as `to_regclass` may answer from a cache that does not know
/// yet what another connection has made.
pub(super) async fn is_there(client: &Client, schema: &Schema) -> Result<bool, Error> {
    let sql = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace \
               where n.nspname = $1 and c.relname = 'meta')";
    Ok(client.query_one(sql, &[&schema.name()]).await?.get(0))
}

async fn has_schema(client: &Client, schema: &Schema) -> Result<bool, Error> {
    let sql = "select exists (select from pg_namespace where nspname = $1)";
    Ok(client.query_one(sql, &[&schema.name()]).await?.get(0))
}

/// The version of the tables. `None`: there are none.
async fn version(client: &Client, schema: &Schema) -> Result<Option<i32>, Refused> {
    if !is_there(client, schema).await? {
        return Ok(None);
    }
    let found = client.query_opt(&format!("select version from {schema}.meta"), &[]).await?;
    match found.map(|row| row.get(0)) {
        Some(newer) if newer > VERSION => Err(Refused::Newer(newer)),
        found => Ok(found),
    }
}

async fn make(client: &mut Client, schema: &Schema) -> Result<(), Refused> {
    let under_way = client.transaction().await?;
    under_way.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    // Another node may have been faster.
    let found = version(under_way.client(), schema).await?;
    if found == Some(VERSION) {
        return Ok(());
    }
    if !has_schema(under_way.client(), schema).await? {
        under_way.batch_execute(&format!("create schema {schema}")).await?;
    }
    if found.is_none() {
        under_way.batch_execute(&tables(schema)).await?;
        under_way.batch_execute(&functions(schema)).await?;
    }
    // Version 4. Nodes of older versions that still run go on with their own `commit`, which has fewer parameters and leaves
    // no marks.
    if found.is_some() {
        // This statement waits for long reads of the table, such as those of pg_dump, and all commits wait behind it.
        under_way.batch_execute(&format!("set local lock_timeout = {}", ALTERS.as_millis())).await?;
        let column = "marks int8[] not null default '{}'";
        under_way.batch_execute(&format!("alter table {schema}.slots add column if not exists {column}")).await?;
    }
    under_way.batch_execute(&commit(schema)).await?;
    under_way.execute(&format!("update {schema}.meta set version = $1"), &[&VERSION]).await?;
    under_way.commit().await?;
    Ok(())
}

/// What an owner of the database runs, so that this role can make the tables.
async fn rights(client: &Client, schema: &Schema) -> Result<String, Error> {
    let role: String = client.query_one("select quote_ident(current_user)", &[]).await?.get(0);
    if !has_schema(client, schema).await? {
        return Ok(format!("CREATE SCHEMA {schema} AUTHORIZATION {role};"));
    }
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {role};");
    let sql = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace \
               where n.nspname = $1 and c.relkind = 'r' and not pg_has_role(c.relowner, 'usage'))";
    if !client.query_one(sql, &[&schema.name()]).await?.get::<_, bool>(0) {
        return Ok(grant);
    }
    // Only their owner may change tables and functions.
    let role = role.replace('\'', "''").replace('%', "%%");
    Ok(format!(
        "{grant} DO $$ DECLARE one text; BEGIN FOR one IN \
         SELECT format('ALTER TABLE %s OWNER TO {role}', oid::regclass) FROM pg_class \
         WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r' \
         UNION ALL SELECT format('ALTER FUNCTION %s OWNER TO {role}', oid::regprocedure) FROM pg_proc \
         WHERE pronamespace = '{schema}'::regnamespace LOOP EXECUTE one; END LOOP; END $$;"
    ))
}

/// Marks the store as being filled, or as filled: other nodes refuse a store that a restore has not finished.
pub(super) async fn mark_filling(client: &Client, schema: &Schema, filling: bool) -> Result<(), Error> {
    client.execute(&format!("update {schema}.meta set filling = $1"), &[&filling]).await.map(drop)
}

/// Whether a restore has begun to fill the store, and has not finished.
pub(super) async fn is_filling(client: &Client, schema: &Schema) -> Result<bool, Error> {
    Ok(client.query_one(&format!("select filling from {schema}.meta"), &[]).await?.get(0))
}

fn tables(schema: &Schema) -> String {
    format!(
        "
create table {schema}.meta (version int4 not null, filling bool not null default false,
  made timestamptz not null default now());
insert into {schema}.meta (version) values ({VERSION});

-- The ordered map. A key that belongs to a database is (number of the database, rest), another (0, key).
create table {schema}.kv (db int8 not null, k bytea not null, v bytea not null, primary key (db, k))
  with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_limit = 1000);
-- What is large is compressed or encrypted already.
alter table {schema}.kv alter column v set storage external;

-- One row for each commit that a node can have under way: which one was the last that took effect, and which databases
-- its commits have changed that `_db_updates` may not name yet.
create table {schema}.slots (id int8 primary key, number int8 not null default 0, failed int4[] not null default '{{}}',
  fenced bool not null default false, used timestamptz not null default now(), marks int8[] not null default '{{}}')
  with (fillfactor = 50);

create table {schema}.leases (name text primary key, owner text not null, until timestamptz not null);

-- Attachments. An upload without an id is not complete yet.
create table {schema}.blobs (upload int8 primary key, id bytea unique, size int8 not null default 0,
  used timestamptz not null default now());
create table {schema}.pieces (upload int8 not null, n int4 not null, data bytea not null, primary key (upload, n));
alter table {schema}.pieces alter column data set storage external;
"
    )
}

/// The function `commit`. It gets the batches of one transaction as arrays, in the order of the keys:
///
/// - moves (batch, key, value before, value after); with moves, there are no expectations;
/// - expectations (batch, key, value; null: absent);
/// - new rows (batch, key, value), which are absent if the expectations hold;
/// - puts (batch, key, value) and deletes (batch, key);
/// - the marks that the slot has from now on.
///
/// It returns the batches of which an expectation did not hold; the others are written.
///
/// Rows are searched one by one, and never by a join of the arrays with the table: PostgreSQL may keep the plan that it made
/// while the table was small, and the best plan for such a join then reads the whole table. So the plans can be kept
/// ([`settings`](super::connections::settings)); to plan these statements takes longer than to execute them for a few rows.
pub(super) fn commit(schema: &Schema) -> String {
    format!(
        "
create or replace function {schema}.commit(p_slot int8, p_number int8,
    p_mb int4[], p_mdb int8[], p_mk bytea[], p_mv bytea[], p_mn bytea[],
    p_eb int4[], p_edb int8[], p_ek bytea[], p_ev bytea[],
    p_nb int4[], p_ndb int8[], p_nk bytea[], p_nv bytea[],
    p_wb int4[], p_wdb int8[], p_wk bytea[], p_wv bytea[],
    p_db int4[], p_ddb int8[], p_dk bytea[], p_marks int8[]) returns int4[] language plpgsql as $$
declare
  v_move record;
  v_guard record;
  v_gone record;
  v_held int4[] := '{{}}';
  v_some int4[];
  v_failed int4[] := '{{}}';
begin
  if cardinality(p_mk) > 0 then
    -- Waits for other transactions that have one of the rows, and compares with what they have written. The rows stay
    -- locked, so what holds now holds until the end.
    for v_move in select * from unnest(p_mb, p_mdb, p_mk, p_mv, p_mn) m(b, db, k, was, is_now) loop
      update {schema}.kv kv set v = v_move.is_now
        where kv.db = v_move.db and kv.k = v_move.k and kv.v = v_move.was;
      if not found then v_failed := v_failed || v_move.b; end if;
    end loop;
  end if;
  if cardinality(p_ek) > 0 then
    -- The keys are in order, and are locked in that order.
    select coalesce(array_agg(e.n::int4), '{{}}') into v_held
      from unnest(p_edb, p_ek, p_ev) with ordinality e(db, k, v, n)
      cross join lateral (
        select kv.v from {schema}.kv kv where kv.db = e.db and kv.k = e.k offset 0 for update) found
      where found.v = e.v;
    -- A row that must be absent is made, so that nobody else can make it meanwhile.
    v_some := null;
    if array_position(p_ev, null) is not null then
      with guard as (
        insert into {schema}.kv (db, k, v)
          select e.db, e.k, ''::bytea from unnest(p_edb, p_ek, p_ev) e(db, k, v) where e.v is null order by e.db, e.k
          on conflict (db, k) do nothing returning db, k)
      select coalesce(array_agg(e.n::int4), '{{}}') into v_some
        from unnest(p_edb, p_ek, p_ev) with ordinality e(db, k, v, n)
        join guard on guard.db = e.db and guard.k = e.k where e.v is null;
      v_held := v_held || v_some;
    end if;
    v_failed := v_failed
      || array(select distinct e.b from unnest(p_eb) with ordinality e(b, n) where not e.n = any(v_held));
    if v_some is not null then
      for v_guard in select e.db, e.k from unnest(p_eb, p_edb, p_ek) with ordinality e(b, db, k, n)
          where e.n = any(v_some) and (e.b = any(v_failed)
            or not exists (select from unnest(p_wdb, p_wk) w(db, k) where w.db = e.db and w.k = e.k)) loop
        delete from {schema}.kv kv where kv.db = v_guard.db and kv.k = v_guard.k;
      end loop;
    end if;
  end if;
  -- A plain insert costs two thirds of an upsert.
  if cardinality(p_nk) > 0 then
    insert into {schema}.kv (db, k, v)
      select w.db, w.k, w.v from unnest(p_nb, p_ndb, p_nk, p_nv) w(b, db, k, v) where not w.b = any(v_failed);
  end if;
  if cardinality(p_wk) > 0 then
    insert into {schema}.kv (db, k, v)
      select w.db, w.k, w.v from unnest(p_wb, p_wdb, p_wk, p_wv) w(b, db, k, v) where not w.b = any(v_failed)
      on conflict (db, k) do update set v = excluded.v;
  end if;
  if cardinality(p_dk) > 0 then
    for v_gone in select w.db, w.k from unnest(p_db, p_ddb, p_dk) w(b, db, k) where not w.b = any(v_failed) loop
      delete from {schema}.kv kv where kv.db = v_gone.db and kv.k = v_gone.k;
    end loop;
  end if;
  update {schema}.slots set number = p_number, failed = v_failed, used = now(), marks = p_marks
    where id = p_slot and not fenced;
  if not found then
    raise exception 'the slot of this commit is gone' using errcode = 'SE001';
  end if;
  return v_failed;
end $$;
"
    )
}

/// The functions of attachments.
fn functions(schema: &Schema) -> String {
    format!(
        "
-- A piece becomes durable with `finish_blob`, which comes later.
create function {schema}.put_piece(p_upload int8, p_n int4, p_data bytea) returns void language plpgsql as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  if p_n = 0 then insert into {schema}.blobs (upload) values (p_upload); end if;
  insert into {schema}.pieces (upload, n, data) values (p_upload, p_n, p_data);
end $$;

-- The end of an upload. Content that is there already is kept.
create function {schema}.finish_blob(p_upload int8, p_id bytea, p_size int8, p_n int4, p_data bytea)
    returns void language plpgsql as $$
begin
  update {schema}.blobs set used = now() where id = p_id;
  if not found then
    begin
      insert into {schema}.blobs (upload, id, size) values (p_upload, p_id, p_size)
        on conflict (upload) do update set id = excluded.id, size = excluded.size, used = now();
      if p_data is not null then
        insert into {schema}.pieces (upload, n, data) values (p_upload, p_n, p_data);
      end if;
      return;
    exception when unique_violation then
      update {schema}.blobs set used = now() where id = p_id;
    end;
  end if;
  delete from {schema}.pieces where upload = p_upload;
  delete from {schema}.blobs where upload = p_upload;
end $$;
"
    )
}
