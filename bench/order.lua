-- wrk: orders as Cloud Tasks delivers them, each another one, and one line of JSON about how it went.
local made = 0
local action = "update_inventory"

function init(arguments)
  action = arguments[1] or action
end

function request()
  made = made + 1
  local id = "ORD-" .. made
  local headers = {
    ["Content-Type"] = "application/json",
    ["User-Agent"] = "Google-Cloud-Tasks",
    ["X-CloudTasks-QueueName"] = "cloud-run-tasks",
    ["X-CloudTasks-TaskName"] = "0f1e2d3c4b5a6978-" .. action .. "-" .. id,
    ["X-CloudTasks-TaskRetryCount"] = "0",
    ["X-CloudTasks-TaskExecutionCount"] = "0",
    ["X-CloudTasks-TaskETA"] = "1767225600.123456",
    ["X-Cloud-Trace-Context"] = "105445aa7843bc8bf206b12000100000/1;o=1",
  }
  local body = '{"orderId": "' .. id .. '", "action": "' .. action .. '", "customerEmail": "ada@example.com"}'
  return wrk.format("POST", "/process-order", headers, body)
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  local line = '{"orders": %d, "seconds": %f, "p99": %f, "failed": %d}'
  print(line:format(summary.requests, summary.duration / 1e6, latency:percentile(99) / 1e3, failed))
end
