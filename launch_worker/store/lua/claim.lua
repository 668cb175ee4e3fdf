-- Pending -> Running (Crashed -> Running for a repeated call that was silent too long), with a new attempt, a new fencing token and a lease.
-- ARGV: id, seq, nonce, lease_us, owner, worker, host
-- Refuses an item whose dispatch number is not the record's. A repeated nonce gets the same answer.
-- Returns {1, the record's fields and values, queue_config among them} or {0, why not}.
local id, seq, nonce, lease_us, owner, worker, host = unpack(ARGV)
local run = get(id, 'state', 'seq', 'nonce', 'attempt', 'token', 'closed', 'queue')
local state = run[1]
if not state then return {0, 'there is no such run'} end
local now = now_us()
local function claimed()
  local fields = redis.call('HGETALL', run_key(id))
  fields[#fields + 1] = 'queue_config'
  fields[#fields + 1] = queue_config(run[7])
  return {1, fields}
end
if run[3] == nonce and (state == 'Running' or state == 'Crashed') and run[6] ~= run[5] then
  redis.call('ZADD', 'launch:leases', int(now + tonumber(lease_us)), id)
  if state == 'Crashed' then revive(id, now, run[4], worker) end
  return claimed()
end
if redis.call('EXISTS', 'launch:hold') == 1 then return {0, 'Redis was restored from a snapshot; workers report first'} end
if state ~= 'Pending' then return {0, 'the run is ' .. state} end
if run[2] ~= seq then return {0, 'the item is older than the run\'s latest dispatch'} end
-- Server time keeps a token from being issued twice by a Redis that was rolled back (failover, power loss).
local token = math.max(tonumber(run[5]) + 1, now)
local attempt = tonumber(run[4]) + 1
withdraw(id)
redis.call('HSET', run_key(id), 'attempt', attempt, 'token', int(token), 'nonce', nonce, 'owner', owner,
  'worker', worker, 'host', host, 'started_at', int(now))
redis.call('HDEL', run_key(id), 'exit_code', 'signal', 'phase', 'message', 'pid', 'phases', 'closed')
redis.call('ZADD', 'launch:leases', int(now + tonumber(lease_us)), id)
arrow(id, 'Pending', 'Running', now, attempt, worker, '')
return claimed()
