-- (nothing) -> Pending: the next run of a sweep.
-- ARGV: sweep, the run's number, the drawn values (JSON), then as for create: id, reason, queue, its configuration, its
--   pool's, expires_us, field, value, …
-- Makes the run only if the sweep is RUNNING, fewer than `workers` of its runs are live, fewer than `cap` were made,
-- and this number is the next: each run is made once, whatever number of workers try. A repeated call gets the same
-- answer.
-- Returns {1, ''} | {0, why not} | {-1, configuration, the pool's} | {-2, why not}
local sweep, index, trial, id, reason, queue, config, config_of_pool, expires_us = unpack(ARGV, 1, 9)
local FIRST_FIELD = 10
local key = sweep_key(sweep)
local state, made, cap, workers, user, groups =
  unpack(redis.call('HMGET', key, 'state', 'made', 'cap', 'workers', 'user', 'user_groups'))
if not state then return {0, 'there is no such sweep'} end
if redis.call('ZSCORE', key .. ':runs', id) == index then return {1, ''} end
if state ~= 'RUNNING' then return {0, 'the sweep is ' .. state} end
if tonumber(cap or '') and tonumber(made) >= tonumber(cap) then return {0, 'all its runs were made'} end
if redis.call('SCARD', key .. ':live') >= tonumber(workers) then return {0, 'it has as many live runs as it may'} end
if made ~= index then return {0, 'another worker made this run'} end
local known, known_of_pool = queue_config(queue), pool_config(queue)
if known ~= config or known_of_pool ~= config_of_pool then return {-1, known, known_of_pool} end
local now = now_us()
-- Written before the run, for the run may end at once.
redis.call('ZADD', key .. ':runs', index, id)
redis.call('SADD', key .. ':live', id)
redis.call('HINCRBY', key, 'made', 1)
redis.call('HINCRBY', key, 'Pending', 1)
redis.call('HSET', key .. ':trials', index, trial)
local created, why
if is_new(id) then
  local fields = {unpack(ARGV, FIRST_FIELD)}
  -- Its runs are those of the person who made it.
  for name, value in pairs({user = user or nil, user_groups = groups or nil}) do
    if value ~= '' then fields[#fields + 1], fields[#fields + 2] = name, value end
  end
  created, why = create(id, now, reason, queue, nil, tonumber(expires_us), fields)
  add_all()
end
if created == 1 then
  redis.call('HDEL', key, 'problem')
  return {1, ''}
end
redis.call('ZREM', key .. ':runs', id)
redis.call('SREM', key .. ':live', id)
redis.call('HINCRBY', key, 'made', -1)
redis.call('HINCRBY', key, 'Pending', -1)
redis.call('HDEL', key .. ':trials', index)
return created == -2 and {-2, why} or {0, 'a run has this id'}
