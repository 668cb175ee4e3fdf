-- Notes that a process sends notices, and what channels there are.
-- ARGV: life_us, names of the channels with blanks between, then for each project that tells: project, notify
-- The names expire with the process; what projects tell holds until it is said anew.
local life_us, names = unpack(ARGV, 1, 2)
local FIRST_PROJECT = 3
redis.call('SET', 'launch:notify:sender', names, 'PX', int(math.max(1, math.floor(tonumber(life_us) / 1000))))
local kept = {}
for at = FIRST_PROJECT, #ARGV, 2 do
  kept[ARGV[at]] = true
  redis.call('HSET', 'launch:notify:projects', ARGV[at], ARGV[at + 1])
end
local known = redis.call('HGETALL', 'launch:notify:projects')
for at = 1, #known, 2 do
  if not kept[known[at]] then redis.call('HDEL', 'launch:notify:projects', known[at]) end
end
return 1
