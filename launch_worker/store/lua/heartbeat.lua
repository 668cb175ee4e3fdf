-- Renews the leases of one worker's runs in one call; Crashed -> Running for an attempt that was not superseded.
-- ARGV: owner, worker, lease_us, gone_us, description, number of queues, queue…, then id, token, attempt for each run
-- Returns {age of the last crash_stale_runs in us, next due time or 0, then an answer for each run:}
--   ok | cancel:GRACE_US:REASON | superseded | adopted (by another worker) | ended | unknown (Redis has lost the record)
local owner, worker, lease_us = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = now_us()
local gone = int(now + tonumber(ARGV[4]))
redis.call('SET', 'launch:worker:' .. owner, ARGV[5], 'PX', math.floor(tonumber(ARGV[4]) / 1000))
redis.call('ZADD', 'launch:workers', gone, owner)
local runs_at = 7 + tonumber(ARGV[6])
for index = 7, runs_at - 1 do redis.call('ZADD', 'launch:consumers:' .. ARGV[index], gone, owner) end

local due = redis.call('ZRANGE', 'launch:due', 0, 0, 'WITHSCORES')
local passed = tonumber(redis.call('HGET', 'launch:passes', 'crash_stale_runs') or '0')
local answers = {now - passed, due[2] and int(tonumber(due[2])) or '0'}
local function renew(id, token, attempt)
  local run = get(id, 'state', 'token', 'attempt', 'cancel_at', 'cancel_grace_us', 'cancel_reason', 'closed', 'owner')
  local state, answer = run[1], 'superseded'
  if not state then
    answer = 'unknown'
  elseif is_rolled_back(run[2], token) then
    regain(id, state, now, token, attempt, owner, worker)
    state, run[2], run[8] = 'Running', token, owner
  end
  if state and run[2] == token and run[8] and run[8] ~= owner then return 'adopted' end
  if state and run[2] == token then
    if state == 'Crashed' and run[7] ~= token then
      revive(id, now, run[3], worker)
      state = 'Running'
    end
    if state == 'Running' then
      redis.call('ZADD', 'launch:leases', int(now + lease_us), id)
      answer = run[4] and ('cancel:' .. (run[5] or '') .. ':' .. (run[6] or '')) or 'ok'
    elseif FINAL[state] then
      answer = 'ended'
    end
  end
  return answer
end

for index = runs_at, #ARGV, 3 do
  -- One damaged record must not cost the others their leases.
  local fine, answer = pcall(renew, ARGV[index], ARGV[index + 1], ARGV[index + 2])
  answers[#answers + 1] = fine and answer or 'ok'
end
return answers
