-- Whether a beat pass is due, and if so notes that it begins now; so two beats, or beat and agents, do it once.
-- ARGV: name, every_us.  Returns 1 or 0.
local now = now_us()
local last = tonumber(redis.call('HGET', 'launch:passes', ARGV[1]) or '0')
-- A clock that was set back must not stop the passes.
if last <= now and now - last < tonumber(ARGV[2]) then return 0 end
redis.call('HSET', 'launch:passes', ARGV[1], int(now))
return 1
