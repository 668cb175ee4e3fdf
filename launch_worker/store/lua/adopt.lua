-- Running | Crashed -> Running under another worker: the same attempt, whose job outlived its worker.
-- ARGV: id, token, attempt, from (owner of the attempt until now, '' for any), owner, worker, host, lease_us,
--   only_if_gone (1: while `from` is a live worker, refuse)
-- Refuses an attempt that was superseded or has ended, and one that another worker adopted. A repeated call gets the
-- same answer.  Returns {'done', fields and values} | {'superseded' | 'ended' | 'taken' | 'unknown'}.
local id, token, attempt, from, owner, worker, host, lease_us, only_if_gone = unpack(ARGV)
local run = get(id, 'state', 'token', 'closed', 'owner', 'attempt', 'held')
local state = run[1]
if not state then return {'unknown'} end
local now = now_us()
if is_rolled_back(run[2], token) then
  regain(id, state, now, token, attempt, from, '')
  run = get(id, 'state', 'token', 'closed', 'owner', 'attempt')
  state = run[1]
end
if tonumber(run[2]) ~= tonumber(token) then return {'superseded'} end
if run[3] == token or (state ~= 'Running' and state ~= 'Crashed') then return {'ended'} end
if run[4] ~= owner then
  if from ~= '' and run[4] ~= from then return {'taken'} end
  if only_if_gone == '1' and redis.call('EXISTS', 'launch:worker:' .. from) == 1 then return {'taken'} end
  put(id, 'owner', owner, 'worker', worker, 'host', host)
  enter_phase(id, 'adopted', now)
  enter_phase(id, '', now)
end
drop(id, 'held')
redis.call('ZADD', 'launch:leases', int(now + tonumber(lease_us)), id)
if state == 'Crashed' then revive(id, now, run[5], worker) end
-- These are no fields of a record: one that somebody wrote into it must not stand for the queue's settings.
drop(id, 'queue_config', 'waiting')
write_out(id)
return {'done', redis.call('HGETALL', run_key(id))}
