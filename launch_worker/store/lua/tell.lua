-- Notes what the job of a Running (or Crashed) attempt sent: its summary, metrics, a message.
-- ARGV: id, token, end (bytes that the job has written so far), summary as the caller knows it, summary ('' for no
--   change), message ('' for none), preempting (1: the job says that its machine is being taken away), rows of metrics
--   as JSON…
-- Refuses an attempt that was superseded or is over. A repeated call changes nothing.
-- Returns 'done' | 'superseded' | 'stale' (the record has another summary than the caller knows) | 'unknown' (there is
--   no record).
local id, token, read_to, known, summary, message, preempting = unpack(ARGV, 1, 7)
local FIRST_ROW = 8
local run = get(id, 'state', 'token', 'closed', 'heard', 'summary', 'cancel_at')
if not run[1] then return 'unknown' end
if run[2] ~= token or run[3] == token or (run[1] ~= 'Running' and run[1] ~= 'Crashed') then return 'superseded' end
local of, before = string.match(run[4] or '', '^(%d+):(%d+)$')
if of ~= token then before = '-1' end
if tonumber(read_to) < tonumber(before) then return 'done' end
if summary ~= '' then
  if (run[5] or '') ~= known then return 'stale' end
  put(id, 'summary', summary)
end
local metrics = run_key(id) .. ':metrics'
-- A call whose reply was lost is repeated as it was, and its rows are not added again.
if #ARGV >= FIRST_ROW and tonumber(read_to) > tonumber(before) then
  for index = FIRST_ROW, #ARGV do redis.call('RPUSH', metrics, ARGV[index]) end
  redis.call('LTRIM', metrics, -1000, -1)
  SWEEPS.keep_metrics(id, {unpack(ARGV, FIRST_ROW)})
end
if message ~= '' and run[1] == 'Running' and not run[6] then put(id, 'reason', message) end
if preempting == '1' then put(id, 'yields', token) end
put(id, 'heard', token .. ':' .. read_to)
redis.call('PUBLISH', 'launch:news:' .. id, 'told')
return 'done'
