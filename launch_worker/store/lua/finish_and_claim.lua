-- `finish` of a run that is not tried again, and `claim` of the next run, for the slot of a worker that comes free.
-- ARGV: slot, nonce, lease_us, host, version, number of queues that the worker consumes, number of lists, queue…, list…, and the
--   arguments of `finish`. The claim is a plain one, as `claim` explains it.
-- Claims nothing where the end is refused. A repeated call gets the same run.
-- Returns {the answer of `finish`, the answer of `claim`}; without the second one where nothing was asked for.
local slot, nonce, lease_us, host, version, num_queues, num_lists = unpack(ARGV, 1, 7)
local FIRST_QUEUE = 8
local first_list = FIRST_QUEUE + tonumber(num_queues)
local first_of_report = first_list + tonumber(num_lists)
local report, now = ENDS.report_of(ARGV, first_of_report), now_us()
local word, is_alone = ENDS.finish(report, now, {unpack(ARGV, FIRST_QUEUE, first_list - 1)})
-- The slot of the ended run is the next one's. Where parked runs may get it the worker tells first what it has.
if not is_alone then ENDS.offer_room(report.owner, capacity_of(report.capacity), now) end
if word ~= 'done' or not server.is_known then return {word} end
local by = {nonce = nonce, lease_us = lease_us, owner = report.owner, worker = report.worker, host = host, plain = true,
  devices = {}, reads_version = tonumber(version), keeps_slot = is_alone}
local taken, answer = not is_alone and CLAIMS.taken(slot, by), nil
if taken then
  answer = CLAIMS.claim(taken, '', by)
else
  answer = CLAIMS.next(slot, by, {unpack(ARGV, first_list, first_of_report - 1)})
end
if is_alone and answer[1] ~= 1 then keep_free(report.owner, capacity_of(report.capacity)) end
return {word, answer}
