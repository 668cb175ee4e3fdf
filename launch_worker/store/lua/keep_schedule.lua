-- Sets a schedule (a recurring submission).  ARGV: name, the schedule (JSON), its next time (us); '' for both deletes
-- it.
-- Returns 1, or 0 where there was none to delete.
local name, text, next_us = unpack(ARGV)
if text == '' then
  redis.call('DEL', 'launch:schedule:' .. name, 'launch:schedule:' .. name .. ':run')
  return redis.call('ZREM', 'launch:schedules', name)
end
redis.call('SET', 'launch:schedule:' .. name, text)
redis.call('ZADD', 'launch:schedules', next_us, name)
redis.call('PUBLISH', 'launch:due', next_us)
return 1
