-- Hooktrail's trail: the whole format of the file, version 1 (`PRAGMA user_version`).
--
-- To change it: never edit a version that was released. Add a step to MIGRATIONS in
-- src/store/migrate.rs, make this file what the steps lead to, and a line in CHANGELOG.md.
-- Times are UTC milliseconds. A view is for people and keeps its columns; a table may change,
-- but for events.id, events.body, attempts.stdout and attempts.stderr.
-- Set before the first table, as they can't be changed without rewriting the file; both were
-- measured (benches/README.md): page_size = 4096, auto_vacuum = INCREMENTAL.

-- One row a fact about the file itself: `trail` (its random id), `clock_offset_ms`.
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- `paused` is what config.toml said last, or `pause` and `resume` since. A handler's own clock
-- stands still while it is paused: `idle_ms` is how long it stood so far, `idle_since` since when.
CREATE TABLE handlers (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  paused INTEGER NOT NULL DEFAULT 0,
  paused_in_config INTEGER NOT NULL DEFAULT 0,
  idle_ms INTEGER NOT NULL DEFAULT 0,
  idle_since INTEGER
);

-- An accepted webhook. Its jobs are those from `first_job` on, `jobs` of them, and those that came
-- later (jobs.later): so that taking a webhook touches no index by event.
-- headers: one `name: value` a line, the value's bytes as they came.
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  uid BLOB NOT NULL,
  source INTEGER NOT NULL,
  received_at INTEGER NOT NULL,
  method TEXT NOT NULL,
  path TEXT NOT NULL,
  query TEXT,
  ip TEXT NOT NULL,
  headers BLOB NOT NULL,
  body BLOB NOT NULL,
  first_job INTEGER NOT NULL,
  jobs INTEGER NOT NULL,
  note TEXT
);

-- What a source's `dedupe` recognises repeats by: a SHA-256 of the key, cut to 16 bytes. A row goes
-- when its window is over, oldest event first.
CREATE TABLE dedupe (
  event INTEGER PRIMARY KEY,
  source INTEGER NOT NULL,
  key BLOB NOT NULL,
  received_at INTEGER NOT NULL
);
CREATE UNIQUE INDEX dedupe_key ON dedupe (source, key);

-- A repeat, with its bytes where they differ from the first's, up to 10 an event.
CREATE TABLE duplicates (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  event INTEGER NOT NULL,
  received_at INTEGER NOT NULL,
  ip TEXT NOT NULL,
  body BLOB
);
CREATE INDEX duplicates_event ON duplicates (event);

-- state: 0 ready, 1 waiting (until due_at), 2 running, 3 succeeded, 4 dead, 5 cancelled.
-- attempt: number of the last attempt. failures: what failed or timed out since the first attempt
-- or the last `retry`. crashes: ends of the server with this job running, in a row.
-- due_at, since: on the trail's clock (src/clock.rs), since less the handler's idle time.
-- wait_ms: what the wait was set for: no job waits longer, whatever the clock does.
-- cancel: a running job that is to be ended, and why. later: came after its event's own jobs.
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  event INTEGER NOT NULL,
  handler INTEGER NOT NULL,
  source INTEGER NOT NULL,
  state INTEGER NOT NULL,
  since INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  due_at INTEGER,
  wait_ms INTEGER,
  started_at INTEGER,
  ended_at INTEGER,
  reason TEXT,
  cancel TEXT,
  item INTEGER,
  later INTEGER,
  replay INTEGER
);
CREATE INDEX jobs_ready ON jobs (handler, id) WHERE state = 0;
CREATE INDEX jobs_waiting ON jobs (due_at) WHERE state = 1;
CREATE INDEX jobs_running ON jobs (id) WHERE state = 2;
CREATE INDEX jobs_dead ON jobs (id) WHERE state = 4;
CREATE INDEX jobs_later ON jobs (event) WHERE later IS NOT NULL;

-- One row an attempt, written when it has ended: ids grow in the order of the outcomes.
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  detail TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at INTEGER NOT NULL,
  next_at INTEGER,
  stdout BLOB,
  stderr BLOB
);
CREATE INDEX attempts_job ON attempts (job, attempt);

CREATE TABLE refusals (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  source TEXT,
  method TEXT NOT NULL,
  path TEXT NOT NULL,
  ip TEXT NOT NULL,
  status INTEGER NOT NULL,
  reason TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  count INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX refusals_ip ON refusals (ip);

-- Addresses that have had an event accepted: their refusals are the last to go.
CREATE TABLE accepted_ips (ip TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE handshake_log (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  source TEXT NOT NULL,
  method TEXT NOT NULL,
  ip TEXT NOT NULL,
  detail TEXT NOT NULL
);

CREATE TABLE act_log (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  who TEXT NOT NULL,
  via TEXT NOT NULL,
  what TEXT NOT NULL,
  jobs INTEGER NOT NULL,
  reason TEXT
);
