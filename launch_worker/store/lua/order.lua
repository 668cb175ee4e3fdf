-- Orders a worker to drain, to upgrade or to resume.  ARGV: owner, word, actor
-- Returns 1, or 0 where the worker does not listen.
local owner, word, actor = unpack(ARGV)
if redis.call('PUBLISH', 'launch:admin:' .. owner, cjson.encode({order = word})) == 0 then return 0 end
add_act('worker', owner, word, actor, now_us())
return 1
