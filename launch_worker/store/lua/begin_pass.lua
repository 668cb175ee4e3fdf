-- Whether a beat pass is due, and if so notes that it begins now; so two beats, or beat and agents, do it once.
-- ARGV: name, every_us, gap_us (0: not guarded), settle_ms.  Returns 1 or 0.
-- A guarded pass that did not run for `gap_us`, or whose last time lies in the future, finds a Redis that was away, or
-- a clock that jumped: every lease looks dead then. Workers get `settle_ms` to renew theirs first.
local name, every_us, gap_us = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_us()
local last = tonumber(redis.call('HGET', 'launch:passes', name) or '0')
if last <= now and now - last < every_us then return 0 end
redis.call('HSET', 'launch:passes', name, int(now))
if gap_us == 0 then return 1 end
if last > now or now - last > gap_us then redis.call('SET', 'launch:settling', 1, 'PX', ARGV[4]) end
return 1 - redis.call('EXISTS', 'launch:settling')
