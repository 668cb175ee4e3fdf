-- (nothing) -> Pending: a schedule's time has come. The run is made and the next time is noted in one step, so two
-- beats make one run.
-- ARGV: name, the time for which it is fired, the next one (both us), then as for create: id, reason, queue, its
--   configuration, its pool's, expires_us, overlap, field, value, …   With '' for id that time is left out.
-- While the schedule's last run has not ended, overlap `skip` leaves the time out, and `queue-one` makes a run that
-- waits for the end of the last run, unless a run waits already. `allow` makes the run in any case.
-- Returns {1, 0} | {0, 0} (another beat did it, or the schedule was deleted) | {2, the last run} (left out: the last
--   run has not ended) | {-1, configuration, the pool's} | {-2, why not}.
local name, expected, next_us, id, reason, queue, config, config_of_pool, expires_us, overlap = unpack(ARGV, 1, 10)
local FIRST_FIELD = 11
local last_key = 'launch:schedule:' .. name .. ':run'
local at = tonumber(redis.call('ZSCORE', 'launch:schedules', name) or '')
if at ~= tonumber(expected) then return {0, 0} end
local now = now_us()
if id ~= '' and is_new(id) then
  local known, known_of_pool = queue_config(queue), pool_config(queue)
  if known ~= config or known_of_pool ~= config_of_pool then return {-1, known, known_of_pool} end
  local fields = {unpack(ARGV, FIRST_FIELD)}
  local last = overlap ~= 'allow' and redis.call('GET', last_key)
  local state = last and get(last, 'state')[1]
  if state == 'Pending' or state == 'Running' then
    if overlap == 'skip' or state == 'Pending' then
      redis.call('ZADD', 'launch:schedules', next_us, name)
      add_act('schedule', name, 'skipped', '', now, {run = last})
      return {2, last}
    end
    local waits, at_waits = {}, #fields + 1
    for number = 1, #fields, 2 do
      if fields[number] == 'waits_for' then waits, at_waits = cjson.decode(fields[number + 1]), number end
    end
    waits[last] = waits[last] or 'any'
    fields[at_waits], fields[at_waits + 1] = 'waits_for', cjson.encode(waits)
  end
  local created, why = create(id, now, reason, queue, nil, tonumber(expires_us), fields)
  if created == -2 then return {-2, why} end
  add_all()
  if overlap ~= 'allow' then redis.call('SET', last_key, id) end
end
redis.call('ZADD', 'launch:schedules', next_us, name)
return {1, 0}
