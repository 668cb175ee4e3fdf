-- Registers a reader of the change feed, or renews its registration: the stream of changes is there for life_us.
-- ARGV: life_us
-- A new stream begins with an entry of the kind `feed`: what happened before is not told. A key that is no stream is
-- set aside. A stream with an entry of the future is made anew: no later change could be told after that one.
-- Returns 1 where the stream was there, so that nothing was missed, and 0 for a new one.
local life_us = tonumber(ARGV[1])
local HOUR_MS = 3600000
local now = now_us()
heal(FEED, 'stream')
local newest = redis.call('XREVRANGE', FEED, '+', '-', 'COUNT', 1)[1]
if newest and tonumber(string.match(newest[1], '^%d+')) > now / 1000 + HOUR_MS then redis.call('DEL', FEED) end
local was_there = redis.call('EXISTS', FEED)
if was_there == 0 then redis.call('XADD', FEED, '*', 'kind', 'feed', 'at', int(now)) end
redis.call('PEXPIRE', FEED, int(math.max(1, math.floor(life_us / 1000))))
return was_there
