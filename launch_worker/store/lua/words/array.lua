-- Arrays: how many runs of one are in each state.

-- The kind that a run counts as: its state, or Never for a run that ended without an attempt.
local function kind_of(state, attempt)
  if (state == 'Killed' or state == 'Failed') and (tonumber(attempt) or 0) == 0 then return 'Never' end
  return state
end

-- Counts that a run of an array goes from one state to another: '' is the state before its creation, and after its
-- deletion.
local function count_in_array(id, from, to)
  local array, attempt = unpack(get(id, 'array', 'attempt'))
  if not array or array == '' then return end
  if from ~= '' then redis.pcall('HINCRBY', array_key(array), kind_of(from, attempt), -1) end
  if to ~= '' then redis.pcall('HINCRBY', array_key(array), kind_of(to, attempt), 1) end
end

-- The end of a run or an array for which other runs wait, and whether it is an array. A run: its state, or Never. An
-- array: Running while a run of it has not ended, Finished when all its runs are Finished, Failed when a run of it ran
-- and is not Finished, else Never. nil where there is neither a run nor an array.
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
