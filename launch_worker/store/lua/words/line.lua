-- The line of a queue: its rank, and the items in the queue's lists.

-- The distance between two priorities in a queue's line: more than any time in microseconds (until 2041).
local LEVEL = 2251799813685248
local LATER = 9000000000000000
local function rank_of(priority, lined_at)
  return (LEVELS[priority] or 2) * LEVEL + (tonumber(lined_at) or 0)
end

local function queue_of(line) return string.match(line, '^[^/]+') end

-- The time at which the item at the head of a list was dispatched; nil for an empty list.
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
-- `to.owner`: into that worker's own list. `to.head`: before all others. `to.after`: directly before that item.
-- `to.since`: before all others, with that time of dispatch. `to.early`: the run keeps its due time.
local function dispatch(id, now, to)
  to = to or {}
  local run = get(id, 'queue', 'priority', 'name', 'project', 'seq')
  if not is_queue_name(run[1]) then error('its queue has no valid name') end
  local priority = LEVELS[run[2]] and run[2] or '6'
  local seq = int((whole(run[5], 0, MOST_TOKEN) or 0) + 1)
  local list = to.owner and direct_of(to.owner) or list_of(run[1], run[2])
  if to.head then heal(list) end
  local at = to.since or now
  -- A list is in order of dispatch: publish_lost relies on that.
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

-- The time since which the run of an item is ready; nil where the item does not name a run.
local function lined_at_of(item)
  local id = item and string.match(item, '"correlation_id": ?"(%w+)"')
  return id and tonumber(get(id, 'lined_at')[1] or '')
end

-- Dispatches a run that was parked, at the place in its list that it would have had: before later runs.
-- (The list is nearly in order of readiness: a run that came back may be out of order. An approximate place is enough.)
local function dispatch_in_order(id, now)
  local run = get(id, 'queue', 'priority', 'lined_at')
  local list, mine = list_of(run[1], run[2]), tonumber(run[3] or '') or now
  heal(list)
  -- Binary search from the newest item (0) to the oldest: the number of items that are later than this run.
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

-- Gives a Pending run, which is ready from now on, its place in its queue's line.
local function put_in_line(id, now)
  local run = get(id, 'queue', 'priority', 'lined_at')
  local lined_at = run[3] or int(now)
  if not run[3] then put(id, 'lined_at', lined_at) end
  redis.call('ZADD', 'launch:line:' .. run[1], int(rank_of(run[2], lined_at)), id)
  if redis.call('SADD', 'launch:queues', run[1]) == 1 then redis.call('PUBLISH', 'launch:queues', run[1]) end
end

-- Takes from a run, which is not ready, its place in its queue's line.
local function put_off(id)
  local queue = get(id, 'queue')[1]
  drop(id, 'lined_at')
  redis.call('ZADD', 'launch:line:' .. queue, int(LATER), id)
  if redis.call('SADD', 'launch:queues', queue) == 1 then redis.call('PUBLISH', 'launch:queues', queue) end
end

-- Makes a Pending run wait for `due` (then `publish_due` lines it up).
local function schedule(id, due)
  put_off(id)
  -- An older item of the run must not start it before its time.
  put(id, 'seq', int((whole(get(id, 'seq')[1], 0, MOST_TOKEN) or 0) + 1), 'due_at', int(due))
  redis.call('ZADD', 'launch:due', int(due), id)
  redis.call('PUBLISH', 'launch:due', int(due))
end
