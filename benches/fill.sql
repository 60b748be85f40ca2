-- Fills a new database with events of the last year. Each event has one job. The newest jobs are queued
-- for a paused handler, and all others have succeeded. Bodies are small (about 100 bytes), so that ten
-- million events take 3 GB. Every cost that grows with the number of rows is present.
--
-- The server must have created the file, with a source `intake` and a handler `idle`, and have stopped:
--   sqlite3 hooktrail.db 'create temp table fill as select 10000000 as events, 1000000 as queued' \
--     '.read benches/fill.sql'

PRAGMA cache_size = -65536;
PRAGMA journal_mode = off;
PRAGMA synchronous = off;

BEGIN;

INSERT INTO events (id, uid, source, received_at, method, path, query, ip, headers, first_job,
  last_job, note, body)
WITH RECURSIVE
  numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers, fill WHERE n < events),
  period (start, step) AS (SELECT (unixepoch() - 31536000) * 1000, 31536000000 / events FROM fill)
SELECT n, randomblob(16), s.id, start + n * step, 'POST', '/hooks/intake', NULL, '127.0.0.1',
  CAST('host: 127.0.0.1:8080' || char(10) || 'content-type: application/json' AS BLOB), n, n, NULL,
  CAST(printf('{"contact_id":"%d","form_completion_id":"%d","email_address":["%d@mid-corp.com"]}',
    749746728 + n % 50021, 4453534 + n, n % 50021) AS BLOB)
FROM numbers CROSS JOIN period CROSS JOIN sources s WHERE s.name = 'intake';

INSERT INTO jobs (id, event, handler, source, state, created_at, age_start, attempt, ended_at)
SELECT e.id, e.id, h.id, e.source, CASE WHEN done THEN 3 ELSE 0 END, e.received_at, 0, done,
  CASE WHEN done THEN e.received_at + 30 END
FROM (SELECT id, source, received_at, id <= events - queued AS done FROM events, fill) e
  CROSS JOIN handlers h WHERE h.name = 'idle';

INSERT INTO attempts (id, job, attempt, outcome, detail, ended_at, duration_ms)
SELECT id, id, 1, 'succeeded', 'exit 0', ended_at, 27 FROM jobs WHERE state = 3;

INSERT OR IGNORE INTO accepted_ips VALUES ('127.0.0.1');

UPDATE counters SET event = (SELECT events FROM fill), job = (SELECT events FROM fill),
  attempt = (SELECT events - queued FROM fill);

COMMIT;

PRAGMA journal_mode = wal;
