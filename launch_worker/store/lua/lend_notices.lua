-- Lends the notices of a channel that are due to one sender, for a while.
-- ARGV: channel, holder, lease_us (0: the holder gives the channel back), count
-- While one sender holds a channel no other gets its notices; a sender that holds it may call again.
-- Returns {'held', until, holder} for a channel that another sender holds, {'paused', until} while its receiver is not to be
-- asked, else {'due', the time of the next notice ('' for none), tries in a row that have failed, then for each notice:
-- id, time of this try, number of tries, mark ('' for none), facts}.
local channel, holder, lease_us, count = unpack(ARGV)
local state, now = NOTICES.key(channel, 'state'), now_us()
local by, till, paused, failures = unpack(redis.call('HMGET', state, 'holder', 'until', 'paused_until', 'failures'))
till = tonumber(till or '') or 0
if by and by ~= holder and till > now then return {'held', int(till), by} end
if lease_us == '0' then
  if by == holder then redis.call('HDEL', state, 'holder', 'until') end
  return {'due', ''}
end
if (tonumber(paused or '') or 0) > now then return {'paused', paused} end
local due = redis.call('ZRANGEBYSCORE', NOTICES.key(channel), '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, at_most(count, MOST_AT_ONCE))
if #due == 0 then
  local first = redis.call('ZRANGE', NOTICES.key(channel), 0, 0, 'WITHSCORES')
  if by == holder then redis.call('HDEL', state, 'holder', 'until') end
  return {'due', first[2] and int(tonumber(first[2])) or ''}
end
redis.call('HSET', state, 'holder', holder, 'until', int(now + tonumber(lease_us)))
local answer = {'due', int(now), failures or '0'}
for at = 1, #due, 2 do
  local id = due[at]
  local facts = redis.call('HGET', NOTICES.key(channel, 'notices'), id)
  if facts then
    local tries, mark = unpack(redis.call('HMGET', NOTICES.key(channel, 'tries'), id, 'mark:' .. id))
    for _, word in ipairs({id, int(tonumber(due[at + 1])), tries or '0', mark or '', facts}) do answer[#answer + 1] = word end
  else
    redis.call('ZREM', NOTICES.key(channel), id)
  end
end
return answer
