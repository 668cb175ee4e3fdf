-- New runs.

-- The run, or the first one of the array, that has a key now; nil where `first` has it, or nobody.
function ONCE.holder(slot, first, now)
  local known = redis.pcall('HMGET', once_key(slot), 'id', 'until')
  if known.err or not known[1] or known[1] == first then return nil end
  if known[2] ~= 'end' then return (tonumber(known[2] or '') or 0) > now and known[1] or nil end
  local state = WAITING.end_of(known[1])
  return (state == 'Pending' or state == 'Running') and known[1] or nil
end

-- Additions of new runs to sorted sets, lists, the lists of groups and counters, gathered for one command a key; and the
-- queues of new runs that are on the list of queues.
local to_add = {entries = {}, items = {}, queues = {}, members = {}, counts = {}}
-- The key comes in two parts: to join them takes as long as the addition itself.
local function add(kind, name, score, id)
  local entries = to_add.entries[kind]
  if not entries then
    entries = {}
    to_add.entries[kind] = entries
  end
  local of_name = entries[name]
  if not of_name then
    entries[name] = {score, id}
    return
  end
  local count = #of_name
  of_name[count + 1] = score
  of_name[count + 2] = id
end

-- Writes the gathered additions. A script that creates runs calls this before its end, and before anything reads the
-- entries. One damaged index must not keep the runs from their queues.
local function add_all()
  for kind, by_name in pairs(to_add.entries) do
    for name, entries in pairs(by_name) do
      local key = kind .. name
      if type(redis.pcall('ZADD', key, unpack(entries))) == 'table' then
        heal(key, 'zset')
        redis.call('ZADD', key, unpack(entries))
      end
    end
  end
  for list, made in pairs(to_add.items) do
    if type(redis.pcall('LPUSH', list, unpack(made))) == 'table' then
      heal(list)
      redis.call('LPUSH', list, unpack(made))
    end
  end
  for group, ids in pairs(to_add.members) do redis.pcall('RPUSH', members_key(group), unpack(ids)) end
  for queue, runs in pairs(to_add.counts) do COUNTS.add(queue, 'submitted', int(runs)) end
  to_add = {entries = {}, items = {}, queues = {}, members = {}, counts = {}}
end

-- The number of queues that runs make by themselves at most; an admin makes any number.
local MOST_QUEUES = 10000
-- Puts the queue of a new run on the list of queues. Returns why it cannot be there, as words; nil where it can.
local function list_queue(queue)
  if to_add.queues[queue] then return nil end
  if redis.call('SADD', 'launch:queues', queue) == 1 then
    if redis.call('SCARD', 'launch:queues') > MOST_QUEUES
      and redis.call('EXISTS', 'launch:queue:' .. queue, 'launch:consumers:' .. queue) == 0 then
      redis.call('SREM', 'launch:queues', queue)
      return 'there are ' .. int(MOST_QUEUES) .. ' queues already, and queue ' .. queue .. ' is none of them; an admin makes '
        .. 'more: launch-worker queues create'
    end
    redis.call('PUBLISH', 'launch:queues', queue)
  end
  to_add.queues[queue] = true
end

-- Puts a new run where it waits for its time, or for other runs, some of which may have ended.
local function create_for_later(id, now, queue, due, expires_us, waits, states)
  local killed
  for other, wish in pairs(waits) do
    local state, kind = unpack(states[other])
    if WAITING.is_as_wished(wish, state) then
      waits[other] = nil
    elseif state ~= 'Pending' and state ~= 'Running' then
      killed = WAITING.words_for_end(other, state, kind, wish)
    end
  end
  if killed then
    WAITING.kill_pending(id, now, killed)
    WAITING.settle(now, 10)
    return
  end
  if due then put(id, 'not_before', int(due)) end
  if next(waits) == nil then return WAITING.set_free(id, now) end
  put(id, 'waits_for', cjson.encode(waits), 'reason', WAITING.words_for(waits))
  put_off(id)
  for run in pairs(waits) do redis.call('ZADD', 'launch:waiters:' .. run, int(now), id) end
end

-- (nothing) -> Pending, for a run that `is_new`. `fields` is a flat list of names and values, `user` the ACL user of a
-- person who submits it. Returns 1, or -2 and the reason where the run waits for a run that does not exist (or, with
-- the wish `unseen`, of which its user may not know), or its user may not submit it there, or has too many runs that
-- wait. The caller calls `add_all` after this.
-- The first line of the history is written only with a reason: else it says no more than `created_at`.
local function create(id, now, reason, queue, due, expires_us, fields, user, group)
  local record, at = {}, int(now)
  for n = 1, #fields, 2 do record[fields[n]] = fields[n + 1] end
  local waits, states
  group = group ~= '' and group or record.array
  local known = group and announced[group]
  if known and known.is_cancelled then
    return -2, 'group ' .. shown_group(group) .. ' was cancelled, and gets no more runs'
  end
  if known and known.is_halted then
    return -2, 'group ' .. shown_group(group) .. ' gets no more runs, for too many of its runs failed (--max-fails)'
  end
  if record.waits_for then
    waits, states = cjson.decode(record.waits_for), {}
    for other, wish in pairs(waits) do
      local state, kind = WAITING.end_of(other)
      states[other] = {state, kind}
      if not state or wish == 'unseen' then
        return -2, 'there is no run or group ' .. other .. ' to wait for; list the known runs with: launch-worker runs'
      end
    end
  end
  local count = #fields
  local function set(field, value)
    record[field] = value
    fields[count + 1] = field
    fields[count + 2] = value
    count = count + 2
  end
  if record.signature then
    local expires_at = tonumber(string.match(record.signature, '^%x+%.(%d+)%.') or '')
    if not expires_at or expires_at < now then
      return -2, 'the signature of this run has expired before it was submitted; submit it anew, and look whether the '
        .. 'clock of the machine that signs is right'
    end
  end
  if record.user then
    if group and is_group_of_others(group, record.user) then
      return -2, 'group ' .. shown_group(group) .. ' is there already, and not yours; choose another id'
    end
    local groups, of_queue = record.user_groups or '', settings_of('queue', queue)
    local priority, pool = tonumber(record.priority or DEFAULTS.priority), of_queue.pool
    local allowances = allowances_for(record.user, groups, record.project or '')
    local refusal = why_not_admitted('queue ' .. queue, of_queue.admits, groups, priority)
      or pool and why_not_admitted('pool ' .. pool, settings_of('pool', pool).admits, groups, priority)
      or no_room_to_wait(allowances, record.needs)
    if refusal then
      COUNTS.add(COUNTS.OTHER, 'refused', '1')
      return -2, refusal
    end
    if allowances ~= '' then set('allowances', allowances) end
  end
  local unlisted = list_queue(queue)
  if unlisted then return -2, unlisted end
  local of_project = record.project and record.project ~= '' and NOTICES.of_project(record.project)
  if of_project then set('notify', NOTICES.join(record.notify, of_project)) end
  set('state', 'Pending')
  set('created_at', at)
  if group and not record.array then set('array', group) end
  set('queue', queue)
  if expires_us then set('expires_us', int(expires_us)) end
  seen[id] = setmetatable(record, NEW)
  local is_ready, needs = not due and not waits, record.needs
  local park_group, group_line, why, is_alike
  if is_ready then
    -- The run is ready from the time of its creation on.
    set('lined_at', at)
    park_group, group_line, why = no_room(id)
    is_alike = not park_group and needs and redis.call('EXISTS', 'launch:parked:needs:' .. needs .. '/' .. queue) == 1
    if not park_group and not is_alike then set('seq', '1') end
  elseif reason ~= '' then
    set('reason', reason)
  end
  write_new(id, fields)
  to_add.counts[queue] = (to_add.counts[queue] or 0) + 1
  if record.allowances then count_waiting(id, 'SADD') end
  add('launch:runs', '', at, id)
  add('launch:runs:queue:', queue, at, id)
  add('launch:runs:state:Pending', '', at, id)
  if record.project ~= '' then add('launch:runs:project:', record.project, at, id) end
  if record.sweep and record.sweep ~= '' then add('launch:runs:sweep:', record.sweep, at, id) end
  if record.notify and record.sweep and record.sweep ~= '' then
    if not redis.call('HGET', sweep_key(record.sweep), 'notify') then
      redis.call('HSET', sweep_key(record.sweep), 'notify', record.notify)
    end
  end
  if group then
    local members = to_add.members[group]
    if members then members[#members + 1] = id else to_add.members[group] = {id} end
    if known and known.is_open then
      known.count = known.count + 1
      known.first = known.first or id
      local project = record.project or ''
      known.project = known.project or project
      known.is_mixed = known.is_mixed or known.project ~= project
      if record.notify then
        local joined = NOTICES.join(known.notify, record.notify)
        known.tells, known.notify = known.tells or joined ~= known.notify, joined
      end
    else
      pcall(join_group, group, record.project or '')
    end
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
    add('launch:expiring', '', by, id)
    redis.call('PUBLISH', 'launch:due', by)
  end
  if not is_ready then
    add_all()
    create_for_later(id, now, queue, due, expires_us, waits or {}, states)
    return 1
  end
  add('launch:line:', queue, int(rank_of(record.priority, at)), id)
  if park_group then
    park(id, park_group, group_line, why)
  elseif is_alike then
    -- Runs with the same needs are parked already.
    park_for_needs(id, queue, needs)
  else
    local list = list_of(queue, record.priority)
    add('launch:dispatched:', list, at, id)
    local items = to_add.items[list] or {}
    to_add.items[list] = items
    items[#items + 1] = item(id, '1', queue, record.priority, record.name, record.project, now)
  end
  return 1
end
