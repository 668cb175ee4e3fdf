-- What is deleted with a record, and the lists of ended runs.

-- Takes a run off the lists of ended runs: a run is in the list of those that an archive has confirmed only if it is
-- not in the other one.
local function unlist_ended(id)
  if redis.call('ZREM', 'launch:ended', id) == 0 then redis.pcall('ZREM', 'launch:archived', id) end
end

-- The attempts that may have output: all up to the record's number of attempts, or, where that number is large or
-- damaged, the attempts that the run's history names. Bounded: a client may write any number into a record.
local function attempts_of(id)
  local count, found, known = tonumber(get(id, 'attempt')[1]) or 0, {}, {}
  if count <= 1000 then
    for attempt = 1, count do found[attempt] = int(attempt) end
    return found
  end
  local lines = redis.pcall('LRANGE', run_key(id) .. ':history', -5000, -1)
  for _, line in ipairs(lines.err and {} or lines) do
    local attempt = string.match(line, '"attempt":(%d+)')
    if attempt and not known[attempt] then
      known[attempt] = true
      found[#found + 1] = attempt
    end
  end
  return found
end

-- Deletes a record, with all keys that belong to the run alone.
local function forget(id)
  local gone = {run_key(id), run_key(id) .. ':history', run_key(id) .. ':files', run_key(id) .. ':metrics', run_key(id) .. ':usage'}
  ONCE.forget(id)
  leave_group(id)
  -- Runs that wait for an array wait for the id of its first run.
  if redis.call('EXISTS', group_key(id)) == 0 then gone[#gone + 1] = 'launch:waiters:' .. id end
  for _, attempt in ipairs(attempts_of(id)) do gone[#gone + 1] = run_key(id) .. ':log:' .. attempt end
  redis.call('DEL', unpack(gone))
  seen[id], unwritten[id] = nil, nil
end
