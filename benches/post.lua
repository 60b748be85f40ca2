-- The script for wrk: posts benches/body.json, and prints one line of JSON at the end.
-- `wrk … URL -- MS [HEADER]` waits MS milliseconds before each request (`-`: not at all), for a load
-- that leaves the server idle time, and sends HEADER with each request.

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
  -- As wrk does without a script: format the request once.
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
