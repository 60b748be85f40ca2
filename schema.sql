-- The schema of a Hooktrail database, version 3 (`PRAGMA user_version`). docs/database.md describes the
-- views. The views keep their columns. Of the tables, only events.id, events.body, attempts.stdout and
-- attempts.stderr are stable.
--
-- To change the schema, never edit a version that was released. Add a step to MIGRATIONS in
-- src/store/migrate.rs, change this file to the result of the steps, and add a line to CHANGELOG.md.
--
-- src/store/migrate.rs sets page_size = 4096 and auto_vacuum = INCREMENTAL before the first table, because
-- they can't change without rewriting the file. benches/README.md has the measurements.
--
-- Times are UTC in milliseconds. Times by the database clock (src/clock.rs) do not jump.

-- Facts about the database: `database_id`, which is random; `alerts`, the source `hooktrail` while a
-- handler subscribes to it; `settlements`, the same while a handler takes events of type `job.settled`; the anchor of the database clock; and until when `retention` rests, and why.
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- The highest ids that were assigned. One write for each commit is cheaper than AUTOINCREMENT, which writes
-- for each row.
-- rejection: the highest id of a rejection that is sealed. kept_events, kept_attempts, kept_rejections: how many sealed
--   rows there are. seals: how many were made. peaks: the digests of the perfect subtrees of the tree of seals, the
--   largest first.
CREATE TABLE counters (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  event, job, attempt, replay,
  rejection INTEGER NOT NULL DEFAULT 0,
  kept_events INTEGER NOT NULL DEFAULT 0,
  kept_attempts INTEGER NOT NULL DEFAULT 0,
  kept_rejections INTEGER NOT NULL DEFAULT 0,
  seals INTEGER NOT NULL DEFAULT 0,
  peaks BLOB NOT NULL DEFAULT x''
);
INSERT INTO counters (id, event, job, attempt, replay) VALUES (1, 0, 0, 0, 0);

-- last_seen_at: about when the last event arrived, or else when the source first appeared in the configuration
--   (database clock).
-- has_accepted: 1 if the source ever accepted an event.
-- is_silent, is_rejecting: 1 while an alert about it is active.
CREATE TABLE sources (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  last_seen_at INTEGER,
  has_accepted INTEGER,
  is_silent INTEGER,
  is_rejecting INTEGER
);

-- paused: set by `pause` and `resume`, or by a changed `paused` in config.toml.
-- idle_ms, idle_since: the handler's own clock stands still while it is paused or its circuit breaker is
--   open. idle_ms is the total so far, idle_since the start of the current pause.
-- next_start_at: no job starts before this time, because of `rate_limit`.
-- consecutive_failures: number of consecutive attempts that failed or timed out.
-- breaker_open_until: end of the cooldown. After it, one job runs as a probe.
-- breaker_alerted: an alert reported that the breaker is open, and its end will be reported too.
-- queued, running, dead: how many jobs it has in these states. Unreleased jobs (state 6) are not counted.
-- The times are by the database clock.
CREATE TABLE handlers (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  paused INTEGER NOT NULL DEFAULT 0,
  paused_in_config INTEGER NOT NULL DEFAULT 0,
  idle_ms INTEGER NOT NULL DEFAULT 0,
  idle_since INTEGER,
  next_start_at INTEGER,
  consecutive_failures INTEGER NOT NULL DEFAULT 0,
  breaker_open_until INTEGER,
  breaker_alerted INTEGER NOT NULL DEFAULT 0,
  queued INTEGER NOT NULL DEFAULT 0,
  running INTEGER NOT NULL DEFAULT 0,
  dead INTEGER NOT NULL DEFAULT 0
);

-- What happened in each minute of the database clock (now / 60000), for the rates of `stats`. The transaction
-- that stores an event or an outcome counts it. Rows older than a day are deleted.
-- handler: 0: the counts of the source. Otherwise those of the handler's attempts for the source.
-- rejections: requests. duration_ms: the sum of the attempts' durations.
-- last_event_at: when the last event of the minute was received.
CREATE TABLE minute_counts (
  minute INTEGER NOT NULL,
  source INTEGER NOT NULL,
  handler INTEGER NOT NULL,
  events INTEGER NOT NULL,
  duplicates INTEGER NOT NULL,
  rejections INTEGER NOT NULL,
  succeeded INTEGER NOT NULL,
  unsuccessful INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  last_event_at INTEGER,
  PRIMARY KEY (minute, source, handler)
) WITHOUT ROWID;

-- Accepted webhooks. The jobs of an event are those from first_job to last_job, and those whose
-- `appended_to` is the event. A contiguous id range avoids an index of jobs by event.
-- uid: received_at and random bytes (UUIDv7). Earlier builds stored random bytes alone. With an origin key: a hash of the
--   source's name and the message's id. If that id has a time, the hash begins with it.
-- note: errors of optional expressions. It is written later if a deferred event is evaluated.
-- headers: lines of `name: value`, with the bytes of the value as they arrived.
-- removed_bytes: the size of the body before `retention` or `erase` removed it. The query, the headers, the items
--   and the outputs went with it. NULL: the event has its body.
-- salt: random, for the digest of query, headers and body (see `seals`).
-- content_digest: that digest, since the content and the salt were removed.
-- client: the subject of the client certificate. NULL: the client showed none.
-- origin_key: the key under which the machine that sent the event knows it. NULL: the event arrived by HTTP.
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
  salt BLOB,
  content_digest BLOB,
  body BLOB,
  removed_bytes INTEGER,
  client TEXT,
  origin_key TEXT,
  CHECK ((body IS NULL) = (removed_bytes IS NOT NULL))
);
CREATE INDEX events_origin_key ON events (origin_key) WHERE origin_key IS NOT NULL;
CREATE INDEX events_origin_uid ON events (uid) WHERE origin_key IS NOT NULL;

-- The block index: which blocks of 1024 ids (id / 1024) hold rows of a source, and of a handler. `list` and
-- `tail` read those blocks only, newest first, and the index costs intake one row for each block. Indexes of
-- events and jobs by source and handler would cost one row for each row. A row of the block index may say too
-- much, but never too little.
-- min_minute, max_minute: bounds of received_at, or of created_at, in minutes. A wall clock that jumps makes
--   the bounds of one block wide.
CREATE TABLE event_blocks (
  block INTEGER NOT NULL,
  source INTEGER NOT NULL,
  min_minute INTEGER NOT NULL,
  max_minute INTEGER NOT NULL,
  PRIMARY KEY (block, source)
) WITHOUT ROWID;

-- has_succeeded: 1 if one of the jobs succeeded.
CREATE TABLE job_blocks (
  block INTEGER NOT NULL,
  handler INTEGER NOT NULL,
  source INTEGER NOT NULL,
  min_minute INTEGER NOT NULL,
  max_minute INTEGER NOT NULL,
  has_succeeded INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (block, handler, source)
) WITHOUT ROWID;

CREATE TABLE attempt_blocks (
  block INTEGER NOT NULL,
  handler INTEGER NOT NULL,
  source INTEGER NOT NULL,
  PRIMARY KEY (block, handler, source)
) WITHOUT ROWID;

-- Accepted events whose jobs are not inserted yet. Their expressions were not evaluated before the response,
-- or make more jobs than one transaction inserts, or an earlier event of the source is deferred.
-- handlers: a JSON array of the handlers with one job each, which the views count as queued. Empty if a
--   handler has a `split`.
-- job_count: how many jobs `max_queued` counts: 1 if the event is not evaluated yet.
-- dedupe_at: when the event was stored (database clock), if the key of `dedupe` is not known yet.
CREATE TABLE deferred_events (
  event INTEGER PRIMARY KEY,
  source INTEGER NOT NULL,
  handlers TEXT NOT NULL,
  job_count INTEGER NOT NULL,
  dedupe_at INTEGER
);
CREATE INDEX deferred_events_source ON deferred_events (source, event);
CREATE INDEX deferred_events_dedupe ON deferred_events (dedupe_at) WHERE dedupe_at IS NOT NULL;

-- Ranges of jobs that several transactions insert. While is_visible is 0, no view shows them. It is set when
-- the last job is inserted, and the jobs then count as queued. Later transactions release the jobs from
-- next_job on, which have state 6, in order.
-- job: the job whose retry made them. NULL: they are the event's own jobs.
CREATE TABLE expansions (
  first_job INTEGER PRIMARY KEY,
  last_job INTEGER NOT NULL,
  next_job INTEGER NOT NULL,
  event INTEGER NOT NULL,
  source INTEGER NOT NULL,
  job INTEGER,
  is_visible INTEGER NOT NULL DEFAULT 0
);

-- Keys of jobs in `expansions` until they are released: the key and window of `unique_by`, and `debounce`.
CREATE TABLE expansion_keys (
  job INTEGER PRIMARY KEY,
  unique_key BLOB,
  unique_window_ms INTEGER,
  debounce_ms INTEGER
);

-- Events whose dead jobs are queued again because a duplicate arrived. Several transactions do this; jobs up
-- to after_job are done.
CREATE TABLE dead_job_retries (event INTEGER PRIMARY KEY, after_job INTEGER NOT NULL);

-- Keys by which duplicates are recognised: SHA-256 of the key, cut to 16 bytes. An event may have two: one of
-- the source's `dedupe`, and the sender's delivery key or that of the signed bytes. The key of a message of a stream
-- begins with the time in the message's id if there is one.
-- expires_at: end of the window, by the database clock.
CREATE TABLE dedupe (
  source INTEGER NOT NULL,
  key BLOB NOT NULL,
  event INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (source, key)
) WITHOUT ROWID;
CREATE INDEX dedupe_expires ON dedupe (expires_at);

-- Duplicates. `body` is stored if it differs from the first one, up to 10 times for each event.
CREATE TABLE duplicates (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  event INTEGER NOT NULL,
  received_at INTEGER NOT NULL,
  ip TEXT NOT NULL,
  body BLOB
);
CREATE INDEX duplicates_event ON duplicates (event);

-- state (src/domain/job.rs has all changes): -1 blocked (by an earlier job with the same ordering_key), 0 ready,
--   1 scheduled (until due_at), 2 running, 3 succeeded, 4 dead, 5 cancelled, 6 not released yet (see expansions).
-- age_start: start of the job's age, less the idle time of its handler (database clock).
-- attempt: number of the last attempt.
-- failures: attempts that failed or timed out since the first one or the last `retry`.
-- crashes: consecutive server crashes during this job; 0 if the last attempt ended normally.
-- due_at: when a scheduled job becomes ready (database clock). wait_ms: the wait that was chosen; a start of the
--   server limits due_at by it.
-- started_at: when the attempt started (wall clock); 0 if the job was prefetched, because nobody writes its start.
-- cancel_reason: why a running job must stop.
-- item: number of the item, from 1. replay: the replay that made the job. appended_to: the event, if the job was
--   inserted after its event.
-- ordering_key, debounce_key: SHA-256 of the key, cut to 16 bytes.
-- version: `n` or `t` (number or text) and the value of `version_by`.
-- burst_started_at: when the first job with this debounce_key arrived.
-- reevaluation: 1 if the expressions must be evaluated again, 2 if that replaced the job by other jobs.
-- failure: the group of its last failure (see failure_groups), until it succeeds, is cancelled or retried.
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY,
  event INTEGER NOT NULL,
  handler INTEGER NOT NULL,
  source INTEGER NOT NULL,
  state INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  age_start INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  due_at INTEGER,
  wait_ms INTEGER,
  started_at INTEGER,
  ended_at INTEGER,
  reason TEXT,
  cancel_reason TEXT,
  item INTEGER,
  replay INTEGER,
  appended_to INTEGER,
  ordering_key BLOB,
  version TEXT,
  debounce_key BLOB,
  burst_started_at INTEGER,
  reevaluation INTEGER,
  failure INTEGER,
  -- The columns of each state, the most frequent state first. One CASE takes less time than a condition for
  -- each column. Not `state IN (…)` with three values: SQLite makes a temporary table of them for each INSERT
  -- and UPDATE.
  CHECK (CASE state
    WHEN 0 THEN coalesce(due_at, wait_ms, started_at, ended_at, cancel_reason) IS NULL
    WHEN 2 THEN started_at IS NOT NULL AND coalesce(due_at, wait_ms, ended_at) IS NULL
    WHEN 3 THEN ended_at IS NOT NULL AND coalesce(due_at, wait_ms, started_at, cancel_reason) IS NULL
    WHEN 4 THEN ended_at IS NOT NULL AND reason IS NOT NULL
      AND coalesce(due_at, wait_ms, started_at, cancel_reason) IS NULL
    WHEN 5 THEN ended_at IS NOT NULL AND reason IS NOT NULL
      AND coalesce(due_at, wait_ms, started_at, cancel_reason) IS NULL
    WHEN 1 THEN due_at IS NOT NULL AND wait_ms IS NOT NULL
      AND coalesce(started_at, ended_at, cancel_reason) IS NULL
    WHEN -1 THEN coalesce(due_at, wait_ms, started_at, ended_at, cancel_reason) IS NULL
    WHEN 6 THEN coalesce(due_at, wait_ms, started_at, ended_at, cancel_reason) IS NULL
    ELSE 0 END),
  CHECK (attempt >= failures AND failures >= 0)
);
-- All jobs but succeeded and unreleased ones. Claims, queue depths and lists read this index alone, without the
-- rows. One index for all states costs an insert less than one for each state. SQLite uses it only for a query
-- that has the same condition.
CREATE INDEX jobs_by_state ON jobs (state, handler, id, source, attempt) WHERE state NOT IN (3, 6);
-- Its condition does not name the state, so a claim and a success leave it alone.
CREATE INDEX jobs_waiting ON jobs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_dead ON jobs (id) WHERE state = 4;
CREATE INDEX jobs_appended ON jobs (appended_to, state) WHERE appended_to IS NOT NULL;
CREATE INDEX jobs_order ON jobs (handler, ordering_key, state, id, source)
  WHERE ordering_key IS NOT NULL AND state < 3;
CREATE INDEX jobs_debounce ON jobs (handler, debounce_key)
  WHERE debounce_key IS NOT NULL AND state < 2;
CREATE INDEX jobs_failures ON jobs (failure) WHERE failure IS NOT NULL;

-- Jobs whose last attempt failed, grouped by handler and reason (src/store/failure_groups.rs).
-- reason: the detail of the failure without what differs from job to job, such as numbers.
-- failing: how many of its jobs will be retried. dead: how many are dead. A group without jobs is deleted.
-- first_at, last_at: the first failure since the group exists, and the last one. last_job: the job of the last one.
CREATE TABLE failure_groups (
  id INTEGER PRIMARY KEY,
  handler INTEGER NOT NULL,
  reason TEXT NOT NULL,
  failing INTEGER NOT NULL,
  dead INTEGER NOT NULL,
  first_at INTEGER NOT NULL,
  last_at INTEGER NOT NULL,
  last_job INTEGER NOT NULL
);
CREATE UNIQUE INDEX failure_groups_reason ON failure_groups (handler, reason);

-- Outputs of `split`, one row for each job. They are not in `jobs`, whose rows are rewritten often.
CREATE TABLE items (job INTEGER PRIMARY KEY, body BLOB NOT NULL);

-- Keys of `unique_by`, cut like those of `dedupe`. expires_at: end of the window, by the database clock.
CREATE TABLE unique_keys (
  handler INTEGER NOT NULL,
  key BLOB NOT NULL,
  job INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (handler, key)
) WITHOUT ROWID;
CREATE INDEX unique_keys_expires ON unique_keys (expires_at);
CREATE INDEX unique_keys_job ON unique_keys (job);

-- The highest value of `version_by` that succeeded, for each `ordering_key`.
CREATE TABLE versions (
  handler INTEGER NOT NULL,
  key BLOB NOT NULL,
  value TEXT NOT NULL,
  job INTEGER NOT NULL,
  PRIMARY KEY (handler, key)
) WITHOUT ROWID;

-- Attempts, inserted when they end, so ids increase in the order of the outcomes.
-- salt: random, for the digests of the detail (its first 16 bytes) and of the outputs (the rest, see `seals`). NULL:
--   nothing of the attempt can be removed, or its detail was.
-- content_digest: the digest of the outputs, since they were removed, and then that of the detail, if it was.
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY,
  job INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  detail TEXT NOT NULL,
  ended_at INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  next_at INTEGER,
  salt BLOB,
  content_digest BLOB,
  stdout BLOB,
  stderr BLOB
);
CREATE INDEX attempts_job ON attempts (job, attempt);

-- The progress of the rules of `retention` (src/store/retention.rs). rule: 0 bodies, 1 events.
-- next_event: the rule has seen all earlier events of the source.
CREATE TABLE retention_cursors (
  source INTEGER NOT NULL,
  rule INTEGER NOT NULL,
  next_event INTEGER NOT NULL,
  PRIMARY KEY (source, rule)
) WITHOUT ROWID;

-- Events before `next_event` that a rule could not remove then, because they were not settled, or a dead job
-- protected them. The rule looks at them again when its duration has passed since `since`.
CREATE TABLE retention_waiting (
  source INTEGER NOT NULL,
  rule INTEGER NOT NULL,
  since INTEGER NOT NULL,
  event INTEGER NOT NULL,
  PRIMARY KEY (source, rule, since, event)
) WITHOUT ROWID;

-- Events with so many jobs that several transactions remove them, and those that `erase` has begun with (rule 2). The
-- body is gone already; next_job: the next job whose rows are removed.
CREATE TABLE partial_removals (event INTEGER PRIMARY KEY, rule INTEGER NOT NULL, next_job INTEGER NOT NULL);

-- The sealed trail (src/store/seal.rs). Each transaction that inserts events, attempts or rejections adds a seal. The
-- seals are the leaves of a hash tree (RFC 9162), whose root depends on each sealed row.
-- last_event, last_attempt, last_rejection: the highest id that is sealed.
-- kept_events, kept_attempts, kept_rejections: how many sealed rows there are. `retention`, `prune` and the bound of
--   the rejections lower them.
-- entries: how many events, attempts and rejections the seal has, in 4 bytes each; the digests of these rows; and the
--   final counts of rejections, each the id and a digest.
CREATE TABLE seals (
  id INTEGER PRIMARY KEY,
  sealed_at INTEGER NOT NULL,
  last_event INTEGER NOT NULL,
  last_attempt INTEGER NOT NULL,
  last_rejection INTEGER NOT NULL,
  kept_events INTEGER NOT NULL,
  kept_attempts INTEGER NOT NULL,
  kept_rejections INTEGER NOT NULL,
  entries BLOB NOT NULL
);

-- Which rows of a seal are removed, while others are left: one bit for each entry, the first in the lowest bit of the
-- first byte.
CREATE TABLE seal_removals (seal INTEGER PRIMARY KEY, entries BLOB NOT NULL);

-- The digests of subtrees whose seals are removed with all their rows. first: the first leaf, from 0. The subtree has
-- 2^level leaves.
CREATE TABLE seal_subtrees (first INTEGER PRIMARY KEY, level INTEGER NOT NULL, digest BLOB NOT NULL);

-- Changes to all rows of a table that a migration left for later (src/store/backfill.rs). The rows from next_id to
-- last_id still have the earlier form.
CREATE TABLE backfills (
  name TEXT PRIMARY KEY,
  first_id INTEGER NOT NULL,
  next_id INTEGER NOT NULL,
  last_id INTEGER NOT NULL
) WITHOUT ROWID;

-- Rejected requests, without their bodies. count: how many identical rejections the row stands for.
-- count_seal: the seal with the final count, if it is not 1.
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
  count INTEGER NOT NULL DEFAULT 1,
  count_seal INTEGER
);
CREATE INDEX rejected_requests_ip ON rejected_requests (ip);
CREATE INDEX rejected_requests_open ON rejected_requests (id) WHERE count > 1 AND count_seal IS NULL;

-- Addresses (the /64 of IPv6) that had an event accepted, about 100,000 at most. Their rejections are deleted last.
CREATE TABLE accepted_ips (ip TEXT PRIMARY KEY) WITHOUT ROWID;

-- Handshakes that the server answered.
CREATE TABLE handshake_log (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  source TEXT NOT NULL,
  method TEXT NOT NULL,
  ip TEXT NOT NULL,
  detail TEXT NOT NULL
);

-- Changes of circuit breakers: `opened`, `probe`, `closed`.
CREATE TABLE breaker_changes (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  handler INTEGER NOT NULL,
  change TEXT NOT NULL,
  detail TEXT NOT NULL
);

-- Alerts that the source `hooktrail` still has to report: `count` of them since the last event of this kind,
-- the newest in the other columns. emitted_at: when that event was made, by the database clock.
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
  emitted_at INTEGER,
  PRIMARY KEY (type, source, handler)
) WITHOUT ROWID;

-- Jobs that reached a final state and that no event of type `job.settled` has reported yet. Only while a handler takes
-- such events. The row outlives its job and its event.
-- ended_as: the state that it reached, as in `jobs`. at: when, by the wall clock. attempts, detail: as of then.
-- uid, origin_key: of the event.
CREATE TABLE settlements (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job INTEGER NOT NULL,
  event INTEGER NOT NULL,
  source INTEGER NOT NULL,
  handler INTEGER NOT NULL,
  item INTEGER,
  replay INTEGER,
  attempts INTEGER NOT NULL,
  ended_as INTEGER NOT NULL,
  at INTEGER NOT NULL,
  detail TEXT,
  uid BLOB NOT NULL,
  origin_key TEXT
);

-- Commands that changed jobs, handlers or the configuration.
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
  s.name AS source, nullif(e.ip, '') AS remote_ip, coalesce(e.removed_bytes, length(e.body)) AS bytes,
  (SELECT count(*) FROM duplicates d WHERE d.event = e.id) AS duplicates,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id)
    AND (j.state <> 6 OR EXISTS (SELECT 1 FROM expansions x
      WHERE x.first_job <= j.id AND j.id <= x.last_job AND x.is_visible)))
    + coalesce((SELECT json_array_length(d.handlers) FROM deferred_events d WHERE d.event = e.id), 0)
    AS jobs,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id)
    AND (j.state <= 1 OR j.state = 6 AND EXISTS (SELECT 1 FROM expansions x
      WHERE x.first_job <= j.id AND j.id <= x.last_job AND x.is_visible)))
    + coalesce((SELECT json_array_length(d.handlers) FROM deferred_events d WHERE d.event = e.id), 0)
    AS queued,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id)
    AND j.state = 2) AS running,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id)
    AND j.state = 3) AS succeeded,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id)
    AND j.state = 4) AS dead,
  (SELECT count(*) FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id)
    AND j.state = 5) AS cancelled,
  (SELECT CASE WHEN min(j.state) <= 2 OR max(j.state) = 6
        OR EXISTS (SELECT 1 FROM deferred_events d WHERE d.event = e.id) THEN NULL ELSE
      strftime('%Y-%m-%dT%H:%M:%fZ', coalesce(max(j.ended_at), e.received_at) / 1000.0, 'unixepoch')
      END FROM jobs j WHERE (j.id BETWEEN e.first_job AND e.last_job OR j.appended_to = e.id))
    AS settled_at, e.client, e.origin_key
FROM events e JOIN sources s ON s.id = e.source;

CREATE VIEW dead_jobs AS
SELECT j.id AS job, j.event, s.name AS source, h.name AS handler, j.item,
  j.attempt AS attempts,
  strftime('%Y-%m-%dT%H:%M:%fZ', j.ended_at / 1000.0, 'unixepoch') AS died_at,
  j.reason AS detail
FROM jobs j JOIN sources s ON s.id = j.source JOIN handlers h ON h.id = j.handler
WHERE j.state = 4;

CREATE VIEW queue_depth AS
SELECT h.name AS handler, d.state, sum(d.jobs) AS jobs,
  strftime('%Y-%m-%dT%H:%M:%fZ', min(d.oldest) / 1000.0, 'unixepoch') AS oldest_at
FROM (
  SELECT o.id AS handler, 'queued' AS state, o.queued AS jobs, (SELECT min(j.created_at) FROM jobs j
      WHERE j.id IN (
        (SELECT min(c.id) FROM jobs c WHERE c.state = -1 AND c.handler = o.id AND c.state NOT IN (3, 6)),
        (SELECT min(c.id) FROM jobs c WHERE c.state = 0 AND c.handler = o.id AND c.state NOT IN (3, 6)),
        (SELECT min(c.id) FROM jobs c WHERE c.state = 1 AND c.handler = o.id AND c.state NOT IN (3, 6))))
      AS oldest
    FROM handlers o WHERE o.queued > 0
  UNION ALL SELECT o.id, 'running', o.running, (SELECT j.created_at FROM jobs j
      WHERE j.id =
        (SELECT min(c.id) FROM jobs c WHERE c.state = 2 AND c.handler = o.id AND c.state NOT IN (3, 6)))
    FROM handlers o WHERE o.running > 0
  UNION ALL SELECT q.handler, 'queued', q.jobs, j.created_at FROM (
    SELECT j.handler, count(*) AS jobs, min(j.id) AS first FROM expansions x
      JOIN jobs j NOT INDEXED ON j.id BETWEEN x.next_job AND x.last_job AND j.state = 6
      WHERE x.is_visible GROUP BY j.handler) q JOIN jobs j ON j.id = q.first
  UNION ALL SELECT u.value, 'queued', count(*), min(e.received_at) FROM deferred_events d
    JOIN events e ON e.id = d.event JOIN json_each(d.handlers) u GROUP BY u.value) d
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
