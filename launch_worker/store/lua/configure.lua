-- Sets fields of a queue or a pool for an admin.
-- ARGV: kind (queue or pool), name, only_new (1: refuse an existing one), actor, then field and value ('' removes the
--   field)
-- Returns {0} when refused, else {1, the groups whose parked runs must be looked at…}.
local kind, name, only_new, actor = unpack(ARGV, 1, 4)
local FIRST_FIELD = 5
local key = 'launch:' .. kind .. ':' .. name
local kept = kind == 'queue' and 'launch:queues' or 'launch:pools'
local was_there = redis.call('EXISTS', key) == 1 or redis.call('SISMEMBER', kept, name) == 1
if only_new == '1' and was_there then return {0} end
local groups = {1, kind .. ':' .. name}
local before, set = settings_of(kind, name), {}
for at = FIRST_FIELD, #ARGV, 2 do
  -- A configuration may have secrets in its defaults: it is not told.
  set[ARGV[at]] = ARGV[at] == 'config' and (ARGV[at + 1] == '' and '' or 'set') or ARGV[at + 1]
  if ARGV[at + 1] == '' then
    redis.call('HDEL', key, ARGV[at])
  else
    redis.call('HSET', key, ARGV[at], ARGV[at + 1])
  end
end
redis.call('SADD', kept, name)
if kind == 'queue' then COUNTS.begin(name) end
local what = was_there and 'changed' or 'created'
if was_there and #ARGV == FIRST_FIELD + 1 and set.paused then what = set.paused == '1' and 'paused' or 'resumed' end
add_act(kind, name, what, actor, now_us(), next(set) and set)
if kind == 'queue' then
  local pool, rank = unpack(redis.call('HMGET', key, 'pool', 'rank'))
  if before.pool and before.pool ~= pool then
    redis.call('ZREM', 'launch:pool_queues:' .. before.pool, name)
    groups[#groups + 1] = 'pool:' .. before.pool
  end
  if pool then
    redis.call('SADD', 'launch:pools', pool)
    redis.call('ZADD', 'launch:pool_queues:' .. pool, rank or 1000, name)
    groups[#groups + 1] = 'pool:' .. pool
  end
  redis.call('PUBLISH', 'launch:queues', name)
else
  for _, queue in ipairs(redis.call('ZRANGE', 'launch:pool_queues:' .. name, 0, -1)) do
    redis.call('PUBLISH', 'launch:queues', queue)
  end
end
return groups
