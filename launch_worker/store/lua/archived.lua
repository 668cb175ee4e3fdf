-- Registers an archive, and notes ended runs that an archive has: these may be deleted after their retention.
-- ARGV: archive (its name, after a space where it deletes logs, after a tab where it deletes outputs; '' registers none), life_us (of the registration), then id and ended_at of each run
-- Refuses a run that has another end by now, or none.  Returns the number of runs that were noted.
local archive, life_us = unpack(ARGV, 1, 2)
local FIRST_RUN = 3
if archive ~= '' then
  redis.call('SET', 'launch:archive', archive, 'PX', int(math.max(1, math.floor(tonumber(life_us) / 1000))))
end
local noted = 0
for at = FIRST_RUN, #ARGV, 2 do
  local id, ended_at = ARGV[at], tonumber(ARGV[at + 1])
  local known = tonumber(redis.call('ZSCORE', 'launch:ended', id) or '')
  if known and known == ended_at then
    redis.call('ZREM', 'launch:ended', id)
    redis.call('ZADD', 'launch:archived', int(ended_at), id)
    noted = noted + 1
  end
end
return noted
