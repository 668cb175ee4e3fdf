-- Mends a live sweep's set of live runs: runs that were deleted, or whose end the sweep was not told of, are removed.
-- Goes on with stop and cancel, where the sweep has more live runs than one call looks at.
-- ARGV: sweep.  Returns the number of these runs.
local sweep = ARGV[1]
local key = sweep_key(sweep)
local now = now_us()
if redis.call('EXISTS', key) == 0 then
  redis.call('SREM', 'launch:sweeps:live', sweep)
  return 0
end
local found, is_stopped = 0, redis.call('HGET', key, 'state') == 'STOPPED'
for _, id in ipairs(redis.call('SRANDMEMBER', key .. ':live', MOST_AT_ONCE)) do
  local state = get(id, 'state')[1]
  if not state or FINAL[state] then
    found = found + 1
    if state then SWEEPS.tell(id, now) else redis.call('SREM', key .. ':live', id) end
  elseif state == 'Pending' and is_stopped then
    WAITING.kill_pending(id, now, 'the sweep was stopped')
  elseif state == 'Running' and redis.call('HGET', key, 'cancelling') == '1' and not get(id, 'cancel_at')[1] then
    ask_to_end(id, now, '', 'the sweep was cancelled')
  end
end
SWEEPS.close(sweep, now)
WAITING.settle(now, 100)
return found
