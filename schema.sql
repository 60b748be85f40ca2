-- Hooktrail's trail: the whole format of the file, version 1 (`PRAGMA user_version`).
--
-- To change it: never edit a version that was released. Add a step to MIGRATIONS in
-- src/store/migrate.rs, make this file what the steps lead to, and a line in CHANGELOG.md.
-- Set before the first table, as they can't be changed without rewriting the file, both by
-- measurement (benches/README.md): page_size = 4096, auto_vacuum = INCREMENTAL.
-- Times are UTC milliseconds; those "on the trail's clock" (src/clock.rs) don't leap. A view is for
-- people and keeps its columns; of the tables only events.id, events.body, attempts.stdout and
-- attempts.stderr are promised.

-- Facts about the file: `trail` (its random id) and the clock's anchor.
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- The highest ids ever given, written once a commit: cheaper than AUTOINCREMENT's write a row.
CREATE TABLE counters (one INTEGER PRIMARY KEY CHECK (one = 1), event, job, attempt, replay);
INSERT INTO counters VALUES (1, 0, 0, 0, 0);

-- seen_at: about when its last event came, or when it was first heard of (trail's clock). accepted:
-- that it ever had one. silent, refusing: that it is so was told.
CREATE TABLE sources (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  seen_at INTEGER,
  accepted INTEGER,
  silent INTEGER,
  rejecting INTEGER
);

-- `paused` is what config.toml said last, or `pause` and `resume` since. A handler's clock stands
-- still while it is paused or rests: `idle_ms` is how long it stood so far, `idle_since` since when.
-- rate_next: no job starts before. streak: what failed or timed out in a row. breaker_open_until: it rests
-- until then, and runs one job on trial from then on. All on the trail's clock. breaker_alerted: whoever takes
-- alerts was told of the rest, and is to be told when it is over.
CREATE TABLE handlers (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  paused INTEGER NOT NULL DEFAULT 0,
  paused_in_config INTEGER NOT NULL DEFAULT 0,
  idle_ms INTEGER NOT NULL DEFAULT 0,
  idle_since INTEGER,
  rate_next INTEGER,
  streak INTEGER NOT NULL DEFAULT 0,
  breaker_open_until INTEGER,
  breaker_alerted INTEGER NOT NULL DEFAULT 0
);

-- An accepted webhook. Its jobs are `first_job` to `last_job` and those that came later
-- (jobs.later): so that taking a webhook writes no index by event. Of it only `note` is ever written
-- later, once, when a deferred event is evaluated.
-- headers: one `name: value` a line, the value's bytes as they came.
CREATE TABLE events (
  id INTEGER PRIMARY KEY,
  uid BLOB NOT NULL,
  source INTEGER NOT NULL,
  received_at INTEGER NOT NULL,
  method TEXT NOT NULL,
  path TEXT NOT NULL,
  query TEXT,
  ip TEXT NOT NULL, -- empty: unknown
  headers BLOB NOT NULL,
  first_job INTEGER NOT NULL,
  last_job INTEGER NOT NULL,
  note TEXT,
  body BLOB NOT NULL
);

-- Accepted events whose jobs are still to be inserted: their handlers' expressions were not evaluated
-- before the response, or give more jobs than one transaction inserts, or an earlier event of the source
-- is here. handlers: a JSON array of the handlers with one job each, which views count as queued; empty
-- where one of them has a `split`. jobs: what `max_queued` counts it as: its jobs, or 1 if it is not
-- evaluated yet.
CREATE TABLE deferred_events (
  event INTEGER PRIMARY KEY,
  source INTEGER NOT NULL,
  handlers TEXT NOT NULL,
  jobs INTEGER NOT NULL
);
CREATE INDEX deferred_events_source ON deferred_events (source, event);

-- Jobs that are inserted in several transactions, in a range of numbers of their own. While is_visible
-- is 0 they are hidden: no view has them. The last transaction that inserts some sets it, and from then
-- on they are queued; those from next_job on, which have state 6, are then released in their order.
-- job: the retried job that they were made of; else they are the event's own. duplicate_of: the event
-- that theirs turned out to be a duplicate of, for which they are cancelled.
CREATE TABLE expansions (
  first_job INTEGER PRIMARY KEY,
  last_job INTEGER NOT NULL,
  next_job INTEGER NOT NULL,
  event INTEGER NOT NULL,
  source INTEGER NOT NULL,
  job INTEGER,
  duplicate_of INTEGER,
  is_visible INTEGER NOT NULL DEFAULT 0
);

-- Of such jobs, until they are released: their key of `unique_by` and its window, and their `settle`.
CREATE TABLE expansion_keys (
  job INTEGER PRIMARY KEY,
  once_key BLOB,
  once_ms INTEGER,
  settle_ms INTEGER
);

-- Events whose dead jobs come back to life, as a duplicate came, in several transactions: those up to
-- after_job had their turn.
CREATE TABLE revivals (event INTEGER PRIMARY KEY, after_job INTEGER NOT NULL);

-- What repeats are recognised by: a SHA-256 of the key, cut to 16 bytes; `until` on the trail's clock.
-- An event may have two: one of its source's `dedupe`, and its sender's own of the delivery or that of a
-- signed body's bytes.
CREATE TABLE dedupe (
  source INTEGER NOT NULL,
  key BLOB NOT NULL,
  event INTEGER NOT NULL,
  until INTEGER NOT NULL,
  PRIMARY KEY (source, key)
) WITHOUT ROWID;
CREATE INDEX dedupe_until ON dedupe (until);

-- A repeat, with its bytes where they differ from the first's, up to 10 an event.
CREATE TABLE duplicates (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  event INTEGER NOT NULL,
  received_at INTEGER NOT NULL,
  ip TEXT NOT NULL,
  body BLOB
);
CREATE INDEX duplicates_event ON duplicates (event);

-- state: -1 held (by an earlier job of its ordering_key), 0 ready, 1 waiting (until due_at), 2 running,
-- 3 succeeded, 4 dead, 5 cancelled, 6 to be released (see expansions).
-- attempt: number of the last attempt. failures: what failed or timed out since the first attempt
-- or the last `retry`. crashes: ends of the server with this job running, in a row.
-- due_at, since (less the handler's idle time): on the trail's clock. wait_ms: what the wait was
-- set for: no job waits longer. cancel: a running job that is to be ended, and why. item: its number,
-- from 1. replay: the replay that made it. later: the event of a job that came after its event.
-- ordering_key, debounce_key: SHA-256 of the key, cut to 16 bytes. newest: n or t (number or text) and
-- the value. debounce_since: when its debounce_key was first heard of. expand: 1 its expressions are to be
-- evaluated anew, 2 that made other jobs of it.
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY,
  event INTEGER NOT NULL,
  handler INTEGER NOT NULL,
  source INTEGER NOT NULL,
  state INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  since INTEGER NOT NULL,
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
  replay INTEGER,
  later INTEGER,
  ordering_key BLOB,
  newest TEXT,
  debounce_key BLOB,
  debounce_since INTEGER,
  expand INTEGER
);
CREATE INDEX jobs_ready ON jobs (handler, id, source) WHERE state = 0;
CREATE INDEX jobs_waiting ON jobs (due_at) WHERE state = 1;
CREATE INDEX jobs_running ON jobs (id) WHERE state = 2;
CREATE INDEX jobs_dead ON jobs (id) WHERE state = 4;
CREATE INDEX jobs_later ON jobs (later, state) WHERE later IS NOT NULL;
CREATE INDEX jobs_order ON jobs (handler, ordering_key, state, id, source)
  WHERE ordering_key IS NOT NULL AND state < 3;
CREATE INDEX jobs_debounce ON jobs (handler, debounce_key)
  WHERE debounce_key IS NOT NULL AND state < 2;

-- What `split` gave, a row a job: apart from `jobs`, whose rows are written again and again.
CREATE TABLE items (job INTEGER PRIMARY KEY, body BLOB NOT NULL);

-- The keys of `unique_by`, cut as those of `dedupe`; `until` on the trail's clock.
CREATE TABLE unique_keys (
  handler INTEGER NOT NULL,
  key BLOB NOT NULL,
  job INTEGER NOT NULL,
  until INTEGER NOT NULL,
  PRIMARY KEY (handler, key)
) WITHOUT ROWID;
CREATE INDEX unique_keys_until ON unique_keys (until);

-- The highest value of `version_by` that succeeded, for each key of `ordering_key`.
CREATE TABLE versions (
  handler INTEGER NOT NULL,
  key BLOB NOT NULL,
  value TEXT NOT NULL,
  job INTEGER NOT NULL,
  PRIMARY KEY (handler, key)
) WITHOUT ROWID;

-- One row an attempt, written when it has ended: ids grow in the order of the outcomes.
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY,
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  detail TEXT NOT NULL,
  ended_at INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  next_at INTEGER,
  stdout BLOB,
  stderr BLOB
);
CREATE INDEX attempts_job ON attempts (job, attempt);

CREATE TABLE rejected_requests (
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
CREATE INDEX rejected_requests_ip ON rejected_requests (ip);

-- Addresses that had an event accepted, of IPv6 the /64: their refusals are the last to go.
CREATE TABLE accepted_ips (ip TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE handshake_log (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  source TEXT NOT NULL,
  method TEXT NOT NULL,
  ip TEXT NOT NULL,
  detail TEXT NOT NULL
);

-- What the breaker did: `resting`, `trial`, `recovered`.
CREATE TABLE breaker_changes (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  handler INTEGER NOT NULL,
  change TEXT NOT NULL,
  detail TEXT NOT NULL
);

-- What the source `hooktrail` has to tell: `count` times since its last event of this kind, the last
-- of them in the other columns; made_at: when that event was made, on the trail's clock.
CREATE TABLE alerts (
  type TEXT NOT NULL,
  source TEXT NOT NULL,
  handler TEXT NOT NULL,
  count INTEGER NOT NULL,
  at INTEGER,
  event INTEGER,
  job INTEGER,
  item INTEGER,
  attempts INTEGER,
  detail TEXT,
  made_at INTEGER,
  PRIMARY KEY (type, source, handler)
) WITHOUT ROWID;

CREATE TABLE audit_entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  who TEXT NOT NULL,
  via TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT,
  jobs INTEGER NOT NULL,
  reason TEXT
);

CREATE VIEW outcomes AS
SELECT a.id, strftime('%Y-%m-%dT%H:%M:%fZ', a.ended_at / 1000.0, 'unixepoch') AS at,
  j.event, s.name AS source, h.name AS handler, j.item, a.attempt, a.outcome, a.detail,
  a.duration_ms,
  strftime('%Y-%m-%dT%H:%M:%fZ', a.next_at / 1000.0, 'unixepoch') AS next_at, a.job,
  CASE j.state WHEN 2 THEN 'running' WHEN 3 THEN 'succeeded' WHEN 4 THEN 'dead'
    WHEN 5 THEN 'cancelled' ELSE 'queued' END AS job_state
FROM attempts a JOIN jobs j ON j.id = a.job
  JOIN sources s ON s.id = j.source JOIN handlers h ON h.id = j.handler;

CREATE VIEW trail AS
SELECT e.id AS event,
  strftime('%Y-%m-%dT%H:%M:%fZ', e.received_at / 1000.0, 'unixepoch') AS received_at,
  s.name AS source, nullif(e.ip, '') AS remote_ip, length(e.body) AS bytes,
  (SELECT count(*) FROM duplicates d WHERE d.event = e.id) AS duplicates,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.later = e.id)
    AND (j.state <> 6 OR EXISTS (SELECT 1 FROM expansions x
      WHERE x.first_job <= j.id AND j.id <= x.last_job AND x.is_visible)))
    + coalesce((SELECT json_array_length(d.handlers) FROM deferred_events d WHERE d.event = e.id), 0)
    AS jobs,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.later = e.id)
    AND (j.state <= 1 OR j.state = 6 AND EXISTS (SELECT 1 FROM expansions x
      WHERE x.first_job <= j.id AND j.id <= x.last_job AND x.is_visible)))
    + coalesce((SELECT json_array_length(d.handlers) FROM deferred_events d WHERE d.event = e.id), 0)
    AS queued,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.later = e.id)
    AND j.state = 2) AS running,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.later = e.id)
    AND j.state = 3) AS succeeded,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.later = e.id)
    AND j.state = 4) AS dead,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.later = e.id)
    AND j.state = 5) AS cancelled,
  (SELECT CASE WHEN min(j.state) <= 2 OR max(j.state) = 6
        OR EXISTS (SELECT 1 FROM deferred_events d WHERE d.event = e.id) THEN NULL ELSE
      strftime('%Y-%m-%dT%H:%M:%fZ', coalesce(max(j.ended_at), e.received_at) / 1000.0, 'unixepoch')
      END FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.later = e.id))
    AS settled_at
FROM events e JOIN sources s ON s.id = e.source;

CREATE VIEW dead_jobs AS
SELECT j.id AS job, j.event, s.name AS source, h.name AS handler, j.item,
  j.attempt AS attempts,
  strftime('%Y-%m-%dT%H:%M:%fZ', j.ended_at / 1000.0, 'unixepoch') AS died_at,
  j.reason AS detail
FROM jobs j JOIN sources s ON s.id = j.source JOIN handlers h ON h.id = j.handler
WHERE j.state = 4;

CREATE VIEW queue_depth AS
SELECT h.name AS handler, d.state, sum(d.jobs)
    AS jobs,
  strftime('%Y-%m-%dT%H:%M:%fZ', min(d.oldest) / 1000.0, 'unixepoch') AS oldest_at
FROM (
  SELECT handler, 'queued' AS state, count(*) AS jobs, min(created_at) AS oldest
    FROM jobs WHERE state = 0 GROUP BY handler
  UNION ALL SELECT handler, 'queued', count(*), min(created_at)
    FROM jobs WHERE state = 1 GROUP BY handler
  UNION ALL SELECT handler, 'queued', count(*), min(created_at)
    FROM jobs WHERE state = -1 AND ordering_key IS NOT NULL AND state < 3 GROUP BY handler
  UNION ALL SELECT j.handler, 'queued', count(*), min(j.created_at) FROM expansions x
    JOIN jobs j ON j.id BETWEEN x.next_job AND x.last_job AND j.state = 6
    WHERE x.is_visible GROUP BY j.handler
  UNION ALL SELECT u.value, 'queued', count(*), min(e.received_at) FROM deferred_events d
    JOIN events e ON e.id = d.event JOIN json_each(d.handlers) u GROUP BY u.value
  UNION ALL SELECT handler, 'running', count(*), min(created_at)
    FROM jobs WHERE state = 2 GROUP BY handler) d
JOIN handlers h ON h.id = d.handler GROUP BY h.name, d.state;

CREATE VIEW rejections AS
SELECT id, strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') AS at, source, method, path,
  nullif(ip, '') AS remote_ip, status, reason, bytes, count
FROM rejected_requests;

CREATE VIEW handshakes AS
SELECT id, strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') AS at, source, method,
  nullif(ip, '') AS remote_ip, detail
FROM handshake_log;

CREATE VIEW audit_log AS
SELECT id, strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') AS at, who, via, action,
  target, jobs, reason
FROM audit_entries;

CREATE VIEW breaker_log AS
SELECT r.id, strftime('%Y-%m-%dT%H:%M:%fZ', r.at / 1000.0, 'unixepoch') AS at, h.name AS handler,
  r.change, r.detail
FROM breaker_changes r JOIN handlers h ON h.id = r.handler;
