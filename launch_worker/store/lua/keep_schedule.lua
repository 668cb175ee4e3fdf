-- Sets a schedule (a recurring submission).  ARGV: name, the schedule (JSON), its next time (us), actor, '1' for one
-- that must be there, '0' for one that must not; '' for schedule and time deletes it.
-- Returns 1, or 0 where there was none to delete or to change, or one is in the way.
local name, text, next_us, actor, must_be_there = unpack(ARGV)
local now = now_us()
-- The project of a schedule's runs, for the feed.
local function project_of(schedule)
  local known = is_followed() and decoded(schedule)
  local given = type(known) == 'table' and known.given
  return type(given) == 'table' and type(given.project) == 'string' and given.project or ''
end
if text == '' then
  local project = project_of(redis.pcall('GET', 'launch:schedule:' .. name))
  redis.call('DEL', 'launch:schedule:' .. name, 'launch:schedule:' .. name .. ':run')
  local was_there = redis.call('ZREM', 'launch:schedules', name)
  if was_there == 1 then add_act('schedule', name, 'deleted', actor, now, nil, nil, project) end
  return was_there
end
if must_be_there then
  local is_there = redis.call('ZSCORE', 'launch:schedules', name) and '1' or '0'
  -- A repeated call finds what it has made.
  local is_made = must_be_there == '0' and is_there == '1' and redis.pcall('GET', 'launch:schedule:' .. name) == text
  if is_there ~= must_be_there then return is_made and 1 or 0 end
end
redis.call('SET', 'launch:schedule:' .. name, text)
local is_added = redis.call('ZADD', 'launch:schedules', next_us, name) == 1
redis.call('PUBLISH', 'launch:due', next_us)
add_act('schedule', name, is_added and 'created' or 'changed', actor, now, {next_at = next_us}, nil, project_of(text))
return 1
