-- Sets a schedule (a recurring submission).  ARGV: name, the schedule (JSON), its next time (us), actor, the one that it
-- takes the place of ('' for none; left out for whichever is there); '' for schedule and time deletes it.
-- Returns 1, or 0 where there was none to delete, or another one than was said.
local name, text, next_us, actor, was = unpack(ARGV)
local now = now_us()
local key = 'launch:schedule:' .. name
-- The project of a schedule's runs, for the feed.
local function project_of(schedule)
  local known = is_followed() and decoded(schedule)
  local given = type(known) == 'table' and known.given
  return type(given) == 'table' and type(given.project) == 'string' and given.project or ''
end
if was then
  local kept = redis.call('ZSCORE', 'launch:schedules', name) and (redis.pcall('GET', key) or 'nothing') or ''
  -- A repeated call finds what it has made.
  if kept ~= was then return text ~= '' and kept == text and 1 or 0 end
end
if text == '' then
  local project = project_of(redis.pcall('GET', key))
  redis.call('DEL', key, key .. ':run')
  local was_there = redis.call('ZREM', 'launch:schedules', name)
  if was_there == 1 then add_act('schedule', name, 'deleted', actor, now, nil, nil, project) end
  return was_there
end
redis.call('SET', key, text)
local is_added = redis.call('ZADD', 'launch:schedules', next_us, name) == 1
redis.call('PUBLISH', 'launch:due', next_us)
add_act('schedule', name, is_added and 'created' or 'changed', actor, now, {next_at = next_us}, nil, project_of(text))
return 1
