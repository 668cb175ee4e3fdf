-- (lost by Redis) -> Running: a worker's own copy of a record that a restore from a snapshot does not have.
-- ARGV: id, lease_us, field, value, …   Changes nothing when the record exists, or was deleted.  Returns 1 or 0.
local id, lease_us = unpack(ARGV, 1, 2)
local FIRST_FIELD = 3
if not is_new(id) then return 0 end
local now = now_us()
put(id, unpack(ARGV, FIRST_FIELD))
local run = get(id, 'queue', 'project', 'created_at', 'attempt', 'worker')
redis.call('ZADD', 'launch:runs', run[3], id)
redis.call('ZADD', 'launch:runs:queue:' .. run[1], run[3], id)
if run[2] and run[2] ~= '' then redis.call('ZADD', 'launch:runs:project:' .. run[2], run[3], id) end
local sweep = get(id, 'sweep')[1]
if sweep and sweep ~= '' then
  redis.call('ZADD', 'launch:runs:sweep:' .. sweep, run[3], id)
  if redis.call('HGET', sweep_key(sweep), 'state') then redis.call('HINCRBY', sweep_key(sweep), 'Pending', 1) end
end
local array = get(id, 'array')[1]
if array and array ~= '' then
  redis.call('RPUSH', members_key(array), id)
  join_group(array)
end
redis.call('SADD', 'launch:queues', run[1])
redis.call('ZADD', 'launch:leases', int(now + tonumber(lease_us)), id)
enter(id, 'Pending', 'Running', now, run[4], run[5], 'Redis had lost this run; its worker is alive', {restored = '1'})
redis.call('HINCRBY', 'launch:counters', 'restored_runs', 1)
return 1
