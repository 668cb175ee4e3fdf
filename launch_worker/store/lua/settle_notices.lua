-- Notes what became of notices that a sender was lent.
-- ARGV: channel, holder, lease_us, what, next_us, pause_us, words, mark, id, …
-- what: sent | refused (the receiver will never take them) | given_up | unknown (there is no such channel): deleted and
--   counted; later: tried again at next_us, and the receiver is left alone until pause_us; put_off: sent at next_us, no
--   try.  `words`: what went wrong. `mark`: kept with those that are tried again, '' for none.
-- After the receiver has failed three times in a row and takes a notice, all others are due at once.
-- Returns 1 where the holder has the channel still (its lease is renewed), else 0.
local channel, holder, lease_us, what, next_us, pause_us, words, mark = unpack(ARGV, 1, 8)
local FIRST_ID = 9
local key, state, tries, now = NOTICES.key(channel), NOTICES.key(channel, 'state'), NOTICES.key(channel, 'tries'), now_us()
local ids = {unpack(ARGV, FIRST_ID)}
if what == 'later' or what == 'put_off' then
  for _, id in ipairs(ids) do
    redis.call('ZADD', key, 'XX', next_us, id)
    if what == 'later' then redis.call('HINCRBY', tries, id, 1) end
    if mark ~= '' then redis.call('HSET', tries, 'mark:' .. id, mark) end
  end
else
  local gone = NOTICES.drop(channel, ids)
  redis.call('HINCRBY', state, what, gone)
  if what ~= 'sent' then
    redis.call('HINCRBY', 'launch:counters', 'notices_' .. what, gone)
    redis.call('HSET', 'launch:counters', 'notices_lost_at', int(now))
  end
end
if what == 'later' then
  if not redis.call('HGET', state, 'failing_since') then redis.call('HSET', state, 'failing_since', int(now)) end
  redis.call('HINCRBY', state, 'failures', 1)
  redis.call('HSET', state, 'paused_until', pause_us, 'error', words)
elseif what == 'sent' then
  local failures = tonumber(redis.call('HGET', state, 'failures') or '') or 0
  redis.call('HSET', state, 'sent_at', int(now))
  if failures > 0 then redis.call('HDEL', state, 'failures', 'failing_since', 'paused_until', 'error') end
  if failures >= 3 then
    for _, id in ipairs(redis.call('ZRANGE', key, 0, 999)) do
      -- What is put off for the night waits on.
      if not redis.call('HGET', tries, 'mark:' .. id) then redis.call('ZADD', key, 'XX', int(now), id) end
    end
  end
elseif words ~= '' then
  redis.call('HSET', state, 'error', words)
end
if redis.call('HGET', state, 'holder') ~= holder then return 0 end
redis.call('HSET', state, 'until', int(now + tonumber(lease_us)))
return 1
