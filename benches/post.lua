-- What a sender posts: a Paminga form of 700 bytes.
local file = io.open(os.getenv("BODY"), "rb")
wrk.body = file:read("*a")
file:close()
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
-- A figure of answers other than 2xx is printed by wrk itself.
