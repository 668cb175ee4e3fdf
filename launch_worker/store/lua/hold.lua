-- Holds a Running run whose worker is gone, while it is not known whether the attempt's job has ended. The record's
-- field `held` is the attempt's token then, and the lease does not run out: no pass gives the run to another worker.
-- The run is held until `release`, `adopt`, a heartbeat of the worker, or the attempt's end.
-- ARGV: id, token, owner (whose attempt it is)
-- Refuses an attempt that another worker has taken over, or that does not run. A repeated call changes nothing.
-- Returns 'held' | 'adopted' | 'over'.
local id, token, owner = unpack(ARGV)
local run = get(id, 'state', 'token', 'owner')
if run[1] ~= 'Running' or run[2] ~= token then return 'over' end
if run[3] and run[3] ~= owner then return 'adopted' end
put(id, 'held', token)
redis.call('ZADD', 'launch:leases', int(LATER), id)
return 'held'
