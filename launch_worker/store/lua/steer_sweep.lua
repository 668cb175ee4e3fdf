-- pause: RUNNING -> PAUSED.  resume: PAUSED -> RUNNING (its first runs may fail again).
-- stop: RUNNING | PAUSED -> STOPPED, and FINISHED when its Running runs have ended.
-- cancel: RUNNING | PAUSED | STOPPED -> STOPPED, and CANCELED when its Running runs were killed.
-- ARGV: sweep, word, reason for which its runs are Killed, actor
-- Stop and cancel kill its Pending runs; only cancel ends the Running ones. A repeated call changes nothing.
-- Returns {'done' | 'refused' | 'unknown', the sweep's state}
local sweep, word, reason, actor = unpack(ARGV)
local key = sweep_key(sweep)
local state, cancelling = unpack(redis.call('HMGET', key, 'state', 'cancelling'))
if not state then return {'unknown', ''} end
local now = now_us()
local function ended()
  redis.call('PUBLISH', 'launch:sweeps', sweep)
  return {'done', redis.call('HGET', key, 'state')}
end
if word == 'pause' or word == 'resume' then
  local from, to = 'RUNNING', 'PAUSED'
  if word == 'resume' then from, to = to, from end
  if state ~= from and state ~= to then return {'refused', state} end
  redis.call('HSET', key, 'state', to)
  if state ~= to then add_act('sweep', sweep, word == 'pause' and 'paused' or 'resumed', actor, now) end
  -- The failures that paused the sweep count no longer.
  if word == 'resume' then redis.call('HDEL', key, 'failures', 'fails', 'failed', 'failed_why', 'alike', 'whys') end
  return ended()
end
if SWEEPS.ENDED[state] then
  return {((word == 'stop') == (state == 'FINISHED')) and 'done' or 'refused', state}
end
if word == 'cancel' then redis.call('HSET', key, 'cancelling', '1') end
redis.call('HSET', key, 'state', 'STOPPED')
if state ~= 'STOPPED' or (word == 'cancel' and cancelling ~= '1') then
  add_act('sweep', sweep, word == 'cancel' and 'cancelling' or 'stopped', actor, now)
end
-- The pass goes on where there are more (settle_sweep).
for _, id in ipairs(redis.call('SRANDMEMBER', key .. ':live', MOST_AT_ONCE)) do
  local of_run = get(id, 'state')[1]
  if of_run == 'Pending' then
    WAITING.kill_pending(id, now, reason, {actor = actor})
  elseif of_run == 'Running' then
    if word == 'cancel' then ask_to_end(id, now, '', reason, false, actor) end
  else
    -- The run was deleted, or the sweep was not told of its end.
    redis.call('SREM', key .. ':live', id)
  end
end
SWEEPS.close(sweep, now)
WAITING.settle(now, 100)
return ended()
