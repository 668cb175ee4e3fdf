-- A recurring submission, from now on.  ARGV: name, what it is (JSON), its next time (us); '' for both takes it away.
-- Returns 1, or 0 where there was none to take away.
local name, text, next_us = unpack(ARGV)
if text == '' then
  redis.call('DEL', 'launch:schedule:' .. name, 'launch:schedule:' .. name .. ':run')
  return redis.call('ZREM', 'launch:schedules', name)
end
redis.call('SET', 'launch:schedule:' .. name, text)
redis.call('ZADD', 'launch:schedules', next_us, name)
redis.call('PUBLISH', 'launch:due', next_us)
return 1
