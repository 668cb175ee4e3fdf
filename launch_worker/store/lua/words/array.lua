-- Arrays: how many runs of one are in each state.

-- What a run counts as: its state, or Never for one that ended without having run.
local function kind_of(state, attempt)
  if (state == 'Killed' or state == 'Failed') and (tonumber(attempt) or 0) == 0 then return 'Never' end
  return state
end

-- A run of an array goes from one state to another ('' for one that comes, or is gone).
local function count_in_array(id, from, to)
  local array, attempt = unpack(get(id, 'array', 'attempt'))
  if not array or array == '' then return end
  if from ~= '' then redis.pcall('HINCRBY', array_key(array), kind_of(from, attempt), -1) end
  if to ~= '' then redis.pcall('HINCRBY', array_key(array), kind_of(to, attempt), 1) end
end

-- How what others wait for has ended, or Pending or Running where it has not: of a run its state or Never; of an array
-- Finished when all its runs are, Failed when one of them ran and is not, else Never. nil for what is not there.
local function end_of(id)
  local counts = redis.pcall('HMGET', array_key(id), 'size', 'Pending', 'Running', 'Finished', 'Never')
  local size = not counts.err and tonumber(counts[1] or '') or 0
  if size > 0 then
    local function count(at) return tonumber(counts[at] or '') or 0 end
    if count(2) + count(3) > 0 then return 'Running', true end
    if count(4) >= size then return 'Finished', true end
    return count(4) + count(5) >= size and 'Never' or 'Failed', true
  end
  local run = get(id, 'state', 'attempt')
  return run[1] and kind_of(run[1], run[2]) or nil, false
end
