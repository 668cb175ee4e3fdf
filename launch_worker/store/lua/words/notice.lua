-- Notices: what runs and groups tell, in the outbox from the arrow on until a sender has told it (docs/reference/notifications.md).
--
-- A record's field `notify` says what its run asked for: CHANNEL:WORD+WORD, with blanks between (model/notify.py).
-- All words of this subject are in one table: a library may have two hundred names.

local NOTICES = {
  OUTBOX = 'launch:outbox',
  -- The bytes of the notices of one channel, and the number of channels that have notices, at most: what is more is
  -- dropped, and counted.
  MOST_BYTES = 8388608,
  MOST_CHANNELS = 64,
  -- The bytes of a text in a notice.
  MOST_WORDS = 600,
}
-- The ends that this call has made of runs that tell (run to the facts, and the channels that got them), and what an
-- admin wants to be told of projects, as this call has read it.
local telling = {ends = {}, projects = {}}

function NOTICES.key(channel, part)
  local key = NOTICES.OUTBOX .. ':' .. channel
  if part then return key .. ':' .. part end
  return key
end

-- Puts a notice into the outbox of a channel, once for each id. `facts`: a table of texts. Returns whether it is new.
function NOTICES.put(channel, id, facts, now)
  if #channel > 63 or not string.find(channel, '^[a-z0-9][a-z0-9._-]*$') then return false end
  local state, kept, text = NOTICES.key(channel, 'state'), NOTICES.key(channel, 'notices'), cjson.encode(facts)
  if redis.call('HGET', kept, id) then return false end
  local bytes = tonumber(redis.call('HGET', state, 'bytes') or '') or 0
  local is_first = bytes == 0 and redis.call('SISMEMBER', NOTICES.OUTBOX, channel) == 0
  if bytes + #text > NOTICES.MOST_BYTES or is_first and redis.call('SCARD', NOTICES.OUTBOX) >= NOTICES.MOST_CHANNELS then
    redis.call('HINCRBY', 'launch:counters', 'notices_dropped', 1)
    redis.call('HSET', 'launch:counters', 'notices_lost_at', int(now))
    if bytes > 0 then redis.call('HINCRBY', state, 'dropped', 1) end
    return false
  end
  redis.call('HSET', kept, id, text)
  redis.call('HINCRBY', state, 'bytes', #text)
  redis.call('ZADD', NOTICES.key(channel), int(now), id)
  redis.call('SADD', NOTICES.OUTBOX, channel)
  redis.call('PUBLISH', NOTICES.OUTBOX, channel)
  return true
end

-- Deletes notices of a channel. Returns how many were there.
function NOTICES.drop(channel, ids)
  local kept, state, gone = NOTICES.key(channel, 'notices'), NOTICES.key(channel, 'state'), 0
  for _, id in ipairs(ids) do
    local text = redis.call('HGET', kept, id)
    if text then
      redis.call('HDEL', kept, id)
      redis.call('HINCRBY', state, 'bytes', -#text)
      gone = gone + 1
    end
    redis.call('ZREM', NOTICES.key(channel), id)
    redis.call('HDEL', NOTICES.key(channel, 'tries'), id, 'mark:' .. id)
  end
  if redis.call('EXISTS', NOTICES.key(channel)) == 0 then
    redis.call('SREM', NOTICES.OUTBOX, channel)
    redis.call('HDEL', state, 'bytes')
  end
  return gone
end

-- The channels of which one of these words was asked: a list of names.
function NOTICES.channels_for(notify, ...)
  local channels = {}
  for channel, words in string.gmatch(notify, '([^%s:]+):([^%s:]+)') do
    words = '+' .. words .. '+'
    for _, word in ipairs({...}) do
      if string.find(words, '+' .. word .. '+', 1, true) then
        channels[#channels + 1] = channel
        break
      end
    end
  end
  return channels
end

-- Puts one notice for each of these channels. Its id is that of the webhook: a repeat has it too. An outbox that
-- cannot be written (a damaged key, an ACL user without the right) must not keep a run from its end.
function NOTICES.put_for_all(channels, id, facts, now)
  for _, channel in ipairs(channels) do
    if not pcall(NOTICES.put, channel, id .. '.' .. channel, facts, now) then
      redis.pcall('HINCRBY', 'launch:counters', 'notices_dropped', 1)
    end
  end
end

function NOTICES.shortened(text)
  text = text or ''
  if #text > NOTICES.MOST_WORDS then return string.sub(text, 1, NOTICES.MOST_WORDS) end
  return text
end

-- The facts of a run that a notice has: as they are at its arrow.
function NOTICES.facts_of_run(id, state, at, reason, more)
  local facts = {type = 'run', run = id, state = state, at = int(at), reason = NOTICES.shortened(reason)}
  local names = {'name', 'queue', 'project', 'user', 'attempt', 'worker', 'host', 'created_at', 'started_at'}
  local values = get(id, unpack(names))
  for at_name, name in ipairs(names) do
    if values[at_name] and values[at_name] ~= '' then facts[name] = values[at_name] end
  end
  for _, name in ipairs({'exit_code', 'signal', 'phase', 'message'}) do
    if more[name] and more[name] ~= '' then facts[name] = NOTICES.shortened(tostring(more[name])) end
  end
  if more.ended_at then facts.ended_at = int(more.ended_at) end
  return facts
end

-- Tells of an arrow of a run that asked for it, and that is in no group.
function NOTICES.tell_arrow(id, notify, from, to, now, reason, more)
  local attempt = get(id, 'attempt')[1] or '0'
  if to == 'Running' then
    if from ~= 'Pending' or more.restored then return end
    local channels = NOTICES.channels_for(notify, 'running')
    if #channels == 0 then return end
    local facts = NOTICES.facts_of_run(id, to, now, reason, more)
    NOTICES.put_for_all(channels, id .. '.' .. attempt .. '.Running', facts, now)
  elseif FINAL[to] then
    local words = {'end', string.lower(to)}
    if to == 'Failed' or to == 'Crashed' then words[3] = 'first-failure' end
    -- An end without a new attempt, as of a run that a person has retried and then cancelled, is another one.
    local without = from == 'Pending' and 'p' .. redis.call('LLEN', run_key(id) .. ':history') or ''
    local notice = id .. '.' .. attempt .. without .. '.' .. to
    local facts, channels = NOTICES.facts_of_run(id, to, now, reason, more), NOTICES.channels_for(notify, unpack(words))
    facts.ended_at = facts.ended_at or int(now)
    NOTICES.put_for_all(channels, notice, facts, now)
    telling.ends[id] = {facts = facts, notice = notice, channels = channels}
  elseif telling.ends[id] then
    -- The run is tried again: that was no real end.
    local ended = telling.ends[id]
    telling.ends[id] = nil
    for _, channel in ipairs(ended.channels) do pcall(NOTICES.drop, channel, {ended.notice .. '.' .. channel}) end
    ended.facts.state, ended.facts.ended_as, ended.facts.next = to, ended.facts.state, NOTICES.shortened(reason)
    NOTICES.put_for_all(NOTICES.channels_for(notify, 'retry'), id .. '.' .. attempt .. '.retry', ended.facts, now)
  end
end

-- Tells of the end of a group, of its first failed run, or that it was halted. `facts`: id, kind, name, queue, project, end, size, counts.
function NOTICES.tell_group(notify, type_, number, facts, now)
  local function count(name) return tonumber(facts[name] or '') or 0 end
  local words = {'end'}
  if type_ == 'group.failing' then
    words = {'first-failure'}
  elseif type_ == 'group.halted' then
    words = {'halted'}
  else
    if facts['end'] == 'Finished' then words[#words + 1] = 'finished' end
    if count('Failed') > 0 then words[#words + 1] = 'failed' end
    if count('Crashed') > 0 then words[#words + 1] = 'crashed' end
    if count('Killed') + count('Never') > 0 then words[#words + 1] = 'killed' end
  end
  local channels = NOTICES.channels_for(notify, unpack(words))
  facts.type, facts.at = type_, int(now)
  NOTICES.put_for_all(channels, facts.group .. '.' .. number .. '.' .. type_, facts, now)
end

-- Both texts of `notify`, without what of the second names a channel that the first names.
function NOTICES.join(notify, more)
  if not notify or notify == '' then return more end
  for channel, words in string.gmatch(more, '([^%s:]+):([^%s:]+)') do
    local is_known = string.find(' ' .. notify, ' ' .. channel .. ':', 1, true)
    if not is_known and #notify < 2000 then notify = notify .. ' ' .. channel .. ':' .. words end
  end
  return notify
end

-- What an admin wants to be told of the runs of a project; false for nothing.
function NOTICES.of_project(project)
  if telling.projects[project] == nil then
    local asked = redis.pcall('HGET', 'launch:notify:projects', project)
    telling.projects[project] = type(asked) == 'string' and asked or false
  end
  return telling.projects[project]
end
