-- Sets fields of a queue or a pool for an admin.
-- ARGV: kind (queue or pool), name, only_new (1: refuse an existing one), then field and value ('' removes the field)
-- Returns {0} when refused, else {1, the groups whose parked runs must be looked at…}.
local kind, name, only_new = unpack(ARGV, 1, 3)
local FIRST_FIELD = 4
local key = 'launch:' .. kind .. ':' .. name
local kept = kind == 'queue' and 'launch:queues' or 'launch:pools'
if only_new == '1' and (redis.call('EXISTS', key) == 1 or redis.call('SISMEMBER', kept, name) == 1) then return {0} end
local groups = {1, kind .. ':' .. name}
local before = settings_of(kind, name)
for at = FIRST_FIELD, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', key, ARGV[at])
  else
    redis.call('HSET', key, ARGV[at], ARGV[at + 1])
  end
end
redis.call('SADD', kept, name)
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
