-- A script for wrk: posts benches/body.json, and prints one line of JSON at the end.
-- `wrk … URL -- MS [HEADER]` waits MS milliseconds before each request, so that the server has idle time,
-- and sends HEADER with each request. `-` as MS means no wait.

local file = assert(io.open("benches/body.json", "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
file:close()

function init(args)
  local wait_ms = tonumber(args[1])
  if wait_ms then
    delay = function() return wait_ms end
  end
  if args[2] then
    local name, value = args[2]:match("^(.-): (.*)$")
    wrk.headers[name] = value
  end
  -- Formats the request once, as wrk does without a script.
  local request = wrk.format()
  wrk.request = function() return request end
end

function done(summary, latency)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '\n{"rate": %.1f, "p50_us": %.1f, "p99_us": %.1f, "good": %d, "bad": %d}\n',
    (summary.requests - errors.status) / (summary.duration / 1e6),
    latency:percentile(50), latency:percentile(99),
    summary.requests - errors.status, errors.status + lost))
end
