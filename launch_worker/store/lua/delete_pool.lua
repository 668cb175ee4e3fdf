-- Deletes a pool.  ARGV: pool, actor.  Refuses while queues are in it.  Returns the number of these queues.
local pool, actor = unpack(ARGV)
local queues = redis.call('ZCARD', 'launch:pool_queues:' .. pool)
if queues > 0 then return queues end
redis.call('DEL', 'launch:pool:' .. pool)
if redis.call('SREM', 'launch:pools', pool) == 1 then add_act('pool', pool, 'deleted', actor, now_us()) end
return 0
