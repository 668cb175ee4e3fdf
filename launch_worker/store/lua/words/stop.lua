-- Requests to end a Running run.

-- The order to stop a run, as its owner gets it.
local function order_of(id)
  local run = get(id, 'token', 'cancel_grace_us', 'cancel_reason', 'preempting')
  return cjson.encode({order = 'cancel', id = id, token = run[1], grace_us = run[2] or '', reason = run[3] or '',
    preempt = run[4] == '1'})
end

-- Asks a Running run's owner to end it, at once and at every heartbeat until the run has ended. `actor`: the person who
-- asks for it, '' or nil for none.
local function ask_to_end(id, now, grace_us, reason, preempt, actor)
  local run = get(id, 'owner', 'cancel_at')
  if not run[2] then
    put(id, 'cancel_at', int(now))
    redis.call('ZADD', 'launch:cancels', int(now), id)
  end
  put(id, 'cancel_grace_us', grace_us, 'cancel_reason', reason, 'reason', 'stopping: ' .. reason)
  if preempt then
    put(id, 'preempting', '1')
  else
    drop(id, 'preempting')
  end
  redis.call('PUBLISH', 'launch:orders:' .. (run[1] or ''), order_of(id))
  if actor and actor ~= '' then
    add_act('act', id, preempt and 'preempt' or 'cancel', actor, now, {reason = reason, grace_us = grace_us ~= '' and grace_us or nil})
  end
end

-- Forgets a request to stop, so that it does not end the next attempt.
local function forget_request(id)
  drop(id, 'cancel_at', 'cancel_grace_us', 'cancel_reason', 'preempting')
end
