-- Damaged records and keys: how they are found, and where they are kept for reading.

-- Below 2^53: what Lua counts exactly, and more than the microseconds of any time that comes.
local MOST_TOKEN = 9007199254740991
local MOST_ATTEMPTS = 1000000

-- The arrows that a Redis which lost its newest writes (restored from a snapshot) makes necessary: the attempt that
-- holds a newer token than the record is the truth. So is one whose record has no token that can be one.
local function is_rolled_back(record_token, token)
  local kept = whole(record_token, 0, MOST_TOKEN)
  return not kept or kept < tonumber(token)
end

local function is_queue_name(queue) return queue and #queue <= 100 and string.find(queue, '^%w[%w_.-]*$') ~= nil end

-- What makes a record one with which nobody can execute its run; nil for a sound one. What is only shown, or has a
-- harmless meaning whatever it says, is not looked at; what the worker alone reads, the worker checks (`Record.check`).
local function damage_of(id)
  local run = get(id, 'id', 'queue', 'attempt', 'first_attempt', 'token', 'seq', 'version', 'needs', 'name')
  if #id ~= 15 or string.find(id, '[^0-9a-hjkmnp-tv-z]') then return 'its id is not a run id' end
  if run[1] and run[1] ~= id then return 'its id is another one than that of its key' end
  if not is_queue_name(run[2]) then return 'its queue has no valid name' end
  if not whole(run[3], 0, MOST_ATTEMPTS - 1) then
    return 'its attempt is not a whole number below ' .. int(MOST_ATTEMPTS)
  end
  if not whole(run[4], 0, MOST_ATTEMPTS) then return 'its first_attempt is not a whole number' end
  if not whole(run[5], 0, MOST_TOKEN) then return 'its token is not a whole number below 2^53' end
  if not whole(run[6], 0, MOST_TOKEN) then return 'its seq is not a whole number' end
  if run[7] and not whole(run[7], 1, 1000) then return 'its version is not a whole number from 1 to 1000' end
  if run[8] and run[8] ~= '' and not string.find(run[8], '^%d+:%d+:%d+$') then
    return 'its needs are not GPUS:MILLICORES:BYTES'
  end
  if not run[9] then return 'it has no name' end
end

-- For reading by `launch-worker doctor`.
local function keep_aside(queue, reason, item)
  redis.call('LPUSH', 'launch:refused', cjson.encode({at = int(now_us()), queue = queue, reason = reason, item = item}))
  redis.call('LTRIM', 'launch:refused', 0, 999)
end

-- A script met an error with a Pending run, and goes on with others: if the run's record is damaged, `publish_due` ends
-- it soon; else something beside the record is wrong, and that is kept for reading.
local function doubt(id, where, problem)
  if damage_of(id) then
    redis.call('ZADD', 'launch:expiring', 0, id)
  else
    keep_aside(where, 'run ' .. id .. ' could not go on: ' .. tostring(problem))
  end
end

-- A list of the wrong type would refuse every item and every consumer: it is set aside for reading. (`wanted`: or what
-- should be another kind of key.)
local function heal(key, wanted)
  local kind = redis.call('TYPE', key).ok
  if kind ~= (wanted or 'list') and kind ~= 'none' then
    local aside = 'launch:damaged:' .. key .. ':' .. int(now_us())
    redis.call('RENAME', key, aside)
    redis.call('EXPIRE', aside, 30 * 86400)
    keep_aside(key, (wanted and 'an index' or 'the queue\'s key') .. ' held a ' .. kind .. '; moved to ' .. aside)
  end
end
