-- Returns the item of a Pending run that a worker took and did not claim, for the worker stops.  ARGV: id, seq
-- Refuses an item that is not the run's latest, and one of a run that waits in a line.  Returns 1 or 0.
local id, seq = unpack(ARGV)
local run = get(id, 'state', 'seq', 'queue', 'priority', 'list', 'due_at', 'parked')
if run[1] ~= 'Pending' or run[2] ~= seq or run[7] then return 0 end
local now = now_us()
if run[5] then
  local due = tonumber(run[6] or '')
  withdraw(id)
  if due and due > now then schedule(id, due) else line_up(id, now, true) end
  return 1
end
local since = redis.call('ZSCORE', 'launch:dispatched:' .. list_of(run[3], run[4]), id)
dispatch(id, now, {since = since and tonumber(since) or now})
return 1
