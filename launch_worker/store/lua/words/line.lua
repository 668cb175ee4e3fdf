-- The line of a queue: its rank, and the items in the queue's lists.

-- A place in a queue's line: the four priorities apart by more than any time in microseconds (until 2041).
local LEVEL = 2251799813685248
local LATER = 9000000000000000
local function rank_of(priority, lined_at)
  return (LEVELS[priority] or 2) * LEVEL + (tonumber(lined_at) or 0)
end

local function queue_of(line) return string.match(line, '^[^/]+') end

-- The same of the one at the head of a list; nil for none.
local function oldest_in(list)
  local oldest = redis.call('LINDEX', list, -1)
  return oldest and dispatched_at(oldest)
end

local function push(command, list, made)
  if type(redis.pcall(command, list, made)) ~= 'table' then return end
  heal(list)
  redis.call(command, list, made)
end

-- Puts a Pending run's item, with the next dispatch number, into its queue. An older item is refused at the claim.
-- `to.owner`: into that worker's own list. `to.head`: before all others; `to.after`: next before that item.
-- `to.since`: the same, as dispatched at that time. `to.early`: it keeps its due time.
local function dispatch(id, now, to)
  to = to or {}
  local run = get(id, 'queue', 'priority', 'name', 'project', 'seq')
  if not is_queue_name(run[1]) then error('its queue has no valid name') end
  local priority = LEVELS[run[2]] and run[2] or '6'
  local seq = int((whole(run[5], 0, MOST_TOKEN) or 0) + 1)
  local list = to.owner and direct_of(to.owner) or list_of(run[1], run[2])
  if to.head then heal(list) end
  local at = to.since or now
  -- A list is in order of dispatch: publish_lost goes by that.
  if to.head then at = math.min(now, (oldest_in(list) or now + 1) - 1) end
  if to.after then at = math.min(now, (dispatched_at(to.after) or now) - 1) end
  local made = item(id, seq, to.owner and list or run[1], priority, run[3], run[4], at)
  if to.after then
    redis.call('LINSERT', list, 'AFTER', to.after, made)
  else
    push((to.since or to.head) and 'RPUSH' or 'LPUSH', list, made)
  end
  redis.call('ZADD', 'launch:dispatched:' .. list, int(at), id)
  if to.owner then put(id, 'seq', seq, 'list', list) else put(id, 'seq', seq) end
  if not to.early and get(id, 'due_at')[1] then
    drop(id, 'due_at')
    redis.call('ZREM', 'launch:due', id)
  end
end

-- Since when the run of an item is ready; nil where the item does not tell.
local function lined_at_of(item)
  local id = item and string.match(item, '"correlation_id": ?"(%w+)"')
  return id and tonumber(get(id, 'lined_at')[1] or '')
end

-- Dispatches a run that waited elsewhere where it would be in its list had it not: before those that came later.
-- (A list is in line order but for what came back before others were looked for; it needs to be no better than that.)
local function dispatch_in_order(id, now)
  local run = get(id, 'queue', 'priority', 'lined_at')
  local list, mine = list_of(run[1], run[2]), tonumber(run[3] or '') or now
  heal(list)
  -- From the newest (0) to the oldest: how many of them are later than this one.
  local low, high = 0, redis.call('LLEN', list)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local at = lined_at_of(redis.call('LINDEX', list, middle))
    if at and at > mine then low = middle + 1 else high = middle end
  end
  if low == 0 then return dispatch(id, now) end
  local later = redis.call('LINDEX', list, low - 1)
  if low == redis.call('LLEN', list) or low > 1000 then return dispatch(id, now, {head = true}) end
  dispatch(id, now, {after = later})
end

-- A Pending run is ready from now on: its place in its queue's line.
local function put_in_line(id, now)
  local run = get(id, 'queue', 'priority', 'lined_at')
  local lined_at = run[3] or int(now)
  if not run[3] then put(id, 'lined_at', lined_at) end
  redis.call('ZADD', 'launch:line:' .. run[1], int(rank_of(run[2], lined_at)), id)
  if redis.call('SADD', 'launch:queues', run[1]) == 1 then redis.call('PUBLISH', 'launch:queues', run[1]) end
end

-- It is not ready: it has no place.
local function put_off(id)
  local queue = get(id, 'queue')[1]
  drop(id, 'lined_at')
  redis.call('ZADD', 'launch:line:' .. queue, int(LATER), id)
  if redis.call('SADD', 'launch:queues', queue) == 1 then redis.call('PUBLISH', 'launch:queues', queue) end
end

-- Makes a Pending run wait for `due` (then `publish_due` lines it up).
local function schedule(id, due)
  put_off(id)
  -- A doubled older item must not start it before its time.
  put(id, 'seq', int((whole(get(id, 'seq')[1], 0, MOST_TOKEN) or 0) + 1), 'due_at', int(due))
  redis.call('ZADD', 'launch:due', int(due), id)
  redis.call('PUBLISH', 'launch:due', int(due))
end
