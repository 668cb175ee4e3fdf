-- Deletes a pool.  ARGV: pool.  Refuses while queues are in it.  Returns the number of these queues.
local pool = ARGV[1]
local queues = redis.call('ZCARD', 'launch:pool_queues:' .. pool)
if queues > 0 then return queues end
redis.call('DEL', 'launch:pool:' .. pool)
redis.call('SREM', 'launch:pools', pool)
return 0
