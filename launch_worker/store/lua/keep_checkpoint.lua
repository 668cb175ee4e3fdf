-- Notes the newest complete state of a run's folder of checkpoints, which is stored by now: from here on the next attempt
-- goes on from it. Also after the attempt's end, until the run has another attempt.
-- ARGV: id, token, owner ('' speaks for any owner), attempt, number (within the attempt), files, bytes
-- Refuses a superseded attempt, an owner whose job another worker took over, and an attempt that a person has had begun
-- anew. A repeated call changes nothing, and an older state is superseded: clocks may be set back.  Returns 'done' | 'superseded' | 'unknown' (Redis has lost the record, or its newest writes).
local id, token, owner, attempt, number, files, bytes = unpack(ARGV)
local run = get(id, 'state', 'token', 'owner', 'checkpoint', 'fresh_from')
if not run[1] and redis.call('EXISTS', run_key(id) .. ':deleted') == 1 then return 'superseded' end
if not run[1] or is_rolled_back(run[2], token) then return 'unknown' end
if tonumber(run[5] or '0') > tonumber(attempt) then return 'superseded' end
if run[2] ~= token or owner ~= '' and run[3] and run[3] ~= owner then return 'superseded' end
local of, known = string.match(run[4] or '', '^{"attempt":(%d+),"number":(%d+),')
if known and tonumber(of) == tonumber(attempt) then
  if tonumber(known) > tonumber(number) then return 'superseded' end
  if tonumber(known) == tonumber(number) then return 'done' end
end
put(id, 'checkpoint', string.format('{"attempt":%s,"number":%s,"files":%s,"bytes":%s,"at":%s}',
  int(attempt), int(number), int(files), int(bytes), int(now_us())))
return 'done'
