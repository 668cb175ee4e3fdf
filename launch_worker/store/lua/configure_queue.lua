-- Sets what an admin configures of a queue; '' takes the configuration away.  ARGV: queue, config (JSON)
local queue, config = unpack(ARGV)
if config == '' then return redis.call('DEL', 'launch:queue:' .. queue) end
redis.call('HSET', 'launch:queue:' .. queue, 'config', config)
redis.call('SADD', 'launch:queues', queue)
return 1
