-- Running: the job's process exists.  ARGV: id, token, pid.  Refuses a stale attempt.  Returns 1 or 0.
local id, token, pid = unpack(ARGV)
local run = get(id, 'state', 'token')
if run[1] ~= 'Running' or run[2] ~= token then return 0 end
redis.call('HSET', run_key(id), 'pid', pid)
return 1
