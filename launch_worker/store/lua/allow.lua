-- Sets an allowance for an admin: how many of its runs may wait, how many may run, and how many GPUs they may hold.
-- ARGV: name, waiting, running, gpus ('' for no such limit), actor. With none of the three the allowance is removed.
-- Runs that count for it are those that were submitted while there was one. Returns 1 for a new one, else 0.
local name, waiting, running, gpus, actor = unpack(ARGV)
local key = 'launch:allowance:' .. name
local added
redis.call('DEL', key)
if waiting == '' and running == '' and gpus == '' then
  redis.call('SREM', 'launch:allowances', name)
else
  added = redis.call('SADD', 'launch:allowances', name)
  for field, value in pairs({waiting = waiting, running = running, gpus = gpus}) do
    if value ~= '' then redis.call('HSET', key, field, value) end
  end
end
local what = added == 1 and 'created' or added and 'changed' or 'deleted'
add_act('allowance', name, what, actor, now_us(), added and {waiting = waiting, running = running, gpus = gpus})
return added or 0
