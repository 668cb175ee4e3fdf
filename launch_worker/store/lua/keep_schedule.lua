-- Sets a schedule (a recurring submission).  ARGV: name, the schedule (JSON), its next time (us), actor; '' for
-- schedule and time deletes it.
-- Returns 1, or 0 where there was none to delete.
local name, text, next_us, actor = unpack(ARGV)
local now = now_us()
if text == '' then
  redis.call('DEL', 'launch:schedule:' .. name, 'launch:schedule:' .. name .. ':run')
  local was_there = redis.call('ZREM', 'launch:schedules', name)
  if was_there == 1 then add_act('schedule', name, 'deleted', actor, now) end
  return was_there
end
redis.call('SET', 'launch:schedule:' .. name, text)
local is_added = redis.call('ZADD', 'launch:schedules', next_us, name) == 1
redis.call('PUBLISH', 'launch:due', next_us)
add_act('schedule', name, is_added and 'created' or 'changed', actor, now, {next_at = next_us})
return 1
