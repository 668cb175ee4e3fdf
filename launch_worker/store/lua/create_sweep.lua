-- (nothing) -> RUNNING: a new sweep.  ARGV: sweep, actor, field, value, …   Idempotent by id.  Returns 1, or 0 for an
-- existing sweep.
local sweep, actor = unpack(ARGV, 1, 2)
local FIRST_FIELD = 3
local key = sweep_key(sweep)
if redis.call('EXISTS', key) == 1 then return 0 end
local now = now_us()
redis.call('HSET', key, 'id', sweep, 'state', 'RUNNING', 'made', 0, 'created_at', int(now), unpack(ARGV, FIRST_FIELD))
redis.call('ZADD', 'launch:sweeps', int(now), sweep)
redis.call('SADD', 'launch:sweeps:live', sweep)
redis.call('PUBLISH', 'launch:sweeps', sweep)
add_act('sweep', sweep, 'created', actor, now)
return 1
