-- Ends the lease of a held Running run, whose job is known to have ended: the run may become Crashed now.
-- ARGV: id, token, actor.  Refuses an attempt that is not held.  Returns 1 or 0.
local id, token, actor = unpack(ARGV)
local run = get(id, 'state', 'token', 'held')
if run[1] ~= 'Running' or run[2] ~= token or run[3] ~= token then return 0 end
drop(id, 'held')
local now = now_us()
redis.call('ZADD', 'launch:leases', int(now), id)
add_act('act', id, 'confirm', actor, now)
return 1
