-- Counts what a client would call a failed request: a wrong status, or no answer. With an argument, each connection waits so
-- many milliseconds before each request.
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args)
  wrong = 0; good = 0
  if args[1] then delay = function() return tonumber(args[1]) end end
end
function response(status) if status == 200 then good = good + 1 else wrong = wrong + 1 end end
function done(summary)
  local failed, answered = 0, 0
  for _, thread in ipairs(threads) do
    failed = failed + thread:get("wrong")
    answered = answered + thread:get("good")
  end
  local e = summary.errors
  failed = failed + e.connect + e.read + e.write + e.timeout
  io.write(string.format("requests: %d answered, %d failed\n", answered, failed))
end
