-- Deletes a queue and its configuration.  ARGV: queue, actor.  Refuses while runs wait in it; its Running runs go on.
-- Returns the number of runs that wait.
local queue, actor = unpack(ARGV)
local waiting = redis.call('ZCARD', 'launch:line:' .. queue)
if waiting > 0 then return waiting end
local pool = settings_of('queue', queue).pool
if pool then redis.call('ZREM', 'launch:pool_queues:' .. pool, queue) end
redis.call('DEL', 'launch:queue:' .. queue)
COUNTS.forget(queue)
if pool then wake_once('pool:' .. pool, now_us(), 20) end
local was_there = redis.call('SREM', 'launch:queues', queue) == 1
if was_there then add_act('queue', queue, 'deleted', actor, now_us()) end
redis.call('PUBLISH', 'launch:queues', queue)
return 0
