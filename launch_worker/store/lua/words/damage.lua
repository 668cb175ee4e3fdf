-- Damaged records and keys: how they are found, and where they are kept for reading.

-- The largest token. Lua counts exactly up to 2^53, and the microseconds of any time to come are fewer.
local MOST_TOKEN = 9007199254740991
local MOST_ATTEMPTS = 1000000

-- Whether a record is older than the attempt that holds `token`: Redis has lost its newest writes (it was restored from
-- a snapshot). The attempt is the truth then. It is also the truth where the record's token is no number.
local function is_rolled_back(record_token, token)
  local kept = whole(record_token, 0, MOST_TOKEN)
  return not kept or kept < tonumber(token)
end

local function is_queue_name(queue) return queue and #queue <= 100 and string.find(queue, '^%w[%w_.-]*$') ~= nil end

-- The damage for which no worker can execute a record's run; nil for a sound record. Fields that are only shown, or are
-- harmless with any value, are not checked. Fields that only the worker reads are checked by the worker
-- (`Record.check`).
local function damage_of(id)
  local run = record_of(id, 'id', 'queue', 'attempt', 'first_attempt', 'token', 'seq', 'version', 'needs', 'name')
  if #id ~= 15 or string.find(id, '[^0-9a-hjkmnp-tv-z]') then return 'its id is not a run id' end
  if run.id and run.id ~= id then return 'its id is another one than that of its key' end
  if not is_queue_name(run.queue) then return 'its queue has no valid name' end
  if run.attempt ~= '0' and not whole(run.attempt, 0, MOST_ATTEMPTS - 1) then
    return 'its attempt is not a whole number below ' .. int(MOST_ATTEMPTS)
  end
  if run.first_attempt ~= '1' and not whole(run.first_attempt, 0, MOST_ATTEMPTS) then return 'its first_attempt is not a whole number' end
  if run.token ~= '0' and not whole(run.token, 0, MOST_TOKEN) then return 'its token is not a whole number below 2^53' end
  if run.seq ~= '1' and not whole(run.seq, 0, MOST_TOKEN) then return 'its seq is not a whole number' end
  if run.version and not whole(run.version, 1, 1000) then return 'its version is not a whole number from 1 to 1000' end
  if run.needs and run.needs ~= '' and not string.find(run.needs, '^%d+:%d+:%d+$') then
    return 'its needs are not GPUS:MILLICORES:BYTES'
  end
  if not run.name then return 'it has no name' end
end

-- Keeps a malformed item or a damaged key for reading: `launch-worker doctor` shows it.
local function keep_aside(queue, reason, item)
  redis.call('LPUSH', 'launch:refused', cjson.encode({at = int(now_us()), queue = queue, reason = reason, item = item}))
  redis.call('LTRIM', 'launch:refused', 0, 999)
end

-- Notes that a script met an error with a Pending run and goes on with other runs. If the run's record is damaged,
-- `publish_due` ends the run soon. Else something other than the record is wrong, and the problem is kept for reading.
local function doubt(id, where, problem)
  if damage_of(id) then
    redis.call('ZADD', 'launch:expiring', 0, id)
  else
    keep_aside(where, 'run ' .. id .. ' could not go on: ' .. tostring(problem))
  end
end

-- Sets a key of the wrong type aside for reading: as a queue's list it would refuse every item and every consumer.
-- `wanted`: the right type, a list by default.
local function heal(key, wanted)
  local kind = redis.call('TYPE', key).ok
  if kind ~= (wanted or 'list') and kind ~= 'none' then
    local aside = 'launch:damaged:' .. key .. ':' .. int(now_us())
    redis.call('RENAME', key, aside)
    redis.call('EXPIRE', aside, 30 * 86400)
    keep_aside(key, (wanted and 'an index' or 'the queue\'s key') .. ' held a ' .. kind .. '; moved to ' .. aside)
  end
end
