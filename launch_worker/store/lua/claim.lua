-- Pending -> Running, with a new attempt, a new fencing token and a lease. Crashed -> Pending for a repeated call that
-- was silent too long.
-- ARGV: id, seq, nonce, lease_us, owner, worker, host, capacity (free capacity of the worker without this slot; '' for any
--   run), devices (JSON: ids of its free GPUs), version (the newest format of items that it reads), plain (1: only a
--   run that needs nothing of which a worker has a limited amount), list…
-- With '' for id, and the caller's slot for seq, it pops the next item of the lists itself, in the order of the lists,
-- until a run can be claimed. An item that is not a run's is left to the broker's client, with all items behind it.
-- Refuses an item whose dispatch number is not the record's, and an item of a run whose queue the owner is not known to
-- consume (`launch:consumers`, which workers alone write), whatever list it was in.
-- Does something else with a run that
--   has a damaged record: it is Failed;
--   has expired, or is of a group of which too many runs failed: it is Killed;
--   breaks a limit: it is parked;
--   does not fit into this worker: it is given to another worker, or parked;
--   shall not be tried again by this worker, or is one of those that it fails to start now, and another one may take it: it is given to that one, or parked;
--   is a scheduler, and this worker may run no more of them: it is given to another worker, or looked at again later;
--   has a newer format: it is parked in the group version:N, from which newer workers fetch it (heartbeat).
-- A repeated nonce gets the same answer. A worker can make plain claims at the same time; a plain claim of a run that
-- is not plain does nothing.
-- Returns {1, the record's fields and values, those that are other, with id, queue_config, and waiting (number of items in
--   its list), nil for one that is gone},
--   {0, reason ('' when nothing waits)}, {2, ''} for a run that is not plain, {3, queue, id, seq} for a run whose queue
--   the owner is not known to consume, or an error LAUNCHNEW where `admit` is to be called first.
local id, seq, nonce, lease_us, owner, worker, host, capacity, devices, reads_version, plain = unpack(ARGV, 1, 11)
local FIRST_LIST = 12
if not server.is_known then return redis.error_reply('LAUNCHNEW nobody has looked at this server yet') end
local by = {nonce = nonce, lease_us = lease_us, owner = owner, worker = worker, host = host, plain = plain == '1',
  capacity = capacity_of(capacity), devices = devices == '[]' and {} or cjson.decode(devices),
  reads_version = tonumber(reads_version)}
if id ~= '' then return CLAIMS.claim(id, seq, by) end
local slot = seq
-- There is one by now only if this call is repeated.
local taken = CLAIMS.taken(slot, by)
if taken then return CLAIMS.claim(taken, '', by) end
return CLAIMS.next(slot, by, {unpack(ARGV, FIRST_LIST)})
