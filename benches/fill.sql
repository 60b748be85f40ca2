-- Fills a new database with events of the last year. Each event has one job. The newest jobs are queued
-- for a paused handler, and all others have succeeded. Bodies are small (about 100 bytes), so that ten
-- million events take 3 GB. Every cost that grows with the number of rows is present.
--
-- The server must have created the file, with a source `intake` and a handler `idle`, and have stopped:
--   sqlite3 hooktrail.db 'create temp table fill as select 10000000 as events, 1000000 as queued' \
--     '.read benches/fill.sql'
--
-- With a source `rare` and a handler `rare`, each of them gets one event or job of 100,003, and some jobs are
-- dead, cancelled or scheduled. benches/reads uses them.

PRAGMA cache_size = -65536;
PRAGMA journal_mode = off;
PRAGMA synchronous = off;

BEGIN;

INSERT INTO events (id, uid, source, received_at, method, path, query, ip, headers, first_job,
  last_job, note, body)
WITH RECURSIVE
  numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers, fill WHERE n < events),
  period (start, step) AS (SELECT (unixepoch() - 31536000) * 1000, 31536000000 / events FROM fill),
  ids (usual, rare) AS (SELECT s.id, coalesce(r.id, s.id) FROM sources s LEFT JOIN sources r
    ON r.name = 'rare' WHERE s.name = 'intake')
SELECT n, randomblob(16), CASE n % 100003 WHEN 0 THEN rare ELSE usual END, start + n * step, 'POST',
  '/hooks/intake', NULL, '127.0.0.1',
  CAST('host: 127.0.0.1:8080' || char(10) || 'content-type: application/json' AS BLOB), n, n, NULL,
  CAST(printf('{"contact_id":"%d","form_completion_id":"%d","email_address":["%d@mid-corp.com"]}',
    749746728 + n % 50021, 4453534 + n, n % 50021) AS BLOB)
FROM numbers CROSS JOIN period CROSS JOIN ids;

INSERT INTO jobs (id, event, handler, source, state, created_at, age_start, attempt, due_at, wait_ms,
  ended_at, reason, failure)
WITH ids (usual, rare) AS (SELECT h.id, r.id FROM handlers h LEFT JOIN handlers r ON r.name = 'rare'
    WHERE h.name = 'idle'),
  rows AS (SELECT id, source, received_at, usual, rare, CASE
      WHEN id > events - queued THEN CASE WHEN rare > 0 AND id % 5000 = 0 THEN 1 ELSE 0 END
      WHEN rare > 0 AND id % 5000 = 0 THEN 4
      WHEN rare > 0 AND id % 7000 = 0 THEN 5
      ELSE 3 END AS state
    FROM events CROSS JOIN fill CROSS JOIN ids)
SELECT id, id, CASE WHEN rare > 0 AND id % 100003 = 1 THEN rare ELSE usual END, source, state, received_at,
  0, state > 0, CASE state WHEN 1 THEN received_at + 172800000 END, CASE state WHEN 1 THEN 172800000 END,
  CASE WHEN state > 2 THEN received_at + 30 END, CASE state WHEN 4 THEN 'exit 1: no such contact'
    WHEN 5 THEN 'cancelled' END, CASE WHEN state IN (1, 4) THEN CASE WHEN rare > 0 AND id % 100003 = 1 THEN rare
    ELSE usual END END
FROM rows;

-- The group of a handler's failures has the number of the handler.
INSERT INTO failure_groups (id, handler, reason, failing, dead, first_at, last_at, last_job)
SELECT failure, handler, 'exit 1: no such contact', sum(state = 1), sum(state = 4), min(created_at),
  max(created_at), max(id)
FROM jobs WHERE failure IS NOT NULL GROUP BY failure;

UPDATE handlers SET
  queued = (SELECT count(*) FROM jobs j WHERE j.handler = handlers.id AND j.state IN (-1, 0, 1)),
  dead = (SELECT count(*) FROM jobs j WHERE j.handler = handlers.id AND j.state = 4);

INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms)
SELECT row_number() OVER (ORDER BY id), id, 1, CASE state WHEN 3 THEN 'succeeded' ELSE 'failed' END,
  CASE state WHEN 3 THEN 'exit 0' ELSE 'exit 1: no such contact' END, created_at + 30, 27
FROM jobs WHERE attempt > 0;

INSERT INTO event_blocks SELECT id >> 10, source, min(received_at) / 60000, max(received_at) / 60000
FROM events GROUP BY id >> 10, source;

INSERT INTO job_blocks SELECT id >> 10, handler, source, min(created_at) / 60000, max(created_at) / 60000,
  max(state = 3) FROM jobs GROUP BY id >> 10, handler, source;

INSERT INTO attempt_blocks SELECT DISTINCT a.id >> 10, j.handler, j.source
FROM attempts a CROSS JOIN jobs j ON j.id = a.job;

INSERT INTO minute_counts (minute, source, handler, events, duplicates, rejections, succeeded, unsuccessful,
  duration_ms, last_event_at)
SELECT received_at / 60000, source, 0, count(*), 0, 0, 0, 0, 0, max(received_at)
FROM events WHERE received_at >= (unixepoch() - 86400) * 1000 GROUP BY 1, 2;

INSERT OR IGNORE INTO accepted_ips VALUES ('127.0.0.1');

UPDATE counters SET event = (SELECT events FROM fill), job = (SELECT events FROM fill),
  attempt = (SELECT coalesce(max(id), 0) FROM attempts);

COMMIT;

PRAGMA journal_mode = wal;
