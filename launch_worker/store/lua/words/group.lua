-- Groups: the runs of an array, a bulk submission or a sweep, and how many of them are in each state.
--
-- The record of an array or a bulk submission counts all runs that its submitter has announced as Pending, from the
-- first one on: so it is not over before all of them are. Its submitter may die before it has made them all: then the
-- group is sealed (`seal`), and the missing ones count as runs that never ran. Runs that are deleted stay counted.

-- The time in microseconds after which a submitter that sends no more runs of a group counts as dead.
local SUBMITTER_US = 60000000
local OPEN_GROUPS = 'launch:array:open'

-- The kind that a run counts as: its state, or Never for a run that ended without an attempt.
local function kind_of(state, attempt)
  if (state == 'Killed' or state == 'Failed') and (tonumber(attempt) or 0) == 0 then return 'Never' end
  return state
end

-- The group of a run, the key of that group's record, and whether it is a sweep; nil for a run of no group.
local function group_of(id)
  local record = record_of(id, 'array', 'sweep', 'attempt', 'notify')
  local array, sweep = record.array, record.sweep
  if array and array ~= '' then return array, group_key(array), false end
  if sweep and sweep ~= '' then return sweep, sweep_key(sweep), true end
end

-- The id of a group as people know it: an array's has a letter before that of its first run.
local function shown_group(group) return #group == 15 and 'a' .. group or group end

-- Groups of which this call has taken the last run that was in its state, so that they may be over.
local emptied = {}
-- Counts that a run of a group goes from one state to another.
local function count_in_group(id, from, to)
  local group, key, is_sweep = group_of(id)
  -- A run may outlive its sweep, whose record must not come back.
  if not group or is_sweep and type(redis.pcall('HGET', key, 'state')) ~= 'string' then return end
  local attempt = field_of(id, 'attempt')
  local left = redis.pcall('HINCRBY', key, kind_of(from, attempt), -1)
  redis.pcall('HINCRBY', key, kind_of(to, attempt), 1)
  if FINAL[to] then
    -- Another end too, as of a run that was called Crashed and is Finished after all, is news of an ended group.
    if FINAL[from] or type(left) ~= 'number' or left <= 0 then emptied[group] = true end
  elseif FINAL[from] and not is_sweep then
    redis.pcall('HDEL', key, 'ended_at')
  end
end

-- The groups that the submitter of this call has announced: their sizes, and how many of their runs this call has made.
local announced = {}
-- Notes an announced group: `size` is the number of its runs.
local function announce(group, size)
  local key = group_key(group)
  local kept, made, sealed, project, notify, user =
    unpack(redis.call('HMGET', key, 'size', 'made', 'sealed', 'project', 'notify', 'user'))
  if not kept then redis.call('HSET', key, 'size', int(size), 'Pending', int(size)) end
  announced[group] = {size = tonumber(kept or '') or size, made = tonumber(made or '') or 0, count = 0, is_new = not kept,
    project = project or nil, notify = notify or nil, user = user or '',
    -- The record of an array of an earlier release does not say how many are made.
    is_open = not kept or (made and not sealed), is_cancelled = sealed == 'cancelled', is_halted = sealed == 'halted'}
end

-- Whether a person's run would come into a group of somebody else: it would keep that one from its end, and its failures
-- would halt it. Whoever chooses an id may name a group that is there.
local function is_group_of_others(group, user)
  local known = announced[group]
  if known then return not known.is_new and known.user ~= user end
  local size, owner = unpack(redis.call('HMGET', group_key(group), 'size', 'user'))
  return size and owner ~= user
end

-- Counts a run that is new in an array or a bulk submission and was not announced in this call, as Pending. A run of
-- which no submitter spoke makes its group larger.
local function join_group(group, project)
  local key = group_key(group)
  local made, missing, sealed, project_of_group = unpack(redis.call('HMGET', key, 'made', 'missing', 'sealed', 'project'))
  if project_of_group and project_of_group ~= project then redis.call('HSET', key, 'is_mixed', '1') end
  if made then redis.call('HINCRBY', key, 'made', 1) end
  if made and not sealed then return end
  if (tonumber(missing or '') or 0) > 0 then
    redis.call('HINCRBY', key, 'missing', -1)
    redis.call('HINCRBY', key, 'Never', -1)
  else
    redis.call('HINCRBY', key, 'size', 1)
  end
  redis.call('HINCRBY', key, 'Pending', 1)
  redis.call('HDEL', key, 'ended_at')
end

-- Writes how many runs of each announced group are made. The caller has made the runs.
local function note_announced(now)
  for group, known in pairs(announced) do
    local key, made = group_key(group), known.made + known.count
    if known.is_open and known.count == 0 then
      if known.is_new then redis.call('DEL', key) end
    elseif known.is_open then
      if known.is_new then
        local name, queue, project, spec, user = unpack(get(known.first, 'name', 'queue', 'project', 'spec', 'user'))
        local author = string.match(spec or '', '"author":"([^"\\]*)"')
        redis.call('HSET', key, 'created_at', int(now), 'name', name or '', 'queue', queue or '',
          'project', project or '', 'author', author or '', 'user', user or '')
        add_act('group', shown_group(group), 'created', '', now,
          {size = known.size, name = name or '', queue = queue or '', project = project or ''})
      end
      if known.tells then redis.call('HSET', key, 'notify', known.notify) end
      if known.is_mixed then redis.call('HSET', key, 'is_mixed', '1') end
      if made > known.size then
        redis.call('HINCRBY', key, 'size', int(made - known.size))
        redis.call('HINCRBY', key, 'Pending', int(made - known.size))
      end
      if made >= known.size then
        redis.call('HSET', key, 'made', int(made), 'sealed', '1')
        if not known.is_new then redis.call('ZREM', OPEN_GROUPS, group) end
      else
        redis.call('HSET', key, 'made', int(made))
        redis.call('ZADD', OPEN_GROUPS, int(now + SUBMITTER_US), group)
      end
    end
  end
  announced = {}
end

-- The ids of the runs of an array or a bulk submission, from the place `first` to `last`; places below 0 count from the
-- end. Some of the runs may be deleted.
local function members_of(group, first, last)
  local key = members_key(group)
  if redis.call('EXISTS', key) == 1 then return redis.call('LRANGE', key, int(first), int(last)) end
  -- An array that a submitter of an earlier release made.
  return redis.call('ZRANGE', 'launch:runs:array:' .. group, int(first), int(last))
end

-- Deletes the record of an array or a bulk submission once all its runs are deleted, and no run waits for it.
local function drop_group(group)
  local key = group_key(group)
  local counts = redis.pcall('HMGET', key, 'size', 'gone', 'missing', 'made', 'sealed')
  if counts.err then return redis.call('DEL', key, members_key(group)) end
  local size, gone, missing = tonumber(counts[1] or '') or 0, tonumber(counts[2] or '') or 0, tonumber(counts[3] or '') or 0
  if gone + missing < size or (counts[4] and not counts[5]) then return end
  if redis.call('EXISTS', 'launch:waiters:' .. group) == 1 then return end
  redis.call('DEL', key, members_key(group))
  -- Workers of an earlier release note places there of arrays without a limit.
  redis.pcall('DEL', 'launch:places:array:' .. group)
end

-- Notes that a run of an array or a bulk submission is deleted. It stays counted as it ended.
local function leave_group(id)
  local group = get(id, 'array')[1]
  if not group or group == '' then return end
  -- The list of an array that a submitter of an earlier release made.
  if redis.call('EXISTS', members_key(group)) == 0 then redis.call('ZREM', 'launch:runs:array:' .. group, id) end
  redis.pcall('HINCRBY', group_key(group), 'gone', 1)
  drop_group(group)
end
