-- `finish` of a run that is not tried again, and `claim` of the next run, for the slot of a worker that comes free.
-- ARGV: slot, nonce, lease_us, host, version, number of queues that the worker consumes, number of lists, queue…, list…, and the
--   arguments of `finish`. The claim is a plain one, as `claim` explains it.
-- Claims nothing where the end is refused, and where others wait for it or for its place: to whom this call has promised a
-- place, that one would be full for the claim. A repeated call gets the same run.
-- Returns {the answer of `finish`, the answer of `claim`}; without the second one where nothing was claimed.
local slot, nonce, lease_us, host, version, num_queues, num_lists = unpack(ARGV, 1, 7)
local FIRST_QUEUE = 8
local first_list = FIRST_QUEUE + tonumber(num_queues)
local first_of_report = first_list + tonumber(num_lists)
local report, now = ENDS.report_of(ARGV, first_of_report), now_us()
local word, is_alone = ENDS.finish(report, now, {unpack(ARGV, FIRST_QUEUE, first_list - 1)})
local by = {nonce = nonce, lease_us = lease_us, owner = report.owner, worker = report.worker, host = host, plain = true,
  devices = {}, reads_version = tonumber(version), keeps_slot = true}
if is_alone and server.is_known then
  local answer = CLAIMS.next(slot, by, {unpack(ARGV, first_list, first_of_report - 1)})
  -- The slot that goes from run to run is not told of.
  if answer[1] ~= 1 then ENDS.note_room(report) end
  return {word, answer}
end
if is_alone then ENDS.note_room(report) end
-- There is one only if this call is repeated.
local taken = word == 'done' and server.is_known and CLAIMS.taken(slot, by)
return taken and {word, CLAIMS.claim(taken, '', by)} or {word}
