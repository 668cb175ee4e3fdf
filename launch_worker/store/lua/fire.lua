-- A recurring submission's time has come: (nothing) -> Pending, and its next time is noted, in one step; so two beats
-- do it once.  ARGV: name, the time for which it is fired, the next one (both us), then as for create: id, reason,
--   queue, its configuration, its pool's, expires_us, field, value, …   With id '' that time is left out.
-- Returns {1, 0} | {0, 0} (somebody else did it, or it is gone) | {-1, configuration, the pool's} | {-2, why not}.
local name, expected, next_us = unpack(ARGV, 1, 3)
local id, reason, queue, config, config_of_pool, expires_us = unpack(ARGV, 4, 9)
local at = tonumber(redis.call('ZSCORE', 'launch:schedules', name) or '')
if at ~= tonumber(expected) then return {0, 0} end
local now = now_us()
if id ~= '' and is_new(id) then
  local known, known_of_pool = queue_config(queue), pool_config(queue)
  if known ~= config or known_of_pool ~= config_of_pool then return {-1, known, known_of_pool} end
  local created, why = create(id, now, reason, queue, nil, tonumber(expires_us), {unpack(ARGV, 10)})
  if created == -2 then return {-2, why} end
  add_all()
end
redis.call('ZADD', 'launch:schedules', next_us, name)
return {1, 0}
