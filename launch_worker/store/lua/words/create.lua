-- New runs.

-- Additions of new runs to sorted sets, lists, the set of queues and arrays, gathered for one command a key.
local to_add = {entries = {}, items = {}, queues = {}, arrays = {}}
local function add(key, score, id)
  local entries = to_add.entries[key]
  if not entries then
    entries = {}
    to_add.entries[key] = entries
  end
  entries[#entries + 1] = score
  entries[#entries + 1] = id
end

-- Writes the gathered additions. A script that creates runs calls this before its end, and before anything reads the
-- entries. One damaged index must not keep the runs from their queues.
local function add_all()
  for key, entries in pairs(to_add.entries) do
    if type(redis.pcall('ZADD', key, unpack(entries))) == 'table' then
      heal(key, 'zset')
      redis.call('ZADD', key, unpack(entries))
    end
  end
  for list, made in pairs(to_add.items) do
    if type(redis.pcall('LPUSH', list, unpack(made))) == 'table' then
      heal(list)
      redis.call('LPUSH', list, unpack(made))
    end
  end
  for queue in pairs(to_add.queues) do
    if redis.call('SADD', 'launch:queues', queue) == 1 then redis.call('PUBLISH', 'launch:queues', queue) end
  end
  for array, count in pairs(to_add.arrays) do
    redis.pcall('HINCRBY', array_key(array), 'size', count)
    redis.pcall('HINCRBY', array_key(array), 'Pending', count)
  end
  to_add = {entries = {}, items = {}, queues = {}, arrays = {}}
end

-- Puts a new run where it waits for its time, or for other runs, some of which may have ended.
local function create_for_later(id, now, queue, due, expires_us, waits, states)
  local killed
  for other, wish in pairs(waits) do
    local state, is_array = unpack(states[other])
    if is_as_wished(wish, state) then
      waits[other] = nil
    elseif state ~= 'Pending' and state ~= 'Running' then
      killed = words_for_end(other, state, is_array, wish)
    end
  end
  if killed then
    kill_pending(id, now, killed)
    settle(now, 10)
    return
  end
  if due then put(id, 'not_before', int(due)) end
  if next(waits) == nil then return set_free(id, now) end
  put(id, 'waits_for', cjson.encode(waits), 'reason', words_for_wait(waits))
  put_off(id)
  for run in pairs(waits) do redis.call('ZADD', 'launch:waiters:' .. run, int(now), id) end
end

-- (nothing) -> Pending, for a run that `is_new`. `fields` is a flat list of names and values, `user` the ACL user of a
-- person who submits it. Returns 1, or -2 and the reason where the run waits for a run that does not exist, or its
-- submitter has too many runs that wait. The caller
-- calls `add_all` after this.
-- The first line of the history is written only with a reason: else it says no more than `created_at`.
local function create(id, now, reason, queue, due, expires_us, fields, user)
  local record, at = {}, int(now)
  for n = 1, #fields, 2 do record[fields[n]] = fields[n + 1] end
  local waits, states
  if record.waits_for then
    waits, states = cjson.decode(record.waits_for), {}
    for other in pairs(waits) do
      local state, is_array = end_of(other)
      states[other] = {state, is_array}
      if not state then
        return -2, 'there is no run ' .. other .. ' to wait for; list the known ones with: launch-worker runs'
      end
    end
  end
  local full = no_room_to_wait(record.allowances)
  if full then return -2, full end
  local function set(field, value)
    record[field] = value
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  set('state', 'Pending')
  set('created_at', at)
  set('queue', queue)
  if expires_us then set('expires_us', int(expires_us)) end
  seen[id] = setmetatable(record, NEW)
  local is_ready, needs = not due and not waits, record.needs
  local group, group_line, why, is_alike
  if is_ready then
    -- The run is ready from the time of its creation on.
    set('lined_at', at)
    group, group_line, why = no_room(id)
    is_alike = not group and needs and redis.call('EXISTS', 'launch:parked:needs:' .. needs .. '/' .. queue) == 1
    if not group and not is_alike then set('seq', '1') end
  elseif reason ~= '' then
    set('reason', reason)
  end
  write_new(id, fields)
  count_waiting(id, 'SADD')
  add('launch:runs', at, id)
  add('launch:runs:queue:' .. queue, at, id)
  add('launch:runs:state:Pending', at, id)
  if record.project ~= '' then add('launch:runs:project:' .. record.project, at, id) end
  if record.sweep and record.sweep ~= '' then add('launch:runs:sweep:' .. record.sweep, at, id) end
  if record.array and record.array ~= '' then
    add('launch:runs:array:' .. record.array, at, id)
    to_add.arrays[record.array] = (to_add.arrays[record.array] or 0) + 1
  end
  local lines = reason ~= '' and note(id, 'Pending', at, 0, '', reason, NO_MORE) or 0
  if is_followed() then
    local spec = record.spec or ''
    -- The author of a spec that is too long for the feed.
    local author = #spec > MOST_VALUE and string.match(spec, '"author":"([^"\\]*)"')
    local entry = {'new', id, 'n', lines == 0 and '0' or int(lines), 'at', at, 'name', record.name or '', 'spec', spec,
      'reason', reason, 'as', user or '', 'author', author or ''}
    if record.user then
      entry[#entry + 1] = 'user'
      entry[#entry + 1] = record.user
    end
    add_change(entry)
  end
  if expires_us then
    local by = int(math.max(now, due or now) + expires_us)
    add('launch:expiring', by, id)
    redis.call('PUBLISH', 'launch:due', by)
  end
  if not is_ready then
    add_all()
    create_for_later(id, now, queue, due, expires_us, waits or {}, states)
    return 1
  end
  to_add.queues[queue] = true
  add('launch:line:' .. queue, int(rank_of(record.priority, at)), id)
  if group then
    park(id, group, group_line, why)
  elseif is_alike then
    -- Runs with the same needs are parked already.
    park_for_needs(id, queue, needs)
  else
    local list = list_of(queue, record.priority)
    add('launch:dispatched:' .. list, at, id)
    local items = to_add.items[list] or {}
    to_add.items[list] = items
    items[#items + 1] = item(id, '1', queue, record.priority, record.name, record.project, now)
  end
  return 1
end
