-- Gives Pending runs whose item vanished from its list a new item, at their old place. Puts runs that were given to
-- vanished workers back into line, and tells the remaining runs that wait for ended ones.
-- ARGV: grace_us, limit, after ('' at first, then what the last call returned)
-- Lists are first in, first out: with an empty list every run dispatched before the grace has lost its item, else
-- every run dispatched before the list's oldest item. The cost follows the lost ones, not the backlog.
-- Returns the number of runs that were published again, and the `after` of the next call, '' for none: each call looks
-- into the lists of some queues (queues:CURSOR), then into the own lists of some live workers.
local grace_us, limit, after = unpack(ARGV)
grace_us, limit = tonumber(grace_us), at_most(limit, MOST_AT_ONCE)
local found = 0
local QUEUES_AT_ONCE, WORKERS_AT_ONCE = 500, 500
local now = now_us()
local function look_into(list, owner)
  local waiting = 'launch:dispatched:' .. list
  local cutoff = now - grace_us
  local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')[2]
  if not (found < limit and first and tonumber(first) <= cutoff) then return end
  heal(list)
  local oldest = redis.call('LINDEX', list, -1)
  if oldest then
    local dispatched = string.match(oldest, '"launch_dispatched_at": ?(%d+)')
    -- A foreign element says nothing about its age: wait until a worker has taken it away.
    cutoff = dispatched and math.min(cutoff, tonumber(dispatched) - 1) or -1
  end
  local lost = redis.call('ZRANGEBYSCORE', waiting, '-inf', int(cutoff), 'WITHSCORES', 'LIMIT', 0, limit - found)
  -- The newest lost run comes first: each goes before all others in the list.
  for at = #lost - 1, 1, -2 do
    local id, since = lost[at], tonumber(lost[at + 1])
    if get(id, 'state')[1] ~= 'Pending' then
      redis.call('ZREM', waiting, id)
    elseif owner then
      local due = tonumber(get(id, 'due_at')[1] or '')
      withdraw(id)
      if due and due > now then schedule(id, due) else found = found + try_line_up(id, now, waiting, true) end
    else
      local fine, problem = pcall(dispatch, id, now, {since = since})
      if fine then
        found = found + 1
      else
        redis.call('ZREM', waiting, id)
        doubt(id, waiting, problem)
      end
    end
  end
end
local cursor = after == '' and '0' or string.match(after, '^queues:(%d+)$')
if cursor then
  local next_cursor, queues = unpack(redis.call('SSCAN', 'launch:queues', cursor, 'COUNT', QUEUES_AT_ONCE))
  for _, queue in ipairs(queues) do
    for _, priority in ipairs({'0', '3', '6', '9'}) do look_into(list_of(queue, priority)) end
  end
  if next_cursor ~= '0' then
    if found > 0 then redis.call('HINCRBY', 'launch:counters', 'published_again', found) end
    return {found, 'queues:' .. next_cursor}
  end
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', 'launch:workers', '-inf', '(' .. int(now), 'LIMIT', 0, 50)) do
    relieve(owner, now, limit)
    if redis.call('EXISTS', 'launch:dispatched:' .. direct_of(owner)) == 0 then
      redis.call('DEL', 'launch:free:' .. owner)
      if redis.call('ZREM', 'launch:workers', owner) == 1 then add_act('worker', owner, 'lost', '', now) end
    end
  end
  WAITING.settle(now, limit)
end
-- By their scores: each heartbeat moves its worker to the end.
local live = redis.call('ZRANGEBYSCORE', 'launch:workers', cursor and int(now) or '(' .. after, '+inf', 'WITHSCORES',
  'LIMIT', 0, WORKERS_AT_ONCE)
for at = 1, #live, 2 do look_into(direct_of(live[at]), live[at]) end
if found > 0 then redis.call('HINCRBY', 'launch:counters', 'published_again', found) end
return {found, #live == 2 * WORKERS_AT_ONCE and int(tonumber(live[#live])) or ''}
