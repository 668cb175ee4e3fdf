-- Mends a live sweep's set of live runs: runs that were deleted, or whose end the sweep was not told of, are removed.
-- ARGV: sweep.  Returns the number of these runs.
local sweep = ARGV[1]
local key = sweep_key(sweep)
local now = now_us()
if redis.call('EXISTS', key) == 0 then
  redis.call('SREM', 'launch:sweeps:live', sweep)
  return 0
end
local found = 0
for _, id in ipairs(redis.call('SMEMBERS', key .. ':live')) do
  local state = get(id, 'state')[1]
  if not state or FINAL[state] then
    found = found + 1
    if state then SWEEPS.tell(id, now) else redis.call('SREM', key .. ':live', id) end
  elseif state == 'Running' and redis.call('HGET', key, 'cancelling') == '1' and not get(id, 'cancel_at')[1] then
    ask_to_end(id, now, '', 'the sweep was cancelled')
  end
end
SWEEPS.close(sweep, now)
WAITING.settle(now, 100)
return found
