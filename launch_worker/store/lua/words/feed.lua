-- The change feed: a stream that tells readers, as an archive, what happens in the system (docs/reference/archive.md).

local FEED = 'launch:changes'
-- The number of entries that are kept, about. Text, as all that goes into a command: Lua is slow to print a number.
local MOST_CHANGES = '100000'
-- The bytes of the longest value in an entry. A longer value is left out, and the entry's field `big` is 1.
local MOST_VALUE = 4096

-- What the latest entry that was to be appended has shown of the stream; it outlives a call.
local LATEST = {was_there = false}
-- Whether a reader wants changes, once this call has asked. The stream exists only while one does (`follow`). Where the
-- latest entry found it, the next one finds out.
local followed = nil
local function is_followed()
  if followed == nil then followed = LATEST.was_there or redis.pcall('EXISTS', FEED) == 1 end
  return followed
end

-- Appends an entry: a list of names and texts, `kind` first; '' for what is not known. An entry that cannot be written
-- (the caller's ACL user has no right to it, or the key is damaged) is lost: it must not keep a run from its end.
local function add_change(entry)
  if not is_followed() then return end
  local is_big = false
  for at = 2, #entry, 2 do
    if #entry[at] > MOST_VALUE then
      entry[at] = ''
      is_big = true
    end
  end
  if is_big then
    entry[#entry + 1] = 'big'
    entry[#entry + 1] = '1'
  end
  followed = type(redis.pcall('XADD', FEED, 'NOMKSTREAM', 'MAXLEN', '~', MOST_CHANGES, '*', unpack(entry))) == 'string'
  LATEST.was_there = followed
end

-- Tells what somebody did, or what became of a sweep, schedule, queue, pool or worker. `detail`: further facts, made
-- into JSON; nil for none. `project`: that of a thing whose record may be gone before the entry is read.
local function add_act(kind, id, what, actor, now, detail, name, project)
  if not is_followed() then return end
  add_change({'kind', kind, 'id', id, 'name', name or '', 'what', what, 'at', int(now), 'actor', actor,
    'detail', detail and cjson.encode(detail) or '', 'project', project or ''})
end

-- What a worker does whose description names this state.
local WORKER_WORDS = {running = 'resumed', draining = 'draining', quarantined = 'quarantined', stuck = 'stuck'}
-- Tells of a worker that is new, or in another state than at its last heartbeat. `before`, `after`: its descriptions.
local function tell_worker(owner, worker, has_appeared, before, after, now)
  local was, is = decoded(type(before) == 'string' and before), decoded(after)
  if type(is) ~= 'table' then return end
  if has_appeared then
    return add_act('worker', owner, 'appeared', '', now,
      {host = is.host, pid = is.pid, queues = is.queues, slots = is.slots, state = is.state}, worker)
  end
  if type(was) == 'table' and was.state ~= is.state and WORKER_WORDS[is.state] then
    local problem = type(is.problem) == 'string' and is.problem ~= '' and {problem = is.problem}
    add_act('worker', owner, WORKER_WORDS[is.state], '', now, problem, worker)
  end
end
