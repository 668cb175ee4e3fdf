-- Keys that a run, or all runs of an array together, have for a time (--unique KEY:for 1h, KEY:until-end).

local ONCE = {}

-- Gives a key to a run or an array that was just made, unless it has it already. `hold`: microseconds, or 'end'.
function ONCE.take(slot, first, hold, now)
  local key = once_key(slot)
  if redis.pcall('HGET', key, 'id') == first then return end
  redis.call('DEL', key)
  local us = tonumber(hold)
  redis.call('HSET', key, 'id', first, 'until', us and int(now + us) or 'end')
  if us then redis.call('PEXPIRE', key, int(math.ceil(us / 1000))) end
end

-- Forgets the key of a run that is deleted, where the key has no time of its own.
function ONCE.forget(id)
  local slot = get(id, 'once')[1]
  if not slot then return end
  local known = redis.pcall('HMGET', once_key(slot), 'id', 'until')
  if not known.err and known[1] == id and known[2] == 'end' then redis.call('DEL', once_key(slot)) end
end
